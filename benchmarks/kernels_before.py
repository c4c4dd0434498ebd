#!/usr/bin/env python3
"""Kernels of this tree beside those of an earlier one, in turns on one machine: kernels_before.py --before FOLDER

FOLDER is a checkout of the earlier commit. Each tree does what its program does with a batch of images: one without
`dispatch.Insertion` takes them in any order and adds whole grids; one with it takes them in the order of their views,
as neighbours among --views images, and adds to sums that are there. One thread; CPU-microseconds an image, the least of
the repeats of all turns; results/kernels_before.json and .md. The floor is that of kernels.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from bench import RESULTS, ROOT, commit, machine, write_json

KERNELS = ("slices", "normal equations", "residual power", "insertion")


def measure(box: int, views: int, repeats: int) -> dict[str, float]:
    """CPU-microseconds an image of the kernels of the tree that is on the path, and their floors."""
    import torch

    from cryoloom.kernels import dispatch
    from cryoloom.kernels.images import Samples
    from cryoloom.physics.rotations import random_rotations
    from kernels import Bench, measure_peak, scattered, timed

    torch.set_num_threads(1)
    count = 500 if box <= 128 else 128
    generator = torch.Generator().manual_seed(1)
    bench = Bench.create(box, count, generator)
    R = random_rotations(views, generator).float()
    ordered = hasattr(dispatch, "Insertion")
    if ordered:
        from cryoloom.kernels.order import view_order

        middle = views // 2
        R = R[view_order(R)[middle : middle + count]]
    R = R[:count].contiguous()
    samples = Samples(torch.arange(count), R, bench.t, torch.ones(count))
    side = bench.grid.shape[0]
    sums = dispatch.Insertion(side) if ordered else [dispatch.insert(bench.images, samples, side)]

    def insert() -> None:
        if ordered:
            sums.add(bench.images, samples)
        else:
            sums[0] = tuple(a + b for a, b in zip(sums[0], dispatch.insert(bench.images, samples, side), strict=True))

    calls = (
        lambda: dispatch.slices(bench.grid, R, bench.images.disc),
        lambda: dispatch.normal_equations(bench.grid, bench.images, samples.image, R, bench.t),
        lambda: dispatch.residual_power(bench.grid, bench.images, samples),
        insert,
    )
    found = {name: 1e6 * timed(call, repeats)[0] / count for name, call in zip(KERNELS, calls, strict=True)}
    if ordered:
        peak = measure_peak(1)
        timings = scattered(bench, peak, 1)
        floors = [max(t.floor_compute_s, t.floor_memory_s) / t.items for t in timings]
        names = [t.kernel.replace("_", " ").replace("insert", "insertion") for t in timings]
        found |= {f"floor of {name}": 1e6 * floor for name, floor in zip(names, floors, strict=True)}
    return found


def in_tree(tree: Path, box: int, views: int, repeats: int) -> dict[str, float]:
    """`measure` with the package of a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", str(box), str(views), str(repeats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def least(old: dict[str, float], new: dict[str, float]) -> dict[str, float]:
    """The smaller value of each."""
    return {name: min(value, old.get(name, value)) for name, value in new.items()}


def table(rows: list[dict]) -> str:
    """All figures as Markdown."""
    lines = ["| box | views | kernel | before | now | ratio | floor |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        for name in KERNELS:
            before, now = row["before"][name], row["now"][name]
            floor = row["now"][f"floor of {name}"]
            where = f"| {row['box']} | {row['views']:,} | {name} |"
            lines.append(f"{where} {before:.0f} | {now:.0f} | {now / before:.2f} | {floor:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="checkout of the earlier commit")
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--views", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--one", type=int, nargs=3, metavar=("BOX", "VIEWS", "REPEATS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one)))
        return
    if arguments.before is None:
        parser.error("--before FOLDER: expected a checkout of the earlier commit")
    rows = []
    for box in arguments.boxes:
        for views in arguments.views:
            row: dict = {"box": box, "views": views, "before": {}, "now": {}}
            for _ in range(arguments.turns):
                for name, tree in (("before", arguments.before.resolve()), ("now", ROOT)):
                    row[name] = least(row[name], in_tree(tree, box, views, 4))
            rows.append(row)
            print(table([row]), flush=True)
    before = subprocess.run(
        ["git", "-C", str(arguments.before), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    write_json(
        RESULTS / "kernels_before.json",
        {"machine": machine(), "commit": commit(), "before": before, "unit": "CPU-us an image", "rows": rows},
    )
    head = (
        f"# Kernels before and now\n\nCPU-microseconds an image on one thread of a {machine()}, commit {commit()} "
        f"beside {before}, measured in turns (`benchmarks/kernels_before.py`).\n\n"
    )
    (RESULTS / "kernels_before.md").write_text(head + table(rows) + "\n")


if __name__ == "__main__":
    main()
