"""One case from its set to its row: `cryoloom reconstruct`, the search from the true map, scores and evidence."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench import CRYOLOOM, Measured, commit, machine, program, read_star, run_measured
from calibration.comparison import compare
from calibration.judged import RIGHT
from calibration.plan import Case
from calibration.rows import Row
from calibration.sets import SetFailed, make_case

CPU_LIMIT_S = 400
NOT_SEEN = "The map is not seen in the images"  # how the program refuses a map that its search cannot find
QUANTILES = 21  # from 0 to 1 in steps of 0.05
PARTICLES = {
    "probability": "rlnMaxValueProbDistribution",
    "log_likelihood": "rlnLogLikeliContribution",
    "misfit": "cryoloomMisfit",
    "angular_error_degrees": "cryoloomAngularErrorDegrees",
    "shift_error_angstrom": "cryoloomShiftErrorAngst",
}


def measure(case: Case, work: Path, cpu_limit_s: int = CPU_LIMIT_S, keep: bool = False) -> Row:
    """Make, run and score a case in WORK/CASE, which is removed afterwards unless it is to be kept."""
    folder = work / case.id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made_by = {"commit": commit(), "program": program(), "machine": machine(), "cpu_limit_s": cpu_limit_s}
    row: Row = {"case": case.to_json(), **made_by}
    try:
        row["set_cpu_s"] = make_case(case, folder, work / "maps")
    except SetFailed as error:
        row["run"] = {"status": "no set", "log": str(error)}
    else:
        row["run"] = run(case, folder, "reconstruct", cpu_limit_s)
        # a map that places nearly all images is right, whatever the true map places, unless it lacks other views
        clear = row["run"].get("truth", {}).get("share_of_all", 0.0) >= RIGHT and case.kind != "views"
        if case.kind != "noise" and not clear:
            row["reference"] = brief(run(case, folder, "refine", cpu_limit_s))
    if not keep:
        shutil.rmtree(folder)
    return row


def brief(reference: dict[str, Any]) -> dict[str, Any]:
    """The reference without its longest curves: it is judged, but no threshold is fitted to it."""
    out = {k: v for k, v in reference.items() if k not in ("fsc", "particles")}
    if "evidence" in out:
        out["evidence"] = {**out["evidence"], "directional_resolution_angstrom": []}
    return out


def best_compared(case: Case, folder: Path, out: Path) -> dict[str, Any]:
    """Scores against that molecule of which most images are placed: a single map of a mixture may be of any."""
    states = range(1, len(case.molecules) + 1)
    found = [compare(folder, out, case.structures[s - 1].symmetry, s) | {"state": s} for s in states]
    return max(found, key=lambda t: t["share_of_all"])


def majority(case: Case, folder: Path) -> int:
    """The state (from 1) of most images: that from whose map the reference starts."""
    state = read_star(folder / "truth.star")["particles"]["rlnClassNumber"].to_numpy()
    return int(np.bincount(state[state > 0]).argmax()) if case.kind != "noise" else 1


def command(case: Case, folder: Path, name: str, out: Path) -> list[str | Path]:
    """The command line: defaults but for seed, symmetry and one thread."""
    words: list[str | Path] = [CRYOLOOM, name, folder / "particles.star", "-o", out, "--seed", str(case.seed)]
    words += ["-j", "1", "-q"]
    if name == "refine":
        words += ["--from", folder / f"truth_{majority(case, folder):03d}.mrc"]
    return words + ([] if case.symmetry == "C1" else ["--symmetry", case.symmetry])


def run(case: Case, folder: Path, name: str, cpu_limit_s: int) -> dict[str, Any]:
    """A command on the set, measured; its verdict, the evidence behind it, and its scores against the truth."""
    out, log = folder / name, folder / f"{name}.log"
    # the limit is the kernel's: the process is killed, whatever it does
    limited = ["prlimit", f"--cpu={cpu_limit_s}", *command(case, folder, name, out)]
    spent = run_measured(limited, log, environment={"OMP_NUM_THREADS": "1"})
    result = {"status": status(spent, cpu_limit_s), **asdict(spent), "starts": starts(out)}
    if result["status"] != "finished":
        said = log.read_text(errors="replace")[-600:] if spent.returncode > 0 else ""
        return result | {"log": said, "status": "not seen" if NOT_SEEN in said else result["status"]}
    verdict = json.loads((out / "run.json").read_text())["verdict"]
    result |= {
        "outcome": verdict["outcome"],
        "resolution_angstrom": verdict["resolution_angstrom"],
        "evidence": verdict["evidence"],
        "iterations": metrics_of(out, "refine"),
        "fsc": curves(out / "fsc.csv"),
        "particles": quantiles(out / "particles.star"),
    }
    if case.kind != "noise":
        result["truth"] = best_compared(case, folder, out)
    return result


def status(spent: Measured, cpu_limit_s: float) -> str:
    """How a command ended: "finished", "not finished" (stopped by the limit on CPU time) or "error"."""
    if spent.returncode == 0:
        return "finished"
    # the kernel's clock of the limit and that of the times used differ by fractions of a second
    stopped = spent.returncode < 0 and spent.cpu_s >= 0.98 * cpu_limit_s - 1
    return "not finished" if stopped else "error"


def starts(run_folder: Path) -> list[dict[str, float]]:
    """Evidence of each finished random start, the resolution at which it ended, and the similarity of its map to those
    of earlier starts of the same schedule."""
    return [
        {k: v for k, v in m.items() if k in ("start_evidence", "resolution_angstrom") or k.startswith("likeness_to_")}
        for m in metrics_of(run_folder, "abinit")
        if "start_evidence" in m
    ]


def metrics_of(run_folder: Path, stage: str) -> list[dict[str, float]]:
    """Metrics of each step of a stage, and the resolution that was said."""
    path = run_folder / "metrics.jsonl"
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0].splitlines()  # a run that was killed may end within a line
    steps = [step for line in whole if (step := json.loads(line))["stage"] == stage]
    return [s["metrics"] | {"resolution_angstrom": s["resolution_angstrom"]} for s in steps]


def curves(path: Path) -> dict[str, list[float]]:
    """The FSC curves of fsc.csv by shell."""
    names, *lines = path.read_text().splitlines()
    columns = dict(zip(names.split(","), np.array([x.split(",") for x in lines], float).T, strict=True))
    return {name: [round(float(x), 4) for x in columns[name]] for name in ("unmasked", "masked", "corrected")}


def quantiles(path: Path) -> dict[str, list[float]]:
    """Quantiles of what particles.star says of each image, from the smallest to the largest."""
    table = read_star(path)["particles"]
    at = np.linspace(0, 1, QUANTILES)
    return {name: np.quantile(table[column].to_numpy(float), at).tolist() for name, column in PARTICLES.items()}
