"""Images projected by RELION and real images refined by it, read in place, against the package's projections."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryoloom.physics.ctf import CTFParameters
from cryoloom.physics.fourier import ifft2, resize_real
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import predict
from cryoloom.physics.rotations import from_euler, symmetry_group
from cryoloom.physics.slicing import volume_to_grid
from golden.numpy_reference import random_angles


def array(path: Path) -> torch.Tensor:
    """A float32 MRC file as float64 [z, y, x]; by hand, since cryoDRGN's old files lack the map stamp."""
    nx, ny, nz, mode = np.fromfile(path, "<i4", 4)
    assert mode == 2, path
    values = np.fromfile(path, "<f4", offset=1024, count=nx * ny * nz)
    return torch.from_numpy(values.reshape(nz, ny, nx).astype(np.float64))


def table(path: Path) -> pd.DataFrame:
    return starfile.read(path, always_dict=True)["particles"]


def angles(particles: pd.DataFrame) -> torch.Tensor:
    return torch.from_numpy(particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(np.float64))


def correlations(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """Pearson correlation of each pair of rows, [N, ...] -> [N]."""
    a, b = a.flatten(1), b.flatten(1)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).numpy()


def images(volume: torch.Tensor, R: torch.Tensor, t: torch.Tensor, pixel_size: float, ctf=None, radius=None):
    disc = FourierDisc.create(volume.shape[-1], pixel_size, radius, dtype=torch.float64)
    return ifft2(disc.scatter(predict(volume_to_grid(volume), R, t, ctf, disc))).real


@pytest.fixture(scope="module")
def ribosome(shared_data) -> torch.Tensor:
    return array(shared_data / "stacks_sim_conventions/relion_project/clean70SRibosome_vol_65p.mrc")


@pytest.mark.parametrize(
    ("name", "box", "origin_columns", "centre_shift"),
    [
        # RELION puts the centre of an odd box one pixel further along both axes than D // 2
        ("rln_proj_65", 65, ("rlnOriginXAngst", "rlnOriginYAngst"), 1.0),
        ("rln_proj_64_centered", 64, ("rlnOriginXAngst", "rlnOriginYAngst"), 0.0),
        ("rln_proj_64_shifted", 64, ("rlnOriginX", "rlnOriginY"), 0.0),  # shifts of up to 13 px, all signs
    ],
)
def test_projections_by_relion(shared_data, ribosome, name, box, origin_columns, centre_shift):
    folder = shared_data / "stacks_sim_conventions/relion_project"
    particles, observed = table(folder / f"{name}.star"), array(folder / f"{name}.mrcs")
    t = centre_shift - torch.from_numpy(particles[list(origin_columns)].to_numpy(np.float64))
    found = images(resize_real(ribosome, box, 3), from_euler(angles(particles)), t, pixel_size=1.0)
    # measured: 0.99999 for each image; half a pixel off gives 0.97, one pixel 0.88, the transposed matrix below 0.5
    assert correlations(found, observed).min() > 0.9998
    # the transform is unnormalised: amplitudes agree as well, measured to 2e-4
    np.testing.assert_allclose((found.std((1, 2)) / observed.std((1, 2))).numpy(), 1, atol=1e-3)


@pytest.fixture(scope="module")
def trpv1(shared_data):
    """Map, images and table of ten real TRPV1 particles (box 48, 4.88 angstrom), with their CTF."""
    folder = shared_data / "stacks_real/trpv1_10"
    particles = table(folder / "trpv1_small_stack.star")
    ctf = CTFParameters.create(
        particles["rlnDefocusU"].to_numpy(),
        particles["rlnDefocusV"].to_numpy(),
        np.radians(particles["rlnDefocusAngle"].to_numpy()),
        np.radians(particles["rlnPhaseShift"].to_numpy()),
        particles["rlnCtfBfactor"].to_numpy(),
        voltage_kv=300.0,
        spherical_aberration_mm=2.0,
        amplitude_contrast=0.1,
    )
    return array(folder / "trpv1_volume.mrc"), array(folder / "trpv1_small_stack.mrcs"), particles, ctf


def real_correlations(trpv1, R: torch.Tensor, t: torch.Tensor) -> np.ndarray:
    """Correlation within the particle's circle (20 px) of real images and projections, both to 23 angstrom (10 px)."""
    volume, observed, _, ctf = trpv1
    disc = FourierDisc.create(48, 4.88, 10, dtype=torch.float64)
    filtered = ifft2(disc.scatter(disc.transform(observed))).real
    y, x = torch.meshgrid(torch.arange(48) - 24, torch.arange(48) - 24, indexing="ij")
    circle = x**2 + y**2 < 20**2
    return correlations(images(volume, R, t, 4.88, ctf, radius=10)[:, circle], filtered[:, circle])


def test_real_particles_match_their_map(trpv1):
    particles = trpv1[2]
    R = from_euler(angles(particles))
    t = -torch.from_numpy(particles[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(np.float64))
    found = real_correlations(trpv1, R, t)
    # measured: mean 0.41, 0.36 to 0.46; positive, as white particles stay white under this CTF
    assert found.min() > 0.3
    # the map has C4 about z: the group acts in the volume's frame
    for g in symmetry_group("C4"):
        np.testing.assert_allclose(real_correlations(trpv1, g @ R, t), found, atol=0.02)
    # measured: 0.02 with the wrong shift sign, 0.34 with R transposed, 0.15 at random poses
    assert abs(real_correlations(trpv1, R, -t).mean()) < 0.1
    assert real_correlations(trpv1, R.transpose(-1, -2).contiguous(), t).mean() < found.mean() - 0.05
    assert real_correlations(trpv1, from_euler(torch.from_numpy(random_angles(10, 1))), t).mean() < 0.25
