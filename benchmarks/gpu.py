#!/usr/bin/env python3
"""A whole job on a GPU beside the same job on the CPU: gpu.py MODEL [--sizes 5000x64 20000x128] [--out FOLDER]

Simulates N images of D px of an atomic model, with the same field of view and dose for every D, and runs
`cryoloom reconstruct` with default settings on them, once with `--device cuda` and once with `--device cpu` and all
cores. Writes wall time (in all and by stage), CPU-seconds, peak memory, the verdict and, against the truth, the errors
of the poses to gpu.json and gpu.md. A run more on each GPU, not timed, counts copies to and from the GPU and what the
CPU waits for, by line of code (transfers.py). The sets are our own simulator's: what is compared is the time on either
device, and whether both give the same result. Needs a GPU; neither RELION nor the shared folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from bench import RESULTS, ROOT, commit, machine, run_measured, write_json

PROGRAM = (sys.executable, "-m", "cryoloom.cli.main")
SNR_AT_64 = 0.1  # per pixel; the noise is that of a pixel, the signal that of the field of view
TITLES = ("images", "box, px", "device", "wall, s", "ab initio, s", "refinement, s", "CPU-s", "peak GB", "verdict",
          "resolution, Å", "median error, degrees", "below 10 degrees")  # fmt: skip


def simulated(work: Path, model: Path, count: int, box: int, seed: int) -> Path:
    """A set of `count` images of `box` px."""
    folder = work / f"n{count}-d{box}"
    command = [*PROGRAM, "simulate", str(model), "-o", str(folder), "-n", str(count), "--box", str(box)]
    command += ["--snr", f"{SNR_AT_64 * (64 / box) ** 2:.5f}", "--shift", f"{1.5 * box / 64:.2f}", "--b-factor", "60"]
    subprocess.run([*command, "--dtype", "float16", "--seed", str(seed), "-q"], check=True)
    return folder


def errors(folder: Path, run: Path) -> dict[str, float]:
    """Errors of the poses of a run, by the program's own comparison with the truth."""
    command = [*PROGRAM, "evaluate", str(run), "--truth", str(folder / "truth.star"), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def point(work: Path, folder: Path, device: str, seed: int) -> dict:
    """One run, measured; its folder is removed."""
    run = work / f"{folder.name}-{device}"
    command = [*PROGRAM, "reconstruct", folder / "particles.star", "-o", run, "--seed", str(seed), "--device", device]
    log = work / f"{run.name}.log"
    spent = run_measured(command, log)
    out: dict = {"device": device, "wall_s": spent.wall_s, "cpu_s": spent.cpu_s, "peak_bytes": spent.peak_rss_bytes}
    if spent.returncode:
        return out | {"failed": log.read_text(errors="replace")[-600:]}
    record = json.loads((run / "run.json").read_text())
    verdict = record["verdict"]
    out |= {"timings": record["timings"], "outcome": verdict["outcome"], "angstrom": verdict["resolution_angstrom"]}
    out["truth"] = errors(folder, run)
    shutil.rmtree(run)
    return out


def transfers(work: Path, folder: Path, seed: int) -> dict:
    """What one run copies and waits for (see transfers.py); its folder is removed."""
    run, out = work / f"{folder.name}-counted", work / f"{folder.name}-counted.json"
    command = [sys.executable, ROOT / "benchmarks" / "transfers.py", out, "reconstruct", folder / "particles.star"]
    subprocess.run([*command, "-o", run, "--seed", str(seed), "--device", "cuda", "-q"], check=True)
    shutil.rmtree(run)
    return json.loads(out.read_text())


def counted(found: dict[str, dict]) -> str:
    """Copies and waits of each size, Markdown."""
    lines = ["", "Copies between the GPU and main memory, and what the CPU waits for on it:", ""]
    lines += ["| images x box | to the GPU | GB | from the GPU | GB | waits | most waits at |", "|" + " --- |" * 7]
    for size, f in found.items():
        most = "; ".join(f"{place}: {n:,}" for place, n in f["most_waits"][:3])
        ways = " | ".join(f"{f[way]['copies']:,} | {f[way]['bytes'] / 1e9:.2f}" for way in ("to", "from"))
        lines.append(f"| {size} | {ways} | {f['waits']:,} | {most} |")
    return "\n".join(lines) + "\n"


def table(rows: list[dict], where: str) -> str:
    """Markdown."""
    lines = [f"Whole jobs on {where}.", "", "| " + " | ".join(TITLES) + " |", "|" + " --- |" * len(TITLES)]
    for r in rows:
        cells = [f"{r['images']:,}", r["box"], r["device"], f"{r['wall_s']:.0f}"]
        if "failed" in r:
            lines.append("| " + " | ".join(map(str, [*cells, "failed"])) + " |")
            continue
        stages = {t["stage"]: t["wall_s"] for t in r["timings"]}
        cells += [f"{stages[name]:.1f}" for name in ("abinit", "refine")]
        cells += [f"{r['cpu_s']:.0f}", f"{r['peak_bytes'] / 1e9:.2f}", r["outcome"], f"{r['angstrom'] or 0:.1f}"]
        truth = r["truth"]
        cells += [f"{truth['rotation_median_deg']:.2f}", f"{truth['rotation_frac_below_10deg']:.3f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure what is asked for; results are written after each run."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path, help="atomic model")
    p.add_argument("--sizes", nargs="+", default=["5000x64", "20000x128"], metavar="NxD", help="images x pixels")
    p.add_argument("--devices", nargs="+", default=["cuda", "cpu"])
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--work", type=Path, default=ROOT / "run-benchmarks" / "gpu")
    p.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.json and gpu.md")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    gpu = [torch.cuda.get_device_name()] if "cuda" in a.devices else []
    where = f"{a.model.name}, {' and '.join([*gpu, machine()])}, torch {torch.__version__}, commit {commit()}"
    rows: list[dict] = []
    moved: dict[str, dict] = {}
    for size in a.sizes:
        count, box = map(int, size.split("x"))
        folder = simulated(a.work, a.model, count, box, a.seed)
        for device in a.devices:
            rows.append({"images": count, "box": box, **point(a.work, folder, device, a.seed)})
            print(f"{size} {device}: {rows[-1]['wall_s']:.0f} s wall, {rows[-1]['cpu_s']:.0f} CPU-s", flush=True)
            if device == "cuda":
                moved[size] = transfers(a.work, folder, a.seed)
            write_json(a.out / "gpu.json", {"machine": where, "runs": rows, "transfers": moved})
            (a.out / "gpu.md").write_text(table(rows, where) + (counted(moved) if moved else ""))
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
