#!/usr/bin/env python3
"""cryoloom and RELION 3.1.3 on one set, one after the other on one machine: side_by_side.py [--set ribosome]

- `cryoloom reconstruct`, default settings, from nothing to refined map and poses;
- RELION's InitialModel (relion_refine --sgd --denovo_3dref) as its GUI calls it by default, stopped after --cpu-budget
  CPU-seconds, and with reduced settings (--maxsig 100, 20 + 80 + 20 iterations), likewise; the map and the poses of the
  last iteration that it wrote are scored;
- one relion_refine E-step on the true map (oracle_relion.py), for scale: accuracy and CPU-seconds an image.
Everything runs on one thread's worth of work at a time; CPU is user + system. Needs RELION on PATH.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from bench import (
    CRYOLOOM,
    RESULTS,
    ROOT,
    commit,
    evaluator,
    machine,
    make_set,
    read_star,
    relion_version,
    run_measured,
    write_json,
    write_star,
)
from catalogue import BY_NAME
from oracle_relion import diameter_angstrom, e_step
from score_run import scores, shell_of_map, stage_cpu_s


@dataclass(frozen=True, slots=True)
class InitialModel:
    """Settings of RELION's InitialModel job."""

    name: str
    iterations: tuple[int, int, int]  # initial, in between, final
    extra: tuple[str, ...] = ()
    classes: int = 1


DEFAULT = InitialModel("relion InitialModel, GUI defaults", (50, 200, 50))
REDUCED = InitialModel("relion InitialModel, reduced", (20, 80, 20), ("--maxsig", "100"))


def relion_initial_model(folder: Path, work: Path, job: InitialModel, seed: int, budget_s: float, nice: int) -> dict:
    """Run RELION's InitialModel until it ends or has used its budget, and score what it wrote last."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    volume = np.asarray(mrcfile.read(folder / "truth_001.mrc"))
    pixel = float(read_star(folder / "truth.star")["optics"]["rlnImagePixelSize"].iloc[0])
    first, between, last = (str(n) for n in job.iterations)
    command = [
        "relion_refine",
        "--o",
        work / "run",
        "--i",
        "particles.star",
        "--sgd",
        "--denovo_3dref",
        "--sgd_ini_iter",
        first,
        "--sgd_inbetween_iter",
        between,
        "--sgd_fin_iter",
        last,
        "--sgd_write_iter",
        "1",
        "--sgd_ini_resol",
        "35",
        "--sgd_fin_resol",
        "15",
        "--sgd_ini_subset",
        "100",
        "--sgd_fin_subset",
        "500",
        "--ctf",
        "--K",
        str(job.classes),
        "--sym",
        "C1",
        "--flatten_solvent",
        "--zero_mask",
        "--dont_combine_weights_via_disc",
        "--pool",
        "3",
        "--pad",
        "1",
        "--skip_gridding",
        "--particle_diameter",
        f"{diameter_angstrom(volume, pixel):.0f}",
        "--oversampling",
        "1",
        "--healpix_order",
        "1",
        "--offset_range",
        "6",
        "--offset_step",
        "2",
        "--j",
        "1",
        "--random_seed",
        str(seed),
        *job.extra,
    ]
    spent = run_measured(
        command, work / "log", cwd=folder, cpu_budget_s=budget_s, environment={"OMP_NUM_THREADS": "1"}, nice=nice
    )
    log = (work / "log").read_text(errors="replace")
    if spent.returncode and not spent.stopped:
        return {"program": job.name, "failed": log[-1000:]}
    result = {
        "program": job.name,
        "cpu_s": spent.cpu_s,
        "wall_s": spent.wall_s,
        "peak_rss_bytes": spent.peak_rss_bytes,
        "stopped_at_budget": spent.stopped,
        "iterations": 0,
        "of": sum(job.iterations),
        "warnings": [line.strip() for line in log.splitlines() if "WARNING" in line][:5],
        "command": " ".join(str(c).replace(str(work), "WORK") for c in command),
    }
    written = sorted(work.glob("run_it*_class001.mrc"))
    if written:
        number = written[-1].name[6:9]
        result["iterations"] = int(number)
        result["fsc0.5_shell"] = shell_of_map(folder, written[-1])
        result |= _poses_so_far(folder, work / f"run_it{number}_data.star")
    return result


def _poses_so_far(folder: Path, data: Path) -> dict:
    """Accuracy over those particles that the stochastic iterations have looked at."""
    if not data.exists():
        return {}
    tables = read_star(data)
    seen = tables["particles"]["rlnMaxValueProbDistribution"].to_numpy(float) > 0
    if not seen.any():
        return {}
    tables["particles"] = tables["particles"].iloc[np.flatnonzero(seen)]
    truth = read_star(folder / "truth.star")
    order = truth["particles"].set_index("rlnImageName").loc[tables["particles"]["rlnImageName"]]
    truth["particles"] = order.reset_index()
    write_star(data.with_name("seen.star"), tables)
    write_star(data.with_name("seen_truth.star"), truth)
    found = evaluator().evaluate(str(data.with_name("seen_truth.star")), str(data.with_name("seen.star")))
    kept = ("rotation_median_deg", "rotation_frac_below_10deg", "shift_median_px")
    return {"particles_seen": int(seen.sum()), **{k: found[k] for k in kept}}


def cryoloom(folder: Path, work: Path, seed: int, symmetry: str) -> dict:
    """`cryoloom reconstruct`, measured and scored."""
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    command = [CRYOLOOM, "reconstruct", folder / "particles.star", "-o", work, "--seed", str(seed)]
    spent = run_measured(command, work.with_suffix(".log"))
    if spent.returncode:
        return {"program": "cryoloom reconstruct", "failed": work.with_suffix(".log").read_text()[-1000:]}
    found = scores(folder, work, symmetry)
    kept = ("fsc0.5_shell", "rotation_median_deg", "rotation_frac_below_10deg", "shift_median_px")
    return {
        "program": "cryoloom reconstruct",
        "cpu_s": spent.cpu_s,
        "wall_s": spent.wall_s,
        "peak_rss_bytes": spent.peak_rss_bytes,
        "stage_cpu_s": stage_cpu_s(work),
        **{k: found[k] for k in kept},
    }


def main() -> None:
    """Run the programs in turn and write results/side_by_side-SET.json and .md."""
    programs = ("cryoloom", "default", "reduced", "e-step")
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--set", default="ribosome", choices=sorted(BY_NAME))
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--cpu-budget", type=float, default=600.0, help="CPU-seconds for each of RELION's InitialModel runs")
    p.add_argument("--e-step-particles", type=int, default=500)
    p.add_argument("--programs", nargs="+", default=programs, choices=programs)
    p.add_argument("--workdir", type=Path, default=ROOT / "run-benchmarks")
    p.add_argument("--set-folder", type=Path)
    p.add_argument("--nice", type=int, default=0, help="for RELION, where others work on this machine")
    p.add_argument("--output", type=Path, default=RESULTS)
    a = p.parse_args()
    folder = make_set(a.set, a.seed, (a.set_folder or a.workdir / "sets").absolute()).resolve()
    work = a.workdir.absolute() / "side_by_side"
    lines = []
    for program in a.programs:
        if program == "cryoloom":
            lines.append(cryoloom(folder, work / "cryoloom", a.seed, BY_NAME[a.set].symmetry))
        elif program == "e-step":
            found = e_step(folder, a.e_step_particles, seed=a.seed, nice=a.nice)
            lines.append({"program": "relion_refine, one E-step on the true map", **found})
        else:
            job = DEFAULT if program == "default" else REDUCED
            lines.append(
                relion_initial_model(folder, work / program, job=job, seed=a.seed, budget_s=a.cpu_budget, nice=a.nice)
            )
        print({k: v for k, v in lines[-1].items() if k not in ("command", "stage_cpu_s")}, flush=True)
    ours = next((r.get("cpu_s") for r in lines if r["program"].startswith("cryoloom")), None)
    for r in lines:
        if ours and "cpu_s" in r and not r["program"].startswith("cryoloom"):
            r["cpu_over_cryoloom"] = r["cpu_s"] / ours
    shutil.rmtree(work, ignore_errors=True)
    document = {
        "set": folder.name,
        "machine": machine(),
        "commit": commit(),
        "relion": relion_version(),
        "cpu_budget_s": a.cpu_budget,
        "programs": lines,
    }
    write_json(a.output / f"side_by_side-{a.set}.json", document)
    (a.output / f"side_by_side-{a.set}.md").write_text(table(document))


def table(document: dict) -> str:
    """The result as Markdown."""
    out = [
        f"# {document['set']}, {document['machine']}",
        "",
        "| program | CPU-s | over cryoloom | GiB | iterations | FSC-0.5 shell | median, deg | < 10 deg | shift, px |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in document["programs"]:

        def cell(key: str, digits: int, r: dict = r) -> str:
            return f"{r[key]:.{digits}f}" if isinstance(r.get(key), float) else ""

        iterations = f"{r['iterations']} of {r['of']}" if "iterations" in r else ""
        if r.get("stopped_at_budget"):
            iterations += ", stopped"
        name = r["program"] + (": failed" if "failed" in r else "")
        if r["program"].endswith("true map"):
            name += f" ({r['particles']} images)"
        memory = f"{r['peak_rss_bytes'] / 2**30:.2f}" if "peak_rss_bytes" in r else ""
        cells = [
            name,
            cell("cpu_s", 1),
            cell("cpu_over_cryoloom", 1),
            memory,
            iterations,
            cell("fsc0.5_shell", 1),
            cell("rotation_median_deg", 2),
            cell("rotation_frac_below_10deg", 3),
            cell("shift_median_px", 3),
        ]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
