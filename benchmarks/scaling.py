#!/usr/bin/env python3
"""How cost grows with the number of images and with the box: scaling.py [--counts 2500 ... 40000] [--boxes 32 ... 128]

Simulates a 70S ribosome with ../shared/bench (make_map.py and simulate.py; needs RELION): N images of 64 px at SNR 0.1,
and --box-count images of D px of the same field of view and dose, so that SNR (whose noise is that of a pixel) is
0.1 (64 / D)^2. Runs `cryoloom reconstruct` on each with default settings and writes CPU-seconds (in all and by stage),
wall time, peak memory and the share of particles below 10 degrees to results/scaling.json and scaling.md, with the
power of N and of D by which CPU-seconds grow. Sets are removed again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench import CRYOLOOM, RESULTS, ROOT, SHARED_BENCH, commit, evaluator, machine, read_json, run_measured, write_json
from score_run import stage_cpu_s

FIELD_ANGSTROM = 64 * 5.6
MODEL = SHARED_BENCH.parent / "data" / "models" / "ribosome70S_5states" / "grp0.pdb.gz"


def simulated(work: Path, count: int, box: int, snr: float, seed: int) -> Path:
    """A set of `count` images of `box` px."""
    pixel = FIELD_ANGSTROM / box
    density, folder = work / f"70S-{box}.mrc", work / f"n{count}-d{box}"
    if not density.exists():
        b_factor = ["--b", "60"] if pixel < 3 else []
        subprocess.run(
            [
                sys.executable,
                str(SHARED_BENCH / "make_map.py"),
                str(MODEL),
                str(density),
                "--box",
                str(box),
                "--pixel",
                f"{pixel:.6f}",
                *b_factor,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    subprocess.run(
        [
            sys.executable,
            str(SHARED_BENCH / "simulate.py"),
            str(folder),
            str(density),
            "-n",
            str(count),
            "--snr",
            str(snr),
            "--seed",
            str(seed),
            "--shift",
            str(1.5 * box / 64),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder


def point(work: Path, count: int, box: int, snr: float, seed: int) -> dict:
    """One run, measured; its set is removed."""
    folder = simulated(work, count, box, snr, seed)
    run_folder, log = work / f"run-n{count}-d{box}", work / f"run-n{count}-d{box}.log"
    shutil.rmtree(run_folder, ignore_errors=True)
    command = [CRYOLOOM, "reconstruct", folder / "particles.star", "-o", run_folder, "--seed", str(seed)]
    spent = run_measured(command, log)
    out = {
        "particles": count,
        "box": box,
        "snr": snr,
        "cpu_s": spent.cpu_s,
        "wall_s": spent.wall_s,
        "peak_rss_bytes": spent.peak_rss_bytes,
        "commit": commit(),
    }
    if spent.returncode:
        out["failed"] = log.read_text(errors="replace")[-1000:]
    else:
        found = evaluator().evaluate(str(folder / "truth.star"), str(run_folder / "particles.star"))
        out["stage_cpu_s"] = stage_cpu_s(run_folder)
        out["rotation_frac_below_10deg"] = found["rotation_frac_below_10deg"]
        out["rotation_median_deg"] = found["rotation_median_deg"]
    shutil.rmtree(folder)
    shutil.rmtree(run_folder, ignore_errors=True)
    return out


def power(points: list[dict], key: str) -> float | None:
    """Least-squares slope of log CPU-seconds against log of a quantity."""
    good = [p for p in points if "failed" not in p]
    if len(good) < 2:
        return None
    return float(np.polyfit(np.log([p[key] for p in good]), np.log([p["cpu_s"] for p in good]), 1)[0])


def main() -> None:
    """Run all points that have no result yet."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--counts", nargs="*", type=int, default=[2500, 5000, 10000, 20000, 40000])
    p.add_argument("--boxes", nargs="*", type=int, default=[32, 48, 64, 96, 128])
    p.add_argument("--box-count", type=int, default=5000, help="images of each box")
    p.add_argument("--snr", type=float, default=0.1, help="of images of 64 px")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workdir", type=Path, default=ROOT / "run-benchmarks")
    p.add_argument("--force", action="store_true", help="measure again what has a result")
    p.add_argument("--output", type=Path, default=RESULTS)
    a = p.parse_args()
    work = a.workdir.absolute() / "scaling"
    work.mkdir(parents=True, exist_ok=True)
    target = a.output / "scaling.json"
    known = [] if a.force else (read_json(target) or {}).get("points", [])
    done = {(r["particles"], r["box"]): r for r in known if "failed" not in r}
    wanted = sorted({(n, 64) for n in a.counts} | {(a.box_count, d) for d in a.boxes}, key=lambda x: x[0] * x[1] ** 2)
    for count, box in wanted:
        if (count, box) not in done:
            done[count, box] = point(work, count, box, a.snr * (64 / box) ** 2, a.seed)
            print({k: v for k, v in done[count, box].items() if k != "stage_cpu_s"}, flush=True)
            report(a.output, list(done.values()), a.box_count)
    report(a.output, list(done.values()), a.box_count)


def report(output: Path, points: list[dict], box_count: int) -> None:
    """scaling.json and scaling.md."""
    by_count = sorted((p for p in points if p["box"] == 64), key=lambda p: p["particles"])
    by_box = sorted((p for p in points if p["particles"] == box_count), key=lambda p: p["box"])
    powers = {"particles": power(by_count, "particles"), "box": power(by_box, "box")}
    write_json(output / "scaling.json", {"machine": machine(), "cpu_s_grows_as_power_of": powers, "points": points})
    lines = [f"# Growth with images and box, {machine()}", ""]
    for title, key, rows in (("images of 64 px", "particles", by_count), (f"box, {box_count} images", "box", by_box)):
        stages = list(dict.fromkeys(s for r in rows for s in r.get("stage_cpu_s", {})))
        lines += [
            f"| {title} | CPU-s | {''.join(f'{s} | ' for s in stages)}wall, s | GiB | < 10 deg | median, deg |",
            "|---|---|" + "---|" * len(stages) + "---|---|---|---|",
        ]
        for r in rows:
            by_stage = "".join(f"{r.get('stage_cpu_s', {}).get(s, 0):.1f} | " for s in stages)
            scores = "failed | "
            if "failed" not in r:
                scores = f"{r['rotation_frac_below_10deg']:.3f} | {r['rotation_median_deg']:.2f}"
            lines.append(
                f"| {r[key]} | {r['cpu_s']:.1f} | {by_stage}{r['wall_s']:.1f} "
                f"| {r['peak_rss_bytes'] / 2**30:.2f} | {scores} |"
            )
        slope = powers[key]
        lines += ["", "" if slope is None else f"CPU-seconds grow as the power {slope:.2f}.", ""]
    (output / "scaling.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
