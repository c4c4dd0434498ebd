"""Axes of symmetric assemblies of a real molecule, turned, shifted and noisy; imposing on any map."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from cryoloom.maps.align import apply_rigid
from cryoloom.maps.fsc import crossing, fourier_shell_correlation
from cryoloom.maps.io import DensityMap, read_map
from cryoloom.maps.mask import soft_sphere
from cryoloom.maps.symmetry import SymmetryAxes, find_axes, impose, score_on_axes
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import geodesic_degrees, random_rotations, symmetry_group
from maps.half_maps import noisy_halves

Maker = Callable[[str], DensityMap]


def assembly(cloud: GaussianCloud, symmetry: str) -> GaussianCloud:
    group = symmetry_group(symmetry)
    return GaussianCloud(
        torch.cat([cloud.centres @ g.T for g in group]),
        cloud.widths.repeat(len(group)),
        cloud.masses.repeat(len(group)),
    )


@cache
def polyhedral(symmetry: str) -> DensityMap:
    """A few blobs off the axes, under all rotations of the group."""
    cloud = GaussianCloud.random(4, 22.0, 7.5, torch.Generator().manual_seed(3))
    seat = torch.tensor([58.0, 16.0, 23.0], dtype=torch.float64)
    unit = GaussianCloud(cloud.centres + seat, cloud.widths, cloud.masses)
    return DensityMap(assembly(unit, symmetry).density(48, 5.5).float(), 5.5)


def axes_error(found: SymmetryAxes, R: Tensor, t: Tensor) -> tuple[float, float]:
    """Largest angle between a true and a found element in the map's frame, and the distance of the centres."""
    group = symmetry_group(found.symmetry)
    true, estimated = R @ group @ R.T, found.R.T @ group @ found.R
    angle = max(min(float(geodesic_degrees(e, g)) for g in true) for e in estimated)
    offset = t + found.R.T @ found.t
    if found.symmetry.startswith("C"):
        offset = offset - R[:, 2] * (R[:, 2] @ offset)
    return angle, float(offset.norm())


@pytest.mark.parametrize(
    ("name", "noise"), [("c3", None), ("c3", 12.0), ("d7", 12.0), ("T", None), ("O", 12.0), ("I", None)]
)
def test_finds_axes_and_centre(molecule: Maker, name: str, noise: float | None, generator: torch.Generator) -> None:
    truth = polyhedral(name) if name in "TOI" else molecule(name)
    symmetry = name.upper()
    R = random_rotations(1, generator)[0]
    t = torch.tensor([2.3, -3.1, 1.7], dtype=torch.float64) * truth.pixel_size
    moved = apply_rigid(truth.data, R, t, truth.pixel_size)
    if noise:
        moved = noisy_halves(moved, noise, generator)[0] * soft_sphere(len(moved), 0.42 * len(moved), 4)
    found = find_axes(moved, symmetry, truth.pixel_size, 12)
    angle, distance = axes_error(found, R, t)
    assert angle < (2.0 if noise else 0.1)  # measured: up to 1.3 with noise, 0.02 without
    assert distance < (0.3 if noise else 0.02) * truth.pixel_size
    assert found.score > (0.4 if noise else 0.98)
    on_axes = apply_rigid(moved, found.R, found.t, truth.pixel_size)
    averaged = impose(on_axes, symmetry)
    assert averaged.shape == on_axes.shape
    if noise:
        # the copies' noise averages out
        reference = apply_rigid(truth.data, found.R @ R, found.R @ t + found.t, truth.pixel_size)
        mask = soft_sphere(len(moved), 0.42 * len(moved), 4)
        curves = [fourier_shell_correlation(m * mask, reference * mask) for m in (on_axes, averaged)]
        assert crossing(curves[1], 0.5) > crossing(curves[0], 0.5) + 1
    else:
        assert fourier_shell_correlation(averaged, on_axes)[1:-1].min() > 0.99


@pytest.mark.parametrize(("name", "other"), [("I", "I2"), ("I2", "I1"), ("O", "I"), ("D7", "C5"), ("C3", "C2")])
def test_a_map_on_its_axes_is_told_from_one_that_is_not(molecule: Maker, name: str, other: str) -> None:
    polyhedron = name in ("I", "I2", "O")
    volume = (polyhedral(name) if polyhedron else molecule(name.lower())).data
    assert score_on_axes(volume, name, 12) > 0.95
    assert score_on_axes(volume, other, 12) < 0.4
    if polyhedron:
        return
    turned = apply_rigid(volume, random_rotations(1, torch.Generator().manual_seed(1))[0], torch.zeros(3), 1.0)
    assert score_on_axes(turned, name, 12) < 0.4


def test_real_groel_lies_on_its_axes(shared_data: object, molecule: Maker) -> None:
    m = read_map(f"{shared_data}/maps/emd_1997_groel.map")
    found = find_axes(m.data, "D7", m.pixel_size, 12)
    assert found.score > 0.9
    seven = symmetry_group("D7")[:, :, 2]
    assert float(found.R[2, 2].abs()) > 0.999  # deposited with the sevenfold axis along z
    assert len(seven) == 14


@pytest.mark.parametrize("box", [40, 41])
@pytest.mark.parametrize("symmetry", ["C5", "D2", "T"])
def test_impose_is_the_mean_of_the_copies(box: int, symmetry: str, generator: torch.Generator) -> None:
    cloud = GaussianCloud.random(12, 26.0, 3.0, generator)
    averaged = impose(cloud.density(box, 2.0), symmetry)
    wanted = assembly(cloud, symmetry).density(box, 2.0) / len(symmetry_group(symmetry))
    assert float((averaged - wanted).norm() / wanted.norm()) < 3e-3  # measured 8e-4


def test_impose_c1_copies(generator: torch.Generator) -> None:
    v = torch.randn(8, 8, 8, generator=generator)
    out = impose(v, "C1")
    assert torch.equal(out, v)
    assert out is not v


def test_bad_input(molecule: Maker) -> None:
    truth = molecule("c3")
    with pytest.raises(ValueError, match="no axes"):
        find_axes(truth.data, "C1", 1.0)
    with pytest.raises(ValueError, match="point group"):
        find_axes(truth.data, "X9", 1.0)
    with pytest.raises(ValueError, match="cube"):
        find_axes(truth.data[:30], "C3", 1.0)
    with pytest.raises(ValueError, match="empty"):
        find_axes(torch.zeros(32, 32, 32), "C3", 1.0)
