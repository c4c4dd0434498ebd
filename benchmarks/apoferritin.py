"""Runs on real apoferritin, scored: apoferritin.py RUN [RUN ...] [--relion MAP --relion-cpu-s S]

Each RUN is the folder of a finished `cryoloom reconstruct .../apoferritin_128.star --symmetry O` (EMPIAR-10146, 1,340
images of 128 px). Its map is compared with the CA model by `fsc_with_model.py`, its poses with those of the first run
of the same diameter modulo O and over both hands; beside that stands the share that is expected by what both runs state
of each pose (`rlnMaxValueProbDistribution`). --relion: the map of RELION's auto-refine of the same images from the same
first map, for the last row; without it, the row stays as it is. Writes results/apoferritin.json and apoferritin.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from bench import RESULTS, ROOT, SHARED_BENCH, read_star

MODEL = ROOT.parent / "shared" / "data" / "models" / "apoferritin_ca_apo_sym.pdb"
AGREE_DEGREES = 10.0


def rotations(run: Path) -> Rotation:
    """Poses of a run's particles, volume frame to image frame, in the order of the file."""
    angles = read_star(run / "particles.star")["particles"][["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]]
    return Rotation.from_euler("ZYZ", angles.to_numpy(float), degrees=True)


def probabilities(run: Path) -> np.ndarray:
    """What a run states of its poses: the share of the posterior in the mode of each."""
    return read_star(run / "particles.star")["particles"]["rlnMaxValueProbDistribution"].to_numpy(float)


def agreement(one: Rotation, other: Rotation) -> float:
    """Share of particles whose poses agree within 10 degrees modulo O, for the better hand."""
    flip = Rotation.from_matrix(np.diag([-1.0, -1.0, 1.0]))
    shares = []
    for candidate in (other, other * flip):
        # maps stand on the axes of O, so their frames differ by an element of the group at most
        angles = [(one.inv() * g * candidate).magnitude() for g in Rotation.create_group("O")]
        shares.append(float((np.degrees(np.min(angles, 0)) < AGREE_DEGREES).mean()))
    return max(shares)


def with_model(density: Path) -> dict[str, float]:
    """The FSC of a map with the model."""
    command = [sys.executable, SHARED_BENCH / "fsc_with_model.py", density, MODEL]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "model_0.143_angstrom": found["fsc0.143_angstrom"],
        "model_0.5_angstrom": found["fsc0.5_angstrom"],
        "model_mean": found["mean_20_to_6_angstrom"],
    }


def score(run: Path) -> dict[str, Any]:
    """What a run cost, claimed and reached."""
    record = json.loads((run / "run.json").read_text())
    evidence = record["verdict"]["evidence"]
    cpu = {t["stage"]: t["cpu_s"] for t in record["timings"]}
    return {
        "seed": record["seed"],
        "diameter_angstrom": record["settings"]["particle_diameter_angstrom"],
        "outcome": record["verdict"]["outcome"],
        "stated_angstrom": evidence["resolution_angstrom"],
        **with_model(run / "map.mrc"),
        "certain": evidence["certain"],
        "cfar": evidence["cfar"],
        "cpu_s": cpu,
    }


def table(rows: list[dict[str, Any]], relion: dict[str, float] | None) -> str:
    """The rows as Markdown."""
    lines = [
        "| diameter | seed | verdict | stated, Å | with the CA model: 0.143, Å | 0.5, Å | mean 20 to 6 Å "
        "| certain poses | cFAR | agree with the first seed | expected | CPU-s: ab initio, refinement, maps |",
        "|" + "---|" * 12,
    ]
    for r in rows:
        given = r["diameter_angstrom"]
        agree, expected = ("" if r[k] is None else f"{100 * r[k]:.0f} %" for k in ("agreement", "expected"))
        cpu = ", ".join(f"{r['cpu_s'][stage]:.0f}" for stage in ("abinit", "refine", "maps"))
        cells = [
            "estimated" if given is None else f"{given:g} Å",
            r["seed"],
            r["outcome"],
            f"{r['stated_angstrom']:.1f}",
            f"{r['model_0.143_angstrom']:.1f}",
            f"{r['model_0.5_angstrom']:.1f}",
            f"{r['model_mean']:.3f}",
            f"{100 * r['certain']:.0f} %",
            f"{r['cfar']:.2f}",
            agree,
            expected,
            cpu,
        ]
        lines.append("| " + " | ".join(str(c) for c in cells) + " |")
    if relion is not None:
        model = [f"{relion['model_0.143_angstrom']:.1f}", f"{relion['model_0.5_angstrom']:.1f}"]
        cells = ["RELION 3.1.3 auto-refine", "", "", "", *model, f"{relion['model_mean']:.3f}", "", "", "", ""]
        lines.append("| " + " | ".join([*cells, f"{relion['cpu_s']:.0f} in all"]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Score the runs and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", type=Path, help="Folder of a finished run.")
    parser.add_argument("--relion", type=Path, help="Final map of RELION's auto-refine.")
    parser.add_argument("--relion-cpu-s", type=float, help="CPU-seconds that it took.")
    given = parser.parse_args()
    rows, first = [], {}
    for run in given.run:
        row, mine = score(run), (rotations(run), probabilities(run))
        known = first.setdefault(row["diameter_angstrom"], mine)
        alone = known is mine
        row["agreement"] = None if alone else agreement(known[0], mine[0])
        rows.append({**row, "expected": None if alone else float((known[1] * mine[1]).mean())})
    if given.relion is not None:
        relion = {**with_model(given.relion), "cpu_s": given.relion_cpu_s}
    else:
        written = RESULTS / "apoferritin.json"
        relion = json.loads(written.read_text())["relion"] if written.exists() else None
    document = {"runs": rows, "relion": relion}
    (RESULTS / "apoferritin.json").write_text(json.dumps(document, indent=1) + "\n")
    title = "# Real apoferritin (EMPIAR-10146, 1,340 images of 128 px at 1.5 Å, `--symmetry O`)\n\n"
    (RESULTS / "apoferritin.md").write_text(title + table(rows, relion))


if __name__ == "__main__":
    main()
