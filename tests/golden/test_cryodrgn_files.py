"""Poses and CTFs that cryoDRGN parsed from RELION's and cryoSPARC's files, against the package's reading of them."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import exponential, from_euler
from golden.test_relion_files import array, correlations, images

ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class NumpyOnly(pickle.Unpickler):
    """Admits the names that a pickled numpy array needs and refuses all else: a pickle may run any code."""

    def find_class(self, module_name, global_name):
        try:
            return ADMITTED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is not part of a numpy array") from None


def unpickle(path: Path):
    with path.open("rb") as f:
        return NumpyOnly(f).load()


def test_poses_of_a_relion_star(shared_data):
    star = starfile.read(shared_data / "formats/FinalRefinement-OriginalParticles-PfCRT.star")
    rotation, translation = unpickle(shared_data / "formats/pose.star.pkl")
    R = from_euler(torch.from_numpy(star[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(np.float64)))
    np.testing.assert_allclose(R.transpose(-1, -2).numpy(), rotation, atol=1e-14)
    # trans = origin in pixels / D = -t / (D pixel_size), and the box is 300
    np.testing.assert_allclose(star[["rlnOriginX", "rlnOriginY"]].to_numpy() / 300, translation, atol=1e-12)


def test_poses_of_a_cryosparc_file(shared_data):
    rows = np.load(shared_data / "formats/cryosparc_P12_J24_001_particles.cs")
    rotation, translation = unpickle(shared_data / "formats/pose.cs.pkl")
    # cryoSPARC's rotation vector is that of R itself
    R = exponential(torch.from_numpy(rows["alignments3D/pose"].astype(np.float64)))
    np.testing.assert_allclose(R.transpose(-1, -2).numpy(), rotation, atol=1e-6)  # float32 file
    np.testing.assert_allclose(rows["alignments3D/shift"] / 180, translation, atol=1e-7)


@pytest.mark.parametrize("name", ["star", "cs"])
def test_ctf_columns(shared_data, name):
    """[D, pixel, dfU, dfV, angle (degrees), kV, Cs (mm), w, phase (degrees)]: equal CTFs from both files."""
    if name == "star":
        columns = unpickle(shared_data / "formats/ctf1.pkl")
        star = starfile.read(shared_data / "formats/FinalRefinement-OriginalParticles-PfCRT.star")
        names = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration"]
        u, v, angle, voltage, cs = star[names].to_numpy(np.float64).T
        expected = CTFParameters.create(
            u,
            v,
            astigmatism_radian=np.radians(angle),
            phase_shift_radian=np.radians(star["rlnPhaseShift"].to_numpy()),
            b_factor_angstrom2=0.0,
            voltage_kv=voltage,
            spherical_aberration_mm=cs,
            amplitude_contrast=0.1,
        )
    else:
        columns = unpickle(shared_data / "formats/ctf2.pkl")[:50]
        rows = np.load(shared_data / "formats/cryosparc_P12_J24_001_particles.cs")[:50]
        field = {n: rows[f"ctf/{n}"].astype(np.float64) for n in ("df1_A", "df2_A", "df_angle_rad", "phase_shift_rad")}
        expected = CTFParameters.create(*field.values(), 0.0, 200.0, 2.0, 0.07)
    box, pixel_size, u, v, angle, voltage, cs, w, phase = columns.astype(np.float64).T
    disc = FourierDisc.create(int(box[0]), pixel_size[0], radius=40, dtype=torch.float64)
    found = CTFParameters.create(
        u,
        v,
        astigmatism_radian=np.radians(angle),
        phase_shift_radian=np.radians(phase),
        b_factor_angstrom2=0.0,
        voltage_kv=voltage,
        spherical_aberration_mm=cs,
        amplitude_contrast=w,
    )
    # the pickles are float32: 1e-3 angstrom of defocus and 1e-5 degrees; a swapped column gives 1
    np.testing.assert_allclose(evaluate_ctf(found, disc.k).numpy(), evaluate_ctf(expected, disc.k).numpy(), atol=1e-4)


def test_projections_by_cryodrgn(shared_data):
    """Toy projections, unshifted, at rotations `rot` = A."""
    folder = shared_data / "stacks_sim_conventions/cryodrgn"
    A_all = torch.from_numpy(unpickle(folder / "toy_angles.pkl")[:20].astype(np.float64))
    observed = array(folder / "toy_projections.mrcs")[:20]
    volume = array(folder / "toymodel_small_nocenter.mrc")
    t = torch.zeros(20, 2, dtype=torch.float64)
    found = correlations(images(volume, A_all.transpose(-1, -2).contiguous(), t, 1.0), observed)
    wrong = correlations(images(volume, A_all, t, 1.0), observed)
    # measured: 0.994 (drawn in real space), 0.45 with A for A^T
    assert found.mean() > 0.99
    assert wrong.mean() < 0.6


def test_shifted_projections_by_tomodrgn(shared_data):
    """Tilt images drawn by tomoDRGN, which keeps cryoDRGN's pickles: R = A^T and t = -trans D pixel_size."""
    folder = shared_data / "stacks_sim_conventions/tomodrgn_10076_DE"
    rotation, translation = (torch.from_numpy(x[:100].astype(np.float64)) for x in unpickle(folder / "pose_classD.pkl"))
    observed = array(folder / "10076_classD_32_clean.mrcs")[:100]
    R, t = rotation.transpose(-1, -2).contiguous(), -translation * 32 * 13.1
    volume = array(folder / "10076_classD_32.mrc")
    found = correlations(images(volume, R, t, 13.1), observed).mean()
    # measured: 0.977; 0.82 with A for A^T, 0.22 with the wrong shift sign, 0.51 with x and y swapped
    assert found > 0.95
    for wrong_R, wrong_t in ((rotation, t), (R, -t), (R, t.flip(1))):
        assert correlations(images(volume, wrong_R, wrong_t, 13.1), observed).mean() < 0.85


def test_other_pickles_are_refused():
    with pytest.raises(pickle.UnpicklingError, match="is not part of a numpy array"):
        NumpyOnly(io.BytesIO(pickle.dumps(Path("x")))).load()
