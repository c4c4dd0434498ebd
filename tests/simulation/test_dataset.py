"""A simulated set: what is written, that it holds what was asked for, and that truth stays apart."""

import json
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from cryoloom.cli.simulate import register
from cryoloom.maps.io import DensityMap, read_map, write_map
from cryoloom.particles.formats.relion.star import read_star
from cryoloom.physics.ctf import CTFParameters
from cryoloom.physics.rotations import from_euler
from cryoloom.simulation.dataset import simulate_dataset, simulate_demo
from cryoloom.simulation.images import noise_spectrum
from cryoloom.simulation.projector import Projector
from cryoloom.simulation.states import StateGeometry, StateSource, load_states, resample_map, sources_of
from cryoloom.simulation.truth import SimulationSettings

BOX, PIXEL = 24, 4.0


def _state(seed: int) -> DensityMap:
    """A smooth asymmetric object well inside its box."""
    g = torch.Generator().manual_seed(seed)
    axis = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    centres = (torch.rand(6, 3, generator=g) - 0.5) * 0.5 * BOX
    gauss = torch.exp(-0.5 * ((axis - centres[..., None]) / 1.7) ** 2)
    return DensityMap(torch.einsum("gz,gy,gx->zyx", *gauss.unbind(1)), PIXEL)


STATES = (_state(1), _state(2), _state(3))
FULL = SimulationSettings(
    count=400,
    seed=4,
    shares=(6.0, 3.0, 1.0),
    noise_colour=4.0,
    contrast=0.15,
    junk=0.2,
    optics_groups=3,
    astigmatism_angstrom=900.0,
    images_per_micrograph=25,
)


def _truth(folder: Path):
    return pd.DataFrame({k: list(v) for k, v in read_star(folder / "truth.star").block("particles").columns.items()})


def test_noise_free_limit_is_the_image_model(tmp_path: Path) -> None:
    """At a huge SNR each image is the projection that truth.star and the scaled truth map say, read back from disk."""
    simulate_dataset(STATES[:2], replace(FULL, snr=1e6, shares=(), noise_colour=0.0, contrast=0.0, junk=0.0), tmp_path)
    table, images = _truth(tmp_path), mrcfile.read(tmp_path / "particles.mrcs")
    number = {tag: table[tag].astype(float).to_numpy(copy=True) for tag in table.columns if not tag.endswith("Name")}
    group = number["rlnOpticsGroup"].astype(int) - 1
    kv, cs, w = (np.array(v)[group] for v in ((300.0, 200.0, 300.0), (2.7, 2.0, 0.01), (0.1, 0.07, 0.1)))
    ctf = CTFParameters.create(
        torch.from_numpy(number["rlnDefocusU"]),
        torch.from_numpy(number["rlnDefocusV"]),
        astigmatism_radian=torch.from_numpy(np.radians(number["rlnDefocusAngle"])),
        voltage_kv=torch.from_numpy(kv),
        spherical_aberration_mm=torch.from_numpy(cs),
        amplitude_contrast=torch.from_numpy(w),
    )
    euler = np.stack([number[f"rlnAngle{a}"] for a in ("Rot", "Tilt", "Psi")], -1)
    t = -np.stack([number["rlnOriginXAngst"], number["rlnOriginYAngst"]], -1)
    for state in (1, 2):
        rows = np.flatnonzero(number["rlnClassNumber"] == state)
        assert len(rows) > 50
        projector = Projector(read_map(tmp_path / f"truth_{state:03d}.mrc").data, PIXEL)
        clean = projector.images(
            projector.coefficients(from_euler(torch.from_numpy(euler[rows])), torch.from_numpy(t[rows]), ctf[rows])
        ).numpy()
        residual = images[rows] - clean
        assert np.std(residual) == pytest.approx(1.0, abs=0.03)  # the signal's s.d. is 1000


def test_snr_and_noise_are_what_was_asked(tmp_path: Path) -> None:
    summary = simulate_dataset(STATES[:1], SimulationSettings(count=600, snr=0.25, seed=3), tmp_path)
    assert summary.snr_measured == pytest.approx(0.25, rel=0.01)
    images = mrcfile.read(tmp_path / "particles.mrcs").astype(float)
    assert images.var(axis=(1, 2)).mean() == pytest.approx(1.25, rel=0.02)


def test_noise_spectrum_has_its_colour_and_unit_variance(tmp_path: Path) -> None:
    settings = SimulationSettings(count=400, seed=1, noise_only=True, noise_colour=4.0)
    summary = simulate_dataset(STATES[:1], settings, tmp_path)
    images = mrcfile.read(tmp_path / "particles.mrcs").astype(float)
    assert images.var() == pytest.approx(1.0, rel=0.01)
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(0)
    f = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.hypot(f[:, None], f[None])).astype(int)
    measured = np.bincount(shell.ravel(), power.ravel()) / np.bincount(shell.ravel())
    np.testing.assert_allclose(measured, noise_spectrum(BOX, 4.0).numpy(), rtol=0.2)
    assert measured[0] / measured[8] == pytest.approx(5.0, rel=0.2)
    assert (summary.junk, summary.per_state) == (400, (0,))
    assert not list(tmp_path.glob("truth_*.mrc"))


def test_full_set_holds_its_nuisances(tmp_path: Path) -> None:
    summary = simulate_dataset(STATES, FULL, tmp_path)
    table = _truth(tmp_path)
    state = table["rlnClassNumber"].astype(int).to_numpy()
    assert np.bincount(state).tolist() == [summary.junk, *summary.per_state]
    assert summary.junk == pytest.approx(80, abs=25)
    assert summary.per_state[0] > summary.per_state[1] > summary.per_state[2] > 0
    images = mrcfile.read(tmp_path / "particles.mrcs")
    assert images.shape == (400, BOX, BOX)
    assert np.isfinite(images).all()
    # junk is as strong as molecules: 0.1 of the noise
    junk, molecule = (images[state == 0].var(axis=(1, 2)).mean(), images[state > 0].var(axis=(1, 2)).mean())
    assert junk == pytest.approx(molecule, rel=0.1)
    first = table.groupby("rlnMicrographName")["rlnDefocusU"].nunique()
    assert len(first) == 16
    assert (first == 1).all()


def test_particles_star_holds_no_truth(tmp_path: Path) -> None:
    simulate_dataset(STATES, FULL, tmp_path)
    star, truth = read_star(tmp_path / "particles.star"), read_star(tmp_path / "truth.star")
    tags, more = (set(s.block("particles").columns) for s in (star, truth))
    assert more - tags == {
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnClassNumber",
    }
    assert len(star.block("optics")) == 3


def test_views_are_uniform_or_preferred(tmp_path: Path) -> None:
    for share in (0.0, 0.5):
        simulate_dataset(STATES[:1], SimulationSettings(count=800, preferred=share), tmp_path, overwrite=True)
        tilt = _truth(tmp_path)["rlnAngleTilt"].astype(float).to_numpy()
        top = (tilt < 20).mean()
        assert top == pytest.approx(share + (1 - share) * 0.03, abs=0.04)


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (4, 4, 5), strict=True):
        simulate_dataset(STATES, replace(FULL, seed=seed), folder)
    names = sorted(p.name for p in folders[0].iterdir())
    maps = [f"truth_00{i}.mrc" for i in (1, 2, 3)]
    assert names == ["particles.mrcs", "particles.star", "simulate.json", "truth.star", *maps]
    for name in names:
        contents = [(folder / name).read_bytes() for folder in folders]
        assert contents[0] == contents[1], name
        assert contents[0] != contents[2], name


def test_float16_stack_is_valid_and_the_same_to_its_precision(tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        simulate_dataset(STATES, replace(FULL, dtype=dtype), tmp_path / dtype)
    a, b = (mrcfile.read(tmp_path / d / "particles.mrcs") for d in ("float32", "float16"))
    assert b.dtype == np.float16
    np.testing.assert_allclose(a, b.astype(np.float32), atol=5e-3)
    assert mrcfile.validate(tmp_path / "float32" / "particles.mrcs")
    with mrcfile.open(tmp_path / "float32" / "particles.mrcs") as stack:
        assert stack.is_image_stack()
        assert stack.header.mz == 1
        assert stack.header.rms == pytest.approx(a.std(dtype=np.float64), rel=1e-4)
        assert float(stack.voxel_size.x) == pytest.approx(PIXEL)


def test_a_set_is_not_overwritten_unasked(tmp_path: Path) -> None:
    simulate_dataset(STATES[:1], SimulationSettings(count=5), tmp_path)
    with pytest.raises(ValueError, match="holds a particle set"):
        simulate_dataset(STATES[:1], SimulationSettings(count=5), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"snr": 0.0},
        {"shares": (1.0, 2.0)},
        {"defocus_angstrom": (1.0, 2.5)},
        {"junk": 1.0},
        {"preferred": 1.5},
        {"dtype": "int8"},
        {"optics_groups": 0},
        {"defocus_angstrom": (2e4, 1e4)},
    ],
)
def test_senseless_settings_are_refused_before_anything_is_written(tmp_path: Path, change: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        simulate_dataset(STATES[:1], replace(SimulationSettings(count=5), **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failure_leaves_no_stack(tmp_path: Path) -> None:
    def stop(images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(STATES[:1], SimulationSettings(count=50), tmp_path, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_resampled_map_keeps_its_content_and_frame() -> None:
    fine = DensityMap(torch.from_numpy(_gaussian(60, 1.5, (6.0, -9.0, 12.0), 6.0)), 1.5)
    coarse = resample_map(fine, 40, 2.7)
    assert coarse.pixel_size == pytest.approx(2.7, rel=2e-4)
    expected = _gaussian(40, coarse.pixel_size, (6.0, -9.0, 12.0), 6.0)
    assert np.abs(coarse.data.numpy() - expected).max() < 2e-3


def _gaussian(box: int, pixel_size: float, centre: tuple[float, float, float], width: float) -> np.ndarray:
    axis = (np.arange(box) - box // 2) * pixel_size
    x, y, z = (np.exp(-0.5 * ((axis - c) / width) ** 2) for c in centre)
    return (z[:, None, None] * y[None, :, None] * x[None, None, :]).astype(np.float32)


def test_states_of_a_trajectory_share_one_frame(tmp_path: Path) -> None:
    xyz = np.zeros((3, 2, 3))
    xyz[:, 0, 0], xyz[:, 1, 0] = (-20.0, -20.0, -20.0), (20.0, 24.0, 28.0)
    np.savez(tmp_path / "path.npz", xyz=xyz, name=np.array(["CA", "CB"]))
    sources = sources_of([tmp_path / "path.npz"], "0:3:2,1")
    assert [s.frame for s in sources] == [0, 2, 1]
    states = load_states(sources, StateGeometry(box=32, pixel_size=2.0, b_factor_angstrom2=50.0))
    peaks = [sorted(np.argsort(s.data.numpy().ravel())[-2:] % 32) for s in states]
    assert peaks == [[6, 26], [6, 30], [6, 28]]


def test_models_and_maps_do_not_mix(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", STATES[0])
    np.savez(tmp_path / "b.npz", xyz=np.zeros((1, 3)), name=np.array(["C"]))
    with pytest.raises(ValueError, match="mixed"):
        load_states([StateSource(tmp_path / "a.mrc"), StateSource(tmp_path / "b.npz", 0)], StateGeometry())


def test_demo_needs_no_file(tmp_path: Path) -> None:
    summary = simulate_demo(tmp_path, count=20, seed=2)
    assert (summary.count, summary.box, summary.pixel_size) == (20, 64, 4.0)


def test_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    write_map(tmp_path / "map.mrc", STATES[0])
    arguments = [
        "simulate",
        str(tmp_path / "map.mrc"),
        str(tmp_path / "map.mrc"),
        "-o",
        str(tmp_path / "set"),
        "--n",
        "30",
        "--shares",
        "2,1",
        "--defocus",
        "8000",
        "9000",
        "--seed",
        "7",
        "--dtype",
        "float16",
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "30 images of 24 px at 4 A" in result.output
    record = json.loads((tmp_path / "set" / "simulate.json").read_text())
    assert record["settings"]["seed"] == 7
    assert record["images_per_state"][0] + record["images_per_state"][1] == 30


@pytest.mark.gpu
def test_gpu_makes_the_same_set_but_for_its_noise(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    summaries = [simulate_dataset(STATES, FULL, tmp_path / d, device=d) for d in ("cpu", "cuda")]
    assert summaries[0].snr_measured == pytest.approx(summaries[1].snr_measured, rel=1e-4)
    assert (tmp_path / "cpu" / "truth.star").read_bytes() == (tmp_path / "cuda" / "truth.star").read_bytes()
    images = [mrcfile.read(tmp_path / d / "particles.mrcs").astype(float) for d in ("cpu", "cuda")]
    assert images[0].var() == pytest.approx(images[1].var(), rel=0.02)
