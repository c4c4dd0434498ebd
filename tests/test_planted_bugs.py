"""The permanent mutation test: each classical mistake is planted in a copy of the physics, and the suite must fail.

A bug names the text that it replaces, which must occur exactly once, so that no mutation dies unnoticed when the code
changes: whoever changes a line that is named here writes the bug anew. Every test listed as a bug's killer has to fail
by an assertion, and has to pass without the bug.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "src" / "cryoloom"

SLICES = "golden/test_slices.py::test_slices_are_the_exact_transform"
PROJECTION = "golden/test_slices.py::test_predicted_image_is_the_projection_in_real_space"
RELION = "golden/test_relion_numbers.py::test_projections_are_relions"
RELION_CTF = "golden/test_relion_numbers.py::test_ctf_is_relions"
SCALAR_CTF = "golden/test_ctf.py::test_against_the_scalar_loop"
MATRIX = "golden/test_relion_numbers.py::test_euler_angles_give_relions_matrix"
ADJOINT = "physics/test_slicing.py::test_insertion_is_the_adjoint_of_extraction"
BACKPROJECTION = "physics/test_slicing.py::test_volume_from_its_own_exact_slices"
HERMITIAN = "physics/test_slicing.py::test_symmetrised_grids_are_hermitian"
PARSEVAL = "physics/test_frequencies.py::test_weighted_half_plane_is_the_full_plane"
SCATTER = "physics/test_frequencies.py::test_scatter_is_the_inverse_of_gather"
CHI_SQUARED = "physics/test_noise.py::test_likelihood_at_the_truth_is_chi_squared"
UNCERTAINTY = "physics/test_noise.py::test_likelihood_gives_honest_uncertainties"
SPECTRUM = "physics/test_noise.py::test_sampled_noise_has_the_spectrum"
DEFINITION = "physics/test_fourier.py::test_transforms_are_the_definition"
RESIZE = "physics/test_fourier.py::test_resize_real_resamples_the_density"
EULER = "physics/test_rotations.py::test_euler_round_trip"


@dataclass(frozen=True)
class Bug:
    """A mistake: in `module`, `right` becomes `wrong`; each of `killers` must notice."""

    name: str
    module: str
    right: str
    wrong: str
    killers: tuple[str, ...]


BUGS = (
    # conventions: those that are consistent with themselves are seen by golden tests only
    Bug("R for its transpose in slices", "slicing", "R[..., :, :2]", "R.mT[..., :, :2]", (SLICES, RELION)),
    Bug(
        "R for its transpose from Euler angles",
        "rotations",
        'roma.euler_to_rotmat("ZYZ", angles_degree, degrees=True)',
        'roma.euler_to_rotmat("ZYZ", angles_degree, degrees=True).mT',
        (MATRIX, RELION),
    ),
    Bug(
        "tilt and psi swapped",
        "rotations",
        '"ZYZ", angles_degree,',
        '"ZYZ", angles_degree[..., [0, 2, 1]],',
        (MATRIX, RELION),
    ),
    Bug("rot and psi swapped", "rotations", '"ZYZ", angles_degree,', '"zyz", angles_degree,', (MATRIX, RELION)),
    Bug("psi of the wrong half-turn", "rotations", "-R[..., 2, 0])", "R[..., 2, 0])", (EULER,)),
    Bug("z and x swapped", "slicing", "(z * side + y) * side + x", "(x * side + y) * side + z", (SLICES, RELION)),
    Bug(
        "x and y swapped in the image",
        "slicing",
        '"...ij,pj->...pi", R[..., :, :2], k_pixels',
        '"...ij,pj->...pi", R[..., :, :2], k_pixels.flip(-1)',
        (SLICES, RELION),
    ),
    Bug(
        "mirror image",
        "slicing",
        "rotated_points(index.to(R.dtype) * padding, R)\n    flat, weight, inside = _corners(points, grid",
        "rotated_points(-index.to(R.dtype) * padding, R)\n    flat, weight, inside = _corners(points, grid",
        (SLICES, RELION),
    ),
    Bug("grid's centre off by one", "slicing", "points + side // 2", "points + side // 2 - 1", (SLICES, RELION)),
    Bug(
        "odd boxes centred one further",
        "fourier",
        "torch.fft.ifftshift(x, dim=dims)",
        "torch.fft.fftshift(x, dim=dims)",
        (f"{DEFINITION}[fft2-ifft2-2-9]", f"{PROJECTION}[41]"),
    ),
    Bug(
        "shift to the other side",
        "image_model",
        "-2 * math.pi * torch.einsum",
        "2 * math.pi * torch.einsum",
        (PROJECTION, RELION),
    ),
    Bug(
        "shift with x and y swapped",
        "image_model",
        "t, k.to(t.dtype))",
        "t.flip(-1), k.to(t.dtype))",
        (PROJECTION, RELION),
    ),
    # Fourier bookkeeping
    Bug(
        "conjugate in insertion", "slicing", "(values * inside)", "(values.conj() * inside)", (ADJOINT, BACKPROJECTION)
    ),
    Bug("no conjugate for the Friedel mate", "slicing", "mate.conj()", "mate", (HERMITIAN, BACKPROJECTION)),
    Bug(
        "Friedel mate off by one in even boxes",
        "slicing",
        "mate.roll((1, 1, 1)",
        "mate.roll((0, 0, 0)",
        (f"{HERMITIAN}[8]", BACKPROJECTION),
    ),
    Bug("no gridding correction", "slicing", "torch.sinc(x) ** 2", "torch.sinc(x) ** 0", (SLICES, RELION)),
    Bug("gridding correction of the nearest neighbour", "slicing", "torch.sinc(x) ** 2", "torch.sinc(x)", (RELION,)),
    Bug("no Hermitian weight", "frequencies", "== 0, 1.0, 2.0)", "== 0, 1.0, 1.0)", (PARSEVAL, CHI_SQUARED)),
    Bug(
        "Hermitian weight on the central column",
        "frequencies",
        "== 0, 1.0, 2.0)",
        "== 0, 2.0, 2.0)",
        (PARSEVAL, CHI_SQUARED),
    ),
    Bug("no conjugate in scatter", "frequencies", "coefficients.conj()", "coefficients", (SCATTER, PROJECTION)),
    Bug(
        "resized values on the wrong scale",
        "fourier",
        "float(waves), kernel) / old",
        "float(waves), kernel) / box",
        (f"{RESIZE}[40-30]",),
    ),
    # contrast transfer
    Bug(
        "astigmatism turned the other way",
        "ctf",
        "2 * kx * ky * torch.sin(two)",
        "-2 * kx * ky * torch.sin(two)",
        (SCALAR_CTF, RELION_CTF),
    ),
    Bug(
        "astigmatism twice too strong",
        "ctf",
        "column((p.defocus_u_angstrom - p.defocus_v_angstrom) / 2)",
        "column(p.defocus_u_angstrom - p.defocus_v_angstrom)",
        (SCALAR_CTF, RELION_CTF),
    ),
    Bug("contrast inverted", "ctf", "* torch.sin(chi)", "* -torch.sin(chi)", (SCALAR_CTF, RELION_CTF)),
    Bug(
        "amplitude contrast of the other sign",
        "ctf",
        "p.phase_shift_radian + torch.asin",
        "p.phase_shift_radian - torch.asin",
        (SCALAR_CTF, RELION_CTF),
    ),
    Bug(
        "phase shift of the other sign",
        "ctf",
        "column(p.phase_shift_radian +",
        "column(-p.phase_shift_radian +",
        (SCALAR_CTF, f"{RELION_CTF}[U9000-phase60]"),
    ),
    Bug(
        "spherical aberration of the other sign",
        "ctf",
        "k2cos) - 0.5 * math.pi * cs",
        "k2cos) + 0.5 * math.pi * cs",
        (SCALAR_CTF, RELION_CTF),
    ),
    Bug(
        "B-factor sharpens",
        "ctf",
        "torch.exp(-0.25 *",
        "torch.exp(0.25 *",
        (SCALAR_CTF, f"{RELION_CTF}[U12500-phase0]"),
    ),
    Bug(
        "B-factor twice too strong",
        "ctf",
        "torch.exp(-0.25 *",
        "torch.exp(-0.5 *",
        (SCALAR_CTF, f"{RELION_CTF}[U12500-phase0]"),
    ),
    # statistics
    Bug("likelihood doubled", "noise", "-0.5 * (weight", "-1.0 * (weight", (CHI_SQUARED, UNCERTAINTY)),
    Bug(
        "likelihood without Hermitian weights",
        "noise",
        "-0.5 * (weight * residual",
        "-0.5 * (residual",
        (CHI_SQUARED, UNCERTAINTY),
    ),
    Bug(
        "noise variance meant per component",
        "noise",
        "spectrum[shell].sqrt() / box",
        "(2 * spectrum[shell]).sqrt() / box",
        (SPECTRUM, CHI_SQUARED),
    ),
)


def plant(bug: Bug | None, folder: Path) -> None:
    """Copies the physics to a folder, with a bug or as it is."""
    shutil.copytree(PACKAGE / "physics", folder / "cryoloom" / "physics", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE / "__init__.py", folder / "cryoloom")
    if bug:
        path = folder / "cryoloom" / "physics" / f"{bug.module}.py"
        path.write_text(path.read_text().replace(bug.right, bug.wrong))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict[str, str]]:
    """What became of each killer, by bug; "" stands for the package as it is."""
    if not hasattr(os, "fork"):
        pytest.skip("planting bugs needs os.fork")
    everything = tuple(dict.fromkeys(k for bug in BUGS for k in bug.killers))
    jobs = []
    for number, (bug, killers) in enumerate([(None, everything), *((bug, bug.killers) for bug in BUGS)]):
        folder = tmp_path_factory.mktemp(f"planted{number}")
        plant(bug, folder)
        jobs.append({"folder": str(folder), "tests": killers})
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, str(TESTS / "golden" / "plant.py")]
    done = subprocess.run(command, input=json.dumps(jobs), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(["", *(bug.name for bug in BUGS)], json.loads(done.stdout), strict=True))


def of(outcomes: dict[str, str], killer: str) -> list[str]:
    """Outcomes of a test: of its parameters, where the killer names none."""
    return [o for test, o in outcomes.items() if test == killer or test.startswith(killer + "[")]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_bug_can_be_planted(bug):
    found = (PACKAGE / "physics" / f"{bug.module}.py").read_text().count(bug.right)
    assert found == 1, f"{bug.right!r} occurs {found} times in {bug.module}.py: write the bug anew"


@pytest.mark.slow
def test_without_bugs_the_killers_pass(outcomes):
    assert set(outcomes[""].values()) == {"passed"}, outcomes[""]
    for bug in BUGS:
        for killer in bug.killers:
            assert of(outcomes[""], killer), f"no test is named {killer}"


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_bug_is_noticed(bug, outcomes):
    for killer in bug.killers:
        found = of(outcomes[bug.name], killer)
        assert "failed" in found, f"{killer}: {found or outcomes[bug.name]}"
        assert set(found) <= {"failed", "passed"}, f"{killer} crashed: {found}"
