"""cryoloom fsc: the numbers of a curve that is known."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from cryoloom.cli.fsc import register
from cryoloom.maps.align import apply_rigid, mirrored
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.physics.rotations import from_euler

BOX, PIXEL = 32, 3.0


def _invoke(*arguments: object):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["fsc", "--threads", "1", *map(str, arguments)])


def _object() -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    axis = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    centres = (torch.rand(15, 3, generator=g, dtype=torch.float64) - 0.5) * 0.4 * BOX
    gauss = torch.exp(-0.5 * ((axis - centres[..., None]) / 1.4) ** 2)
    return torch.einsum("gz,gy,gx->zyx", *gauss.unbind(1))


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, Path]:
    """Two maps that share their transform up to shell 9 and nothing beyond."""
    g = torch.Generator().manual_seed(6)
    f = torch.fft.fftfreq(BOX, 1 / BOX)
    radius = (f[:, None, None] ** 2 + f[:, None] ** 2 + f[: BOX // 2 + 1].abs() ** 2).sqrt().round()
    a, b = (torch.fft.rfftn(torch.randn(BOX, BOX, BOX, generator=g)) for _ in range(2))
    b = torch.where(radius <= 9, a, b)
    paths = tmp_path / "a.mrc", tmp_path / "b.mrc"
    for path, transform in zip(paths, (a, b), strict=True):
        write_map(path, DensityMap(torch.fft.irfftn(transform, s=(BOX,) * 3), PIXEL))
    return paths


def test_curve_and_crossing(maps: tuple[Path, Path], tmp_path: Path) -> None:
    result = _invoke(*maps, "--csv", tmp_path / "curve.csv")
    assert result.exit_code == 0, result.output
    # between shells 9 and 10 the FSC falls from 1 to about 0
    found = re.search(r"FSC 0.5 +([\d.]+) A", result.output)
    assert found is not None
    assert BOX * PIXEL / 10 < float(found[1]) < BOX * PIXEL / 9
    shell, frequency, resolution, value = np.loadtxt(tmp_path / "curve.csv", delimiter=",", skiprows=1).T
    np.testing.assert_allclose(shell, np.arange(BOX // 2 + 1))
    np.testing.assert_allclose(resolution[1:], BOX * PIXEL / shell[1:], atol=1e-4)
    np.testing.assert_allclose(frequency, shell / (BOX * PIXEL), atol=1e-6)
    assert value[1:10].min() > 0.9999
    assert np.abs(value[10:]).max() < 0.25


def test_align_finds_rotation_and_hand(tmp_path: Path) -> None:
    R = from_euler(torch.tensor([40.0, 100.0, -60.0], dtype=torch.float64))
    fixed = _object()
    moved = mirrored(apply_rigid(fixed, R, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)))
    for name, data in (("a.mrc", fixed), ("b.mrc", moved)):
        write_map(tmp_path / name, DensityMap(data.float(), PIXEL))
    apart, together = (_mean(_invoke(tmp_path / "a.mrc", tmp_path / "b.mrc", *more)) for more in ((), ("--align",)))
    assert apart < 0.5
    assert together > 0.97


def _mean(result) -> float:
    assert result.exit_code == 0, result.output
    return float(result.output.split("mean to Nyquist")[1])


def test_mask_is_laid_on_both(maps: tuple[Path, Path], tmp_path: Path) -> None:
    write_map(tmp_path / "mask.mrc", DensityMap(torch.ones(BOX, BOX, BOX), PIXEL))
    assert _mean(_invoke(*maps, "--mask", tmp_path / "mask.mrc")) == _mean(_invoke(*maps))
    corner = torch.zeros(BOX, BOX, BOX)
    corner[:16, :16, :16] = 1
    write_map(tmp_path / "mask.mrc", DensityMap(corner, PIXEL))
    assert _mean(_invoke(*maps, "--mask", tmp_path / "mask.mrc")) != _mean(_invoke(*maps))


@pytest.mark.parametrize("change", ["box", "pixel"])
def test_maps_of_different_grids_are_refused(maps: tuple[Path, Path], tmp_path: Path, change: str) -> None:
    density = DensityMap(torch.ones(BOX, BOX, BOX), PIXEL)
    odd = replace(density, pixel_size=4.0) if change == "pixel" else replace(density, data=torch.ones(30, 30, 30))
    write_map(tmp_path / "c.mrc", odd)
    result = _invoke(maps[0], tmp_path / "c.mrc")
    assert isinstance(result.exception, ValueError)
    assert "one box and one pixel size" in str(result.exception)
