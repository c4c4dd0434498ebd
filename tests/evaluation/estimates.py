"""Estimates made from a truth by known errors, as STAR files and maps."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryoloom.evaluation.state_maps import area_vector
from cryoloom.maps.align import apply_rigid, mirrored
from cryoloom.maps.io import DensityMap
from cryoloom.physics.rotations import to_euler
from cryoloom.simulation.dataset import simulate_dataset
from cryoloom.simulation.states import StateGeometry, model_state
from cryoloom.simulation.structure import AtomicModel
from cryoloom.simulation.truth import SimulationSettings

PIXEL = 4.0


def fsc_auc(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """Area under the FSC of two maps within a mask."""
    return float(area_vector(a, mask) @ area_vector(b, mask))


@dataclass(frozen=True, slots=True)
class Case:
    """What is done to the truth.

    Attributes:
        hand: the estimate is the mirror image. turn: rotation vector of its frame, radians. offset: of it, angstrom.
        jitter_degrees, jitter_px: scatter of the poses. wrong: share of random ones. dropped: share left out.
        symmetry: of the truth; each pose is turned by an element of the group. junk: share in the truth.
        box: of the truth; estimate_box: of the estimated map. blur: Gaussian low-pass of it, s.d. in angstrom.
    """

    hand: bool = False
    turn: tuple[float, float, float] = (0.4, -1.1, 0.7)
    offset: tuple[float, float, float] = (3.0, -5.0, 2.0)
    jitter_degrees: float = 2.0
    jitter_px: float = 0.3
    wrong: float = 0.1
    dropped: float = 0.05
    symmetry: str = "C1"
    junk: float = 0.1
    box: int = 32
    estimate_box: int = 32
    blur: float = 4.0


def make(case: Case, folder: Path, seed: int = 0, count: int = 300) -> None:
    """Writes truth.star, truth_001.mrc, est.star and est.mrc into a folder."""
    from cryoloom.maps.io import read_map, write_map

    rng = np.random.default_rng(seed)
    positions = rng.normal(0, 9, (60, 3)).clip(-20, 20)
    _simulate(case, folder, [positions], count)
    truth = read_map(folder / "truth_001.mrc")
    Q = Rotation.from_rotvec(case.turn).as_matrix()
    _write_estimated_poses(case, folder, Q, rng)
    write_map(folder / "est.mrc", _estimated_map(case, truth, Q, rng))


def make_states(case: Case, folder: Path, seed: int = 0, count: int = 300, states: int = 3) -> None:
    """Writes a set of several states along a path, and estimates of them, into a folder.

    truth.star and truth_NNN.mrc; particles.star with classes, a tenth of them drawn at random, in which state s is
    class s % states + 1; class_NNN.mrc; z.npy, two coordinates whose difference, but neither alone, follows the state.
    """
    from cryoloom.maps.io import read_map, write_map

    rng = np.random.default_rng(seed)
    positions = rng.normal(0, 9, (60, 3)).clip(-20, 20)
    arm = np.zeros_like(positions)
    arm[:20, 0] = 5.0
    _simulate(case, folder, [positions + s * arm for s in range(states)], count)
    Q = Rotation.from_rotvec(case.turn).as_matrix()
    state = _write_estimated_poses(case, folder, Q=Q, rng=rng, classes=states, name="particles.star")
    for s in range(1, states + 1):
        estimate = _estimated_map(case, read_map(folder / f"truth_{s:03d}.mrc"), Q, rng)
        write_map(folder / f"class_{s % states + 1:03d}.mrc", estimate)
    common = 3 * rng.standard_normal(len(state))
    z = np.stack([state + common + 0.3 * rng.standard_normal(len(state)), common], -1)
    np.save(folder / "z.npy", z.astype(np.float32))


def _simulate(case: Case, folder: Path, positions: list[np.ndarray], count: int) -> None:
    geometry = StateGeometry(
        box=case.box, pixel_size=PIXEL, b_factor_angstrom2=600.0, symmetry=case.symmetry, radius_angstrom=22.0
    )
    settings = SimulationSettings(count=count, snr=1.0, junk=case.junk, images_per_micrograph=50)
    models = [AtomicModel(p, np.full(len(p), 6, np.uint8), "cloud") for p in positions]
    simulate_dataset(tuple(model_state(model, geometry) for model in models), settings, folder)


def _estimated_map(case: Case, truth: DensityMap, Q: np.ndarray, rng: np.random.Generator) -> DensityMap:
    """V_est(y) = V_true(Q (y - offset)), mirrored if so, blurred and noisy."""
    from cryoloom.physics.fourier import resize_real

    data = truth.data.double()
    # apply_rigid: out(y) = V(R^T (y - t)), so R = Q^T
    moved = apply_rigid(data, torch.from_numpy(Q.T), torch.tensor(case.offset, dtype=torch.float64), PIXEL)
    f = torch.fft.fftfreq(case.box, PIXEL, dtype=torch.float64)
    k2 = f[:, None, None] ** 2 + f[:, None] ** 2 + f[: case.box // 2 + 1] ** 2
    blurred = torch.fft.irfftn(torch.fft.rfftn(moved) * torch.exp(-2 * np.pi**2 * case.blur**2 * k2), s=(case.box,) * 3)
    noisy = blurred + 0.3 * float(blurred.std()) * torch.from_numpy(rng.standard_normal(blurred.shape))
    noisy = mirrored(noisy) if case.hand else noisy
    resized = resize_real(noisy, case.estimate_box, 3)
    return replace(truth, data=resized.float(), pixel_size=PIXEL * case.box / case.estimate_box)


def _write_estimated_poses(
    case: Case, folder: Path, Q: np.ndarray, rng: np.random.Generator, classes: int = 0, name: str = "est.star"
) -> np.ndarray:
    """Writes them, with classes if there are any; the true states of the rows written."""
    lines = (folder / "truth.star").read_text().splitlines()
    tags = [line.split()[0][1:] for line in lines[lines.index("data_particles") :] if line.startswith("_")]
    rows = [line.split() for line in lines if "@" in line]
    column = {tag: np.array([row[i] for row in rows]) for i, tag in enumerate(tags)}
    n = len(rows)
    euler = np.stack([column[f"rlnAngle{a}"].astype(float) for a in ("Rot", "Tilt", "Psi")], -1)
    A = Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix().transpose(0, 2, 1)
    group = Rotation.create_group(case.symmetry).as_matrix()
    # R_true = Q R_est, up to an element of the group and the jitter
    R = A.transpose(0, 2, 1)
    R = np.einsum("nij,njk->nik", group[rng.integers(len(group), size=n)], R)
    jitter = Rotation.from_rotvec(np.radians(case.jitter_degrees) * rng.standard_normal((n, 3))).as_matrix()
    R_est = Q.T @ R @ jitter
    wrong = rng.random(n) < case.wrong
    R_est[wrong] = Rotation.random(int(wrong.sum()), random_state=1).as_matrix()
    t_true = -np.stack([column[f"rlnOrigin{a}Angst"].astype(float) for a in "XY"], -1)
    offset = np.einsum("nji,j->ni", R_est, np.array(case.offset))[:, :2]
    t_est = t_true - offset + case.jitter_px * PIXEL * rng.standard_normal((n, 2))
    if case.hand:
        R_est = R_est * np.array([-1.0, -1.0, 1.0])
    angles = to_euler(torch.from_numpy(R_est)).numpy()
    state = column["rlnClassNumber"].astype(int)
    score = np.where(state > 0, 1.0, 0.0) + 0.7 * rng.standard_normal(n)
    keep = rng.permutation(np.flatnonzero(rng.random(n) >= case.dropped))
    tags = [
        "rlnImageName",
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnLogLikeliContribution",
    ]
    rows = [[*angles[i], *(-t_est[i]), score[i]] for i in range(n)]
    if classes:
        tags.append("rlnClassNumber")
        label = np.where((state == 0) | (rng.random(n) < 0.1), rng.integers(classes, size=n), state % classes) + 1
        rows = [[*row, label[i]] for i, row in enumerate(rows)]
    with (folder / name).open("w") as file:
        file.write("data_particles\n\nloop_\n" + "".join(f"_{tag}\n" for tag in tags))
        for i in keep:
            numbers = "".join(f" {x:.8f}" if isinstance(x, float) else f" {x}" for x in rows[i])
            file.write(column["rlnImageName"][i] + numbers + "\n")
    return state[keep]
