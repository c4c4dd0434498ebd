"""The estimate of the time left beside the truth: time_left.py [SET ...] [--seeds N ...] [--workdir DIR]

Each set is run once with default settings; the lines of its progress hold the elapsed time and the estimate of what is
left, which is compared with what was left in truth. The target: within a factor of 2 from half-way on.
Results: results/time_left.json.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from bench import CRYOLOOM, RESULTS, ROOT, commit, machine, make_set, run_measured, write_json

LINE = re.compile(r"^(\w+): .*?, (\d+(?::\d\d){1,2})(?:, about (\d+(?::\d\d){1,2}) left)?, CPU ")
SHORTEST_S = 5.0  # what is left at the very end is rounding


def seconds(clock: str) -> float:
    """Seconds of 0:07, 12:34 or 1:02:03."""
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total


def estimates(lines: Iterable[str]) -> list[tuple[str, float, float | None]]:
    """Stage, elapsed seconds and seconds left by the estimate, None where there is none, of each line of progress."""
    found = [LINE.match(line) for line in lines]
    return [(m[1], seconds(m[2]), None if m[3] is None else seconds(m[3])) for m in found if m]


def judged(log: Path, wall_s: float) -> dict:
    """How good the estimates of a run's log are from half-way on."""
    rows = [row for row in estimates(log.read_text().splitlines()) if wall_s - row[1] >= SHORTEST_S]
    late = [(stage, at, left) for stage, at, left in rows if at >= 0.5 * wall_s]
    ratios = [left / (wall_s - at) for _, at, left in late if left is not None]
    return {
        "wall_s": wall_s,
        "lines": [{"stage": s, "elapsed_s": at, "estimate_s": left, "true_s": wall_s - at} for s, at, left in rows],
        "without_estimate": sum(left is None for _, _, left in late),
        "ratio_min": min(ratios, default=None),
        "ratio_median": statistics.median(ratios) if ratios else None,
        "ratio_max": max(ratios, default=None),
        "within_factor_2": bool(ratios) and all(0.5 <= r <= 2 for r in ratios),
    }


def main() -> None:
    """Run the sets and write what was found."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sets", nargs="*", default=["ribosome", "adk", "adk-hard"], help="default: ribosome adk adk-hard")
    p.add_argument("--seeds", nargs="+", type=int, default=[1])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workdir", type=Path, default=ROOT / "run-benchmarks")
    p.add_argument("--set-folder", type=Path, help="where the sets are or will be made (default: WORKDIR/sets)")
    a = p.parse_args()
    results = {"machine": machine(), "commit": commit(), "threads": a.threads, "runs": {}}
    for name in a.sets:
        for seed in a.seeds:
            folder = make_set(name, seed, a.set_folder or a.workdir / "sets")
            run, log = a.workdir / "time-left" / folder.name, a.workdir / "time-left" / f"{folder.name}.log"
            command = [
                CRYOLOOM,
                "reconstruct",
                folder / "particles.star",
                "-o",
                run,
                "-j",
                str(a.threads),
                "--overwrite",
            ]
            measured = run_measured(command, log)
            if measured.returncode:
                raise SystemExit(f"{folder.name}: cryoloom failed, see {log}")
            found = judged(log, measured.wall_s)
            results["runs"][folder.name] = found
            print(
                f"{folder.name}: {found['wall_s']:.0f} s, estimate / truth from half-way on "
                f"{found['ratio_min']} to {found['ratio_max']}",
                flush=True,
            )
    write_json(RESULTS / "time_left.json", results)


if __name__ == "__main__":
    main()
