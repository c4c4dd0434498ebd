"""A run folder as a reconstruction leaves it, of a known molecule, written in a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from torch import Tensor

from cryoloom.jobs.verdict import Evidence, Finding, Verdict
from cryoloom.maps.fsc import gold_standard
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.maps.mask import soft_sphere
from cryoloom.particles.formats.relion.star_writer import write_star
from cryoloom.particles.texts import Texts
from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.fourier import ifft2
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import random_rotations, to_euler
from cryoloom.physics.slicing import rotated_points
from cryoloom.runs.metrics_log import MetricsLog
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.record import Machine, RunRecord, StageTiming, to_json, write_record

BOX, PIXEL, COUNT = 32, 4.0, 60

EVIDENCE = Evidence(
    particles=58,
    starts=3,
    agreeing=1,
    likeness=0.41,
    strength=8.0,
    shell=14.0,
    resolution_angstrom=9.12,
    resolution_half_angstrom=11.3,
    common_shell=4,
    nyquist_shell=16,
    certain=0.6,
    fitting=0.9,
    mean_score=200.0,
    expected_score=210.0,
    components=0,
    component_gain=0.0,
    settled=True,
    coverage=0.91,
    missing_share=0.0,
    missing_axis=(0.0, 0.0, 1.0),
    single_view_share=None,
    cfar=0.84,
    best_direction_angstrom=9.0,
    worst_direction_angstrom=14.0,
    directional_resolution_angstrom=((0.0, 0.0, 1.0, 9.0), (1.0, 0.0, 0.0, 14.0), (0.0, -1.0, 0.0, None)),
    symmetry="C1",
    symmetry_score=None,
    b_factor_angstrom2=-83.0,
    b_factor_note="",
)
VERDICT: dict[str, Any] = to_json(
    Verdict(
        outcome="converged",
        findings=(
            Finding("half maps", passed=True, value=9.12),
            Finding("starts", passed=False, value=0.41),
            Finding("hand", passed=None, value=None),
        ),
        resolution_angstrom=9.12,
        resolution_half_angstrom=11.3,
        evidence=EVIDENCE,
    )
)


@dataclass(frozen=True, slots=True)
class Molecule:
    """A cloud of Gaussians with images of it: R [N, 3, 3], t [N, 2], CTF, images [N, D, D]."""

    cloud: GaussianCloud
    R: Tensor
    t: Tensor
    ctf: CTFParameters
    images: Tensor


def molecule(noise: float = 0.3, sign: float = 1.0) -> Molecule:
    """Images by the analytic transform: nothing of the report or of the slicing enters."""
    g = torch.Generator().manual_seed(11)
    cloud = GaussianCloud.random(12, 34.0, 5.0, g)
    R = random_rotations(COUNT, g)
    t = torch.randn(COUNT, 2, generator=g, dtype=torch.float64) * 4
    defocus = 12000 + 9000 * torch.rand(COUNT, generator=g, dtype=torch.float64)
    ctf = CTFParameters.create(defocus)
    disc = FourierDisc.create(BOX, PIXEL, dtype=torch.float64)
    ramp = torch.exp(-2j * math.pi * (t @ disc.k.T))
    values = cloud.transform(rotated_points(disc.k, R)) * ramp * evaluate_ctf(ctf, disc.k)
    clean = ifft2(disc.scatter(values)).real
    spoilt = clean + noise * clean.std() * torch.randn(clean.shape, generator=g, dtype=torch.float64)
    return Molecule(cloud, R, t, ctf, sign * spoilt)


def write_run(folder: Path, *, stack: str = "particles.mrcs", sign: float = 1.0, **changes: Any) -> Path:
    """A finished run in `folder`; `changes` replace fields of its record, `stack` is the name of its image file."""
    folder.mkdir(parents=True, exist_ok=True)
    m = molecule(sign=sign)
    _write_images(folder, stack, m)
    g = torch.Generator().manual_seed(12)
    density = m.cloud.density(BOX, PIXEL).float()
    halves = [density + 0.05 * density.max() * torch.randn(density.shape, generator=g) for _ in range(2)]
    mask = soft_sphere(BOX, 10, 3)
    mean = (halves[0] + halves[1]) / 2
    local = 8 + torch.rand(BOX, BOX, BOX, generator=g) * 4
    maps = {
        "map": mean,
        "map_sharp": mean * mask,
        "half1": halves[0],
        "half2": halves[1],
        "mask": mask,
        "local_resolution": local,
    }
    for name, data in maps.items():
        write_map(folder / f"{name}.mrc", DensityMap(data, PIXEL))
    _write_fsc(folder, halves, mask, g)
    log = MetricsLog(folder / "metrics.jsonl")
    for step in range(1, 9):
        stage, message = ("abinit", None) if step < 5 else ("refine", "resolution grows")
        log.write(
            StepInfo(stage=stage, step=step, total=8, resolution_angstrom=60.0 / step, metrics=(), message=message),
            2.0,
            3.0,
        )
    write_record(folder / "run.json", replace(_record(), **changes))
    return folder


def _write_images(folder: Path, stack: str, m: Molecule) -> None:
    path = folder / stack
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path) as file:
        file.set_data(m.images.float().numpy())
        file.set_image_stack()
        file.voxel_size = PIXEL
    angles = to_euler(m.R).numpy()
    rng = np.random.default_rng(3)
    numbers = {
        "rlnDefocusU": m.ctf.defocus_u_angstrom.numpy(),
        "rlnDefocusV": m.ctf.defocus_v_angstrom.numpy(),
        "rlnDefocusAngle": np.zeros(COUNT),
        "rlnAngleRot": angles[:, 0],
        "rlnAngleTilt": angles[:, 1],
        "rlnAnglePsi": angles[:, 2],
        "rlnOriginXAngst": -m.t[:, 0].numpy(),
        "rlnOriginYAngst": -m.t[:, 1].numpy(),
        "rlnLogLikeliContribution": rng.normal(200, 30, COUNT),
        "rlnMaxValueProbDistribution": rng.beta(6, 2, COUNT),
        "cryoloomAngularErrorDegrees": rng.gamma(5, 0.3, COUNT),
        "cryoloomShiftErrorAngst": rng.gamma(5, 0.1, COUNT),
    }
    text = {name: [f"{v:.6f}" for v in values] for name, values in numbers.items()}
    names = {
        "rlnImageName": [f"{i + 1:06d}@{stack}" for i in range(COUNT)],
        "rlnOpticsGroup": ["1"] * COUNT,
        "rlnRandomSubset": [str(1 + i % 2) for i in range(COUNT)],
    }
    optics = {
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "one",
        "rlnVoltage": "300",
        "rlnSphericalAberration": "2.7",
        "rlnAmplitudeContrast": "0.1",
        "rlnImagePixelSize": str(PIXEL),
        "rlnImageSize": str(BOX),
        "rlnImageDimensionality": "2",
    }
    tables = [
        ("optics", {name: Texts.of([value]) for name, value in optics.items()}),
        ("particles", {name: Texts.of(values) for name, values in (names | text).items()}),
    ]
    write_star(folder / "particles.star", tables)


def _write_fsc(folder: Path, halves: list[Tensor], mask: Tensor, generator: torch.Generator) -> None:
    found = gold_standard(halves[0].double(), halves[1].double(), mask.double(), PIXEL, generator)
    lines = ["shell,frequency_per_angstrom,resolution_angstrom,unmasked,masked,randomised,corrected"]
    for shell in range(BOX // 2 + 1):
        f = shell / (BOX * PIXEL)
        curves = (found.unmasked, found.masked, found.randomised, found.corrected)
        values = ",".join(f"{float(c[shell]):.6f}" for c in curves)
        lines.append(f"{shell},{f:.6f},{1 / f if shell else math.inf:.4f},{values}")
    (folder / "fsc.csv").write_text("\n".join(lines) + "\n")


def _record() -> RunRecord:
    return RunRecord(
        status="finished",
        command="reconstruct",
        argv=("cryoloom", "reconstruct", "my set/p.star", "--output", "run"),
        settings={"symmetry": "C1", "diameter_angstrom": None, "abinit": {"radii": [5, 6.5]}},
        settings_hash="a" * 64,
        versions={"cryoloom": "0.1.0", "torch": "2.6.0"},
        seed=7,
        input_path="/data/my set/p.star",
        fingerprint="0123456789abcdef" * 4,
        machine=Machine(host="host1", system="Linux", cpu_count=8, threads=2, device="cpu", memory_bytes=2**34),
        timings=(StageTiming("abinit", 61.0, 100.0), StageTiming("refine", 4000.0, 9.0)),
        verdict=VERDICT,
        started="2026-11-20T10:00:00+01:00",
        updated="2026-11-20T11:00:00+01:00",
    )
