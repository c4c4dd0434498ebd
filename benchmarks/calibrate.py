#!/usr/bin/env python3
"""The verdict against the truth over hundreds of small runs: calibrate.py run | report | fit | plan

run: makes each case of the plan (../shared/bench; needs RELION), runs `cryoloom reconstruct` and `cryoloom refine
--from` the true map on it with one thread and a limit on CPU time, scores both and appends the evidence as one line to
results/calibration.jsonl. Cases that have a line of the present program are skipped; several workers, and several
commands, may run at once.
report: judges the evidence anew with today's `jobs/verdict.py` and writes results/calibration.md.
fit: how the verdicts on the fit half change with each threshold, to choose by. plan: what the plan holds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import RESULTS, ROOT, machine, program
from calibration.measure import CPU_LIMIT_S, measure
from calibration.plan import Case, plan
from calibration.rows import append, claimed, missing, read


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked for."""
    a = arguments(argv)
    return a.do(a)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--results", type=Path, default=RESULTS / "calibration.jsonl", help="a line a run")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    r = actions.add_parser("run", help="make the runs that have no result yet")
    r.add_argument("--workers", type=int, default=1, help="runs at once, one thread each")
    where = ROOT / "run-benchmarks" / "calibration"
    r.add_argument("--workdir", type=Path, default=where, help="sets, runs, maps; one for all that share RESULTS")
    r.add_argument("--cpu-limit", type=int, default=CPU_LIMIT_S, help="of each command, seconds")
    r.add_argument("--cases", nargs="+", metavar="ID", help="these alone")
    r.add_argument(
        "--also",
        nargs="+",
        default=[],
        metavar="PROGRAM",
        help="keep lines of these programs as well: trees of `src` whose runs come out alike",
    )
    r.add_argument("--first", type=int, help="the first so many cases of the plan alone")
    r.add_argument("--keep", action="store_true", help="keep sets and run folders")
    r.set_defaults(do=run)
    s = actions.add_parser("report", help="judge the evidence and write the tables")
    s.add_argument("--out", type=Path, default=RESULTS / "calibration.md")
    s.set_defaults(do=report)
    f = actions.add_parser("fit", help="verdicts on the fit half along a grid of each threshold")
    f.set_defaults(do=fit)
    actions.add_parser("plan", help="list the cases").set_defaults(do=list_plan)
    return p.parse_args(argv)


def run(a: argparse.Namespace) -> int:
    """The runs that are missing."""
    cases = plan()[: a.first]
    if a.cases:
        unknown = set(a.cases) - {c.id for c in cases}
        if unknown:
            raise SystemExit(f"no case named {', '.join(sorted(unknown))}; calibrate.py plan lists them")
        cases = [c for c in cases if c.id in a.cases]
    programs = {program(), *a.also}
    todo = missing(cases, a.results, programs)
    print(f"{len(todo)} of {len(cases)} runs to do on {machine()}", flush=True)
    work = a.workdir.absolute()
    one = partial(run_case, work=work, results=a.results, programs=programs, cpu_limit_s=a.cpu_limit, keep=a.keep)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # read by the new processes when they load numerical libraries
    # new processes: one that has loaded threads of numerical libraries must not be forked
    with multiprocessing.get_context("spawn").Pool(a.workers, maxtasksperchild=8) as pool:
        for number, said in enumerate(pool.imap_unordered(one, todo), 1):
            print(f"[{number}/{len(todo)}] {said}", flush=True)
    left = [c.id for c in missing(cases, a.results, programs)]
    if left:
        print(f"{len(left)} runs have no result: {', '.join(left)}", flush=True)
    return 1 if left else 0


def run_case(case: Case, *, work: Path, results: Path, programs: set[str], cpu_limit_s: int, keep: bool) -> str:
    """One case, unless another process has it or has had it; a line on what came out."""
    with claimed(case, work / "locks") as mine:
        if not mine or not missing([case], results, programs):
            return f"{case.id}: done by another process"
        try:
            row = measure(case, work, cpu_limit_s, keep)
        except Exception:  # whatever a case does, the hundreds of others go on; it has no row and is tried again
            return f"{case.id}: not measured\n{traceback.format_exc()}"
        append(results, row)
    return summary(row)


def summary(row: dict) -> str:
    """A run in one line."""
    words = [f"{row['case']['id']} ({row['case']['level']}):"]
    for name in ("run", "reference"):
        if name in row:
            r = row[name]
            share = f" {r['truth']['share_of_all']:.3f}" if "truth" in r else ""
            words.append(f"{name} {r.get('outcome', r['status'])}{share}, {r.get('cpu_s', 0):.0f} CPU-s;")
    return " ".join(words)


def report(a: argparse.Namespace) -> int:
    """Tables of the evidence as it is judged today."""
    from calibration.report import tables

    a.out.write_text(tables(list(read(a.results).values()), len(plan())))
    print(a.out)
    return 0


def fit(a: argparse.Namespace) -> int:
    """Thresholds along their grids."""
    from calibration.fit import grids

    print(grids([r for r in read(a.results).values() if r["case"]["half"] == "fit"]))
    return 0


def list_plan(_: argparse.Namespace) -> int:
    """A line a case."""
    for c in plan():
        extra = " ".join(f"{k}={v}" for k, v in c.nuisances)
        print(
            f"{c.id:22} {c.level:9} {c.half:7} {'+'.join(c.molecules):28} {c.box} px {c.images:5} images "
            f"SNR {c.snr:.4f} {c.symmetry:3} {'wide' if c.wide else '':5} {extra}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
