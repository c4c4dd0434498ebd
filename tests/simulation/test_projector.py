"""Projections against an exact object, the reference slices, and RELION."""

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryoloom.maps.io import DensityMap, write_map
from cryoloom.physics.rotations import from_euler, random_rotations
from cryoloom.physics.slicing import extract_slices, volume_to_grid
from cryoloom.simulation.output import write_truth
from cryoloom.simulation.projector import Projector, image_variance
from cryoloom.simulation.states import StateGeometry, model_state
from cryoloom.simulation.structure import load_embedded_structure
from cryoloom.simulation.truth import SimulationSettings, draw_truth


def _cloud(box: int, pixel_size: float) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Centres, masses, width and density [z, y, x] of a Gaussian cloud, in plain numpy."""
    rng = np.random.default_rng(5)
    centres = rng.normal(0, 0.1 * box * pixel_size, (25, 3)).clip(-0.25 * box * pixel_size, 0.25 * box * pixel_size)
    masses, width = rng.uniform(0.5, 1.5, 25), 1.5 * pixel_size
    axis = (np.arange(box) - box // 2) * pixel_size
    gauss = np.exp(-0.5 * ((axis[None, None] - centres[:, :, None]) / width) ** 2)
    gauss *= pixel_size / (width * np.sqrt(2 * np.pi))
    return centres, masses, width, np.einsum("g,gz,gy,gx->zyx", masses, gauss[:, 2], gauss[:, 1], gauss[:, 0])


def _relion_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    a, b, g = np.radians([rot, tilt, psi])
    ca, sa, cb, sb, cg, sg = np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(g), np.sin(g)
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def _correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = ((x.double() - x.double().mean((1, 2), keepdim=True)).flatten(1) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


@pytest.mark.parametrize("box", [32, 33])
def test_images_of_a_cloud_are_gaussians_where_they_belong(box: int) -> None:
    """The centre of atom x lands at (A x)_xy + t for RELION's A; no code is shared with the package."""
    pixel_size = 3.0
    centres, masses, width, density = _cloud(box, pixel_size)
    euler = np.array([[20.0, 70.0, -110.0], [-150.0, 33.0, 80.0]])
    t = np.array([[4.0, -7.5], [0.0, 5.0]])
    projector = Projector(torch.from_numpy(density), pixel_size)
    images = projector.images(projector.coefficients(from_euler(torch.from_numpy(euler)), torch.from_numpy(t), None))
    axis = (np.arange(box) - box // 2) * pixel_size
    for image, angles, shift in zip(images.numpy(), euler, t, strict=True):
        at = centres @ _relion_matrix(*angles).T[:, :2] + shift
        gauss = np.exp(-0.5 * ((axis[None, None] - at[:, :, None]) / width) ** 2)
        gauss *= pixel_size / (width * np.sqrt(2 * np.pi))
        exact = np.einsum("g,gy,gx->yx", masses, gauss[:, 1], gauss[:, 0])
        # measured: 0.7 %
        assert np.linalg.norm(image - exact) / np.linalg.norm(exact) < 0.012


@pytest.mark.parametrize(("box", "padding"), [(24, 2), (25, 2), (25, 3)])
def test_slices_equal_the_reference(box: int, padding: int, generator: torch.Generator) -> None:
    volume = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    R = random_rotations(7, generator)
    projector = Projector(volume.float(), 2.0, padding)
    expected = extract_slices(volume_to_grid(volume, padding), R, projector.disc.index, padding)
    found = projector.slices(R)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_variance_of_an_image_from_its_coefficients(generator: torch.Generator) -> None:
    projector = Projector(torch.randn(20, 20, 20, generator=generator), 2.0)
    coefficients = projector.slices(random_rotations(4, generator))
    images = projector.images(coefficients).double()
    assert torch.allclose(image_variance(coefficients, projector.disc), images.var((1, 2), correction=0), rtol=1e-4)


def test_frozen_relion_projections(shared_data: Path) -> None:
    """RELION centres odd boxes one pixel off D // 2, on both axes."""
    folder = shared_data / "stacks_sim_conventions" / "relion_project"
    volume = torch.from_numpy(mrcfile.read(folder / "clean70SRibosome_vol_65p.mrc").copy())
    rows = [line.split() for line in (folder / "rln_proj_65.star").read_text().splitlines() if "@" in line]
    euler = torch.tensor([[float(x) for x in row[:3]] for row in rows], dtype=torch.float64)
    with (folder / "rln_proj_65.mrcs").open("rb") as file:
        data = np.frombuffer(file.read()[-5 * 65 * 65 * 4 :], "<f4").reshape(5, 65, 65).copy()
    projector = Projector(volume, 1.0)
    images = projector.images(projector.coefficients(from_euler(euler), torch.ones(5, 2), None))
    # measured: 0.9997
    assert float(_correlation(images, torch.from_numpy(data)).min()) > 0.999


def test_relion_itself(tmp_path: Path) -> None:
    """Every image, with astigmatism, phase shift, B-factor and three microscopes."""
    if shutil.which("relion_project") is None:
        pytest.skip("relion_project is not on PATH")
    count = 60
    state = model_state(load_embedded_structure(), StateGeometry(box=64, pixel_size=4.0))
    settings = SimulationSettings(
        count=count,
        astigmatism_angstrom=1500,
        phase_shift_degrees=40,
        ctf_b_factor_angstrom2=50,
        optics_groups=3,
        images_per_micrograph=7,
    )
    truth = draw_truth(settings, 1, 4.0, np.random.default_rng(0))
    write_map(tmp_path / "map.mrc", DensityMap(state.data, 4.0))
    write_truth(tmp_path / "angles.star", truth, 64, 4.0, "clean.mrcs", with_poses=True)
    command = ["relion_project", "--i", "map.mrc", "--o", "clean", "--ang", "angles.star", "--ctf", "--angpix", "4"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = torch.from_numpy(mrcfile.read(tmp_path / "clean.mrcs").copy())
    projector = Projector(state.data, 4.0)
    rows = np.arange(count)
    ours = projector.images(
        projector.coefficients(truth.rotations(rows), torch.from_numpy(truth.t_angstrom), truth.ctf)
    )
    # measured: 0.9994 at worst, the rest of it RELION's own interpolation at padding 2
    assert float(_correlation(ours, theirs).min()) > 0.999
    assert float(ours.std() / theirs.std()) == pytest.approx(1, abs=2e-3)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu(generator: torch.Generator) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    volume, R = torch.randn(32, 32, 32, generator=generator), random_rotations(9, generator)
    cpu, gpu = Projector(volume, 2.0).slices(R), Projector(volume.cuda(), 2.0).slices(R.cuda())
    assert float((gpu.cpu() - cpu).norm() / cpu.norm()) < 1e-5
