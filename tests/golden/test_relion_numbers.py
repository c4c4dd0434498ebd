"""The package against numbers computed by RELION: Euler angles, handedness, shift sign, centring, CTF."""

import numpy as np
import pytest
import torch

from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import predict
from cryoloom.physics.rotations import from_euler
from cryoloom.physics.slicing import volume_to_grid
from golden import relion_numbers as relion
from golden.numpy_reference import CLOUD, cloud_slice, cloud_volume, pose_matrix

BOX, PIXEL_SIZE = relion.PROJECTION_BOX, relion.PROJECTION_PIXEL_SIZE


def predicted() -> np.ndarray:
    """RELION's images [3, P] at PROJECTION_INDEX by the package, from angles and origins as in RELION's files."""
    disc = FourierDisc.create(BOX, PIXEL_SIZE, dtype=torch.float64)
    rows = [disc.index.tolist().index(list(i)) for i in relion.PROJECTION_INDEX]
    R = from_euler(torch.tensor([p.angles for p in relion.PROJECTIONS], dtype=torch.float64))
    t = -torch.tensor([p.origin for p in relion.PROJECTIONS], dtype=torch.float64)
    grid = volume_to_grid(torch.from_numpy(cloud_volume(CLOUD, BOX, PIXEL_SIZE)))
    return predict(grid, R, t, None, disc)[:, rows].numpy()


def test_euler_angles_give_relions_matrix():
    found = from_euler(torch.tensor(relion.EULER_ANGLES, dtype=torch.float64)).T
    np.testing.assert_allclose(found.numpy(), relion.EULER_MATRIX, atol=1e-8)


def test_projections_are_relions():
    expected = np.array([p.coefficients for p in relion.PROJECTIONS])
    # measured: 6e-5 (both interpolate linearly with padding 2); a shift of a tenth of a pixel gives 0.03
    assert np.linalg.norm(predicted() - expected) / np.linalg.norm(expected) < 5e-4


def test_reference_agrees_with_relion():
    """The plain NumPy copy has RELION's conventions too."""
    k = np.array(relion.PROJECTION_INDEX) / (BOX * PIXEL_SIZE)
    for p in relion.PROJECTIONS:
        expected = cloud_slice(CLOUD, pose_matrix(*p.angles), -np.array(p.origin), k)
        # measured: 0.006 to 0.013, RELION's interpolation
        assert np.linalg.norm(p.coefficients - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize("case", relion.CONTRAST_TRANSFER, ids=lambda c: f"U{c.defocus_u:.0f}-phase{c.phase_shift:.0f}")
def test_ctf_is_relions(case):
    ctf = CTFParameters.create(
        case.defocus_u,
        case.defocus_v,
        astigmatism_radian=np.radians(case.angle),
        phase_shift_radian=np.radians(case.phase_shift),
        b_factor_angstrom2=case.b_factor,
        voltage_kv=case.voltage,
        spherical_aberration_mm=case.cs,
        amplitude_contrast=case.amplitude_contrast,
    )
    k = torch.tensor(relion.CTF_INDEX, dtype=torch.float64) / (relion.CTF_BOX * relion.CTF_PIXEL_SIZE)
    # measured: 7e-5 to 2.3e-4: RELION's wavelength differs by 5e-6 in relative terms
    np.testing.assert_allclose(evaluate_ctf(ctf, k)[0].numpy(), case.values, atol=6e-4)
