"""Conformations, measured: conformations.py [CASE ...] [--workdir DIR] [--set-folder DIR]

Each case is a run of cryoloom hetero on a set of ../shared/bench, scored by evaluate_hetero.py against the true states,
with maps at the states' mean latents where there are latents. Results: results/conformations-CASE.json and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from bench import (
    CRYOLOOM,
    RESULTS,
    ROOT,
    SHARED_BENCH,
    commit,
    machine,
    make_set,
    read_json,
    read_star,
    run_measured,
    write_json,
)
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.reconstruct.conformation_run import open_conformations

# name -> set, method, poses: true ones, found first by the same command, or those of a run of reconstruct
CASES = {
    "adk-path-pca": ("adk-path", "pca", "true"),
    "adk-path-vae": ("adk-path", "vae", "true"),
    "adk-path-pca-search": ("adk-path", "pca", "search"),
    "ribosome-mix-classes": ("ribosome-mix", "classes", "true"),
    "ribosome-mix-classes-search": ("ribosome-mix", "classes", "search"),
    "ribosome-pca-search": ("ribosome", "pca", "search"),
    "ribosome-junk-pca-search": ("ribosome-junk", "pca", "search"),
}


def measure(name: str, seed: int, work: Path, sets: Path) -> dict:
    """One case: the run, its scores, its cost."""
    which, method, poses = CASES[name]
    folder, run = make_set(which, seed, sets), work / f"{name}-s{seed}"
    star = folder / ("truth.star" if poses == "true" else "particles.star")
    out: dict = {"case": name, "seed": seed, "machine": machine(), "commit": commit()}
    spent = run_measured(
        [CRYOLOOM, "hetero", star, "-o", run, "--method", method, "--seed", str(seed), "--overwrite", "--poses",
         "given" if poses == "true" else "search"], work / f"{name}-s{seed}.log",
    )  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    out |= {"cpu_s": spent.cpu_s, "peak_rss_bytes": spent.peak_rss_bytes, "headline": record["verdict"]["headline"],
            "stage_cpu_s": {t["stage"]: t["cpu_s"] for t in record["timings"]}}  # fmt: skip
    if not (run / "z.npy").exists():
        return out
    truth = read_star(folder / "truth.star")["particles"]
    state = truth["rlnClassNumber"].to_numpy().astype(int)
    command = [sys.executable, str(SHARED_BENCH / "evaluate_hetero.py"), str(folder / "truth.star"),
               str(run / "particles.star"), "--latent", str(run / "z.npy")]  # fmt: skip
    if method != "classes" and state.max() > 1:
        maps, true_maps = state_maps(run, state), sorted(str(p) for p in folder.glob("truth_*.mrc"))
        command += ["--maps", *maps, "--truth-maps", *true_maps]
    if state.max() > 1:
        scores = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if method != "classes":
            scores.pop("ari", None)  # of classes that the file brought along
        out["scores"] = scores
    contrast = np.load(run / "contrast.npy")
    if (state == 0).any():
        out["contrast_of_junk"] = float(contrast[state == 0].mean())
        out["contrast_of_molecules"] = float(contrast[state > 0].mean())
    return out


def state_maps(run: Path, state: np.ndarray) -> list[str]:
    """Maps at the mean latents of the true states."""
    opened = open_conformations(run, torch.device("cpu"), torch.get_num_threads())
    paths = []
    for k in range(1, state.max() + 1):
        found = opened.map_at(opened.latents.mean[torch.from_numpy(state == k)].mean(0))
        paths.append(str(run / f"mean_of_state_{k:02d}.mrc"))
        write_map(Path(paths[-1]), DensityMap(found.combined.contiguous(), opened.feed.pixel_size))
    return paths


def write_table() -> None:
    """results/conformations.md from the results that are there."""
    keys = (("ari", "ARI", 3), ("spearman_best_direction", "Spearman", 3), ("fsc_auc_mean", "FSC-AUC", 3),
            ("own_truth_is_best", "own truth best", 2), ("own_or_next_truth_is_best", "or next", 2))  # fmt: skip
    lines = ["# Conformations", "", "Written by `benchmarks/conformations.py`; scored by `evaluate_hetero.py`.", "",
             "| case | seed | " + " | ".join(label for _, label, _ in keys) + " | CPU-s | GiB | said | commit |",
             "|" + " --- |" * (len(keys) + 6)]  # fmt: skip
    for path in sorted(RESULTS.glob("conformations-*.json")):
        r = read_json(path)
        assert r is not None
        scores = r.get("scores", {})
        cells = [f"{scores[k]:.{n}f}" if k in scores else "" for k, _, n in keys]
        said = r["headline"].split("particles. ")[-1]
        lines.append(
            f"| {r['case']} | {r['seed']} | "
            + " | ".join(cells)
            + f" | {r['cpu_s']:.0f} | {r['peak_rss_bytes'] / 2**30:.2f} | {said} | {r['commit']} |"
        )
    (RESULTS / "conformations.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure what is asked for and write it down."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="*", default=list(CASES), help="default: all")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workdir", type=Path, default=ROOT / "run-benchmarks")
    p.add_argument("--set-folder", type=Path, help="where the sets are or will be made (default: WORKDIR/sets)")
    a = p.parse_args()
    work = a.workdir.absolute() / "conformations"
    work.mkdir(parents=True, exist_ok=True)
    for name in a.cases:
        if name not in CASES:
            p.error(f"{name}: expected {', '.join(CASES)}")
        write_json(RESULTS / f"conformations-{name}-s{a.seed}.json",
                   measure(name, a.seed, work, (a.set_folder or a.workdir / "sets").absolute()))  # fmt: skip
        write_table()


if __name__ == "__main__":
    main()
