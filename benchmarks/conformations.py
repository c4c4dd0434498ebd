"""Conformations, measured: conformations.py [CASE ...] [--workdir DIR] [--set-folder DIR]

Each case is a run of cryoloom hetero on a set of ../shared/bench, scored by evaluate_hetero.py against the true states,
with maps at the states' mean latents where there are latents. Results: results/conformations-CASE.json and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import starfile
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from bench import (
    CRYOLOOM,
    RESULTS,
    ROOT,
    SHARED_BENCH,
    commit,
    evaluator,
    machine,
    make_set,
    read_json,
    read_star,
    run_measured,
    write_json,
)
from cryoloom.inference.conformations.evidence import ConformationEvidence
from cryoloom.jobs.conformation_run import ConformationRun, open_conformations
from cryoloom.jobs.verdict_text import conformations_in_short
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.runs.record import from_json


@dataclass(frozen=True, slots=True)
class Case:
    """A run: set, method, poses (true ones, or found first by the same command), and options of its own."""

    set: str
    method: str
    poses: Literal["true", "search"] = "true"
    options: tuple[str, ...] = ()


CASES = {
    "adk-path-pca": Case("adk-path", "pca"),
    "adk-path-vae": Case("adk-path", "vae"),
    "adk-path-vae-cnn": Case("adk-path", "vae", options=("--encoder", "cnn")),
    "adk-path-autodecoder": Case("adk-path", "autodecoder"),
    "adk-path-pca-search": Case("adk-path", "pca", "search"),
    "adk-path-vae-search": Case("adk-path", "vae", "search"),
    "ribosome-mix-classes": Case("ribosome-mix", "classes"),
    "ribosome-mix-vae": Case("ribosome-mix", "vae"),
    "ribosome-pca-search": Case("ribosome", "pca", "search"),
    "ribosome-junk-pca-search": Case("ribosome-junk", "pca", "search"),
    "ribosome-vae": Case("ribosome", "vae"),
    "adk-path-noisy-pca": Case("adk-path-noisy", "pca"),
    "adk-path-noisy-pca-search": Case("adk-path-noisy", "pca", "search"),
    "ribosome-mix-noisy-classes": Case("ribosome-mix-noisy", "classes"),
    "adk-path-five-times-pca": Case("adk-path-five-times", "pca", options=("--on-duplicates", "keep")),
}
SIMULATE = {"adk-path": (), "ribosome-mix": ("--shares", "60", "30", "10")}


def conformation_set(name: str, seed: int, sets: Path) -> Path:
    """A set's folder. SET-noisy: 20,000 images of SNR 0.03; SET-five-times: five rows for each image."""
    base = name.removesuffix("-noisy").removesuffix("-five-times")
    folder, given = sets / f"{name}-s{seed}", make_set(base, seed, sets)
    if (folder / "truth.star").exists():
        return folder
    if name.endswith("-noisy"):
        # the true maps as scaled for the set: simulate.py scales them anew
        maps = sorted(str(p) for p in given.glob("truth_*.mrc"))
        options = ["-n", "20000", "--snr", "0.03", *SIMULATE[base], "--seed", str(seed)]
        subprocess.run([sys.executable, str(SHARED_BENCH / "simulate.py"), str(folder), *maps, *options], check=True)
        return folder
    folder.mkdir(exist_ok=True)
    for path in given.glob("*.mrc*"):
        (folder / path.name).symlink_to(path)
    for star in ("particles.star", "truth.star"):
        tables = read_star(given / star)
        tables["particles"] = pd.concat([tables["particles"]] * 5)
        starfile.write(tables, folder / star)
    return folder


def measure(name: str, seed: int, work: Path, sets: Path) -> dict:
    """One case: the run, its scores, its cost."""
    case = CASES[name]
    folder, run = conformation_set(case.set, seed, sets), work / f"{name}-s{seed}"
    star = folder / ("truth.star" if case.poses == "true" else "particles.star")
    out: dict = {"case": name, "seed": seed, "machine": machine(), "commit": commit()}
    spent = run_measured(
        [
            CRYOLOOM,
            "hetero",
            star,
            "-o",
            run,
            "--method",
            case.method,
            "--seed",
            str(seed),
            "--overwrite",
            "--poses",
            "given" if case.poses == "true" else "search",
            *case.options,
        ],
        work / f"{name}-s{seed}.log",
    )
    record = json.loads((run / "run.json").read_text())
    out |= {
        "cpu_s": spent.cpu_s,
        "peak_rss_bytes": spent.peak_rss_bytes,
        "headline": conformations_in_short(
            from_json(ConformationEvidence, record["verdict"]["conformations"], "run.json, verdict")
        ),
        "stage_cpu_s": {t["stage"]: t["cpu_s"] for t in record["timings"]},
    }
    if case.set.endswith("-five-times"):  # of interest is what it costs
        return out
    if case.poses == "search":
        found = evaluator().evaluate(str(folder / "truth.star"), str(run / "particles.star"))
        out["poses"] = {k: found[k] for k in ("rotation_median_deg", "rotation_frac_below_10deg")}
    if not (run / "z.npy").exists():
        return out
    truth = read_star(folder / "truth.star")["particles"]
    state = truth["rlnClassNumber"].to_numpy().astype(int)
    if state.max() > 1:
        out["scores"] = scores_of(run, folder, state, case.method)
    contrast = np.load(run / "contrast.npy")
    if (state == 0).any():
        out["contrast_of_junk"] = float(contrast[state == 0].mean())
        out["contrast_of_molecules"] = float(contrast[state > 0].mean())
    return out


def scores_of(run: Path, folder: Path, state: np.ndarray, method: str) -> dict:
    """By the independent evaluator; of latents also the ARI of their k-means clusters, as many as there are states."""
    command = [
        sys.executable,
        str(SHARED_BENCH / "evaluate_hetero.py"),
        str(folder / "truth.star"),
        str(run / "particles.star"),
        "--latent",
        str(run / "z.npy"),
    ]
    maps = sorted(str(p) for p in run.glob("class_*.mrc")) if method == "classes" else state_maps(run, state)
    command += ["--maps", *maps, "--truth-maps", *sorted(str(p) for p in folder.glob("truth_*.mrc"))]
    scores = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if method != "classes":
        scores.pop("ari", None)  # of classes that the file brought along
        labels = KMeans(state.max(), n_init=4, random_state=1).fit_predict(np.load(run / "z.npy"))
        scores["ari_of_clusters"] = float(adjusted_rand_score(state, labels))
    return scores


def state_maps(run: Path, state: np.ndarray) -> list[str]:
    """Maps at the mean latents of the true states."""
    opened = open_conformations(run, torch.device("cpu"), torch.get_num_threads())
    return write_state_maps(opened, state, run)


def write_state_maps(opened: ConformationRun, state: np.ndarray, folder: Path) -> list[str]:
    """The same of an opened run, whose latents may be another program's; written to a folder."""
    paths = []
    for k in range(1, state.max() + 1):
        found = opened.map_at(opened.latents.mean[torch.from_numpy(state == k)].mean(0))
        paths.append(str(folder / f"mean_of_state_{k:02d}.mrc"))
        write_map(Path(paths[-1]), DensityMap(found.combined.contiguous(), opened.posed.feed.pixel_size))
    return paths


def write_table() -> None:
    """results/conformations.md from the results that are there."""
    keys = (
        ("ari", "ARI", 3),
        ("ari_of_clusters", "ARI of clusters", 3),
        ("spearman_best_direction", "Spearman", 3),
        ("fsc_auc_mean", "FSC-AUC", 3),
        ("own_truth_is_best", "own truth best", 2),
        ("own_or_next_truth_is_best", "or next", 2),
    )
    lines = [
        "# Conformations",
        "",
        "Written by `benchmarks/conformations.py`; scored by `evaluate_hetero.py`.",
        "",
        "| case | seed | poses within 10° | "
        + " | ".join(label for _, label, _ in keys)
        + " | CPU-s | GiB | said | commit |",
        "|" + " --- |" * (len(keys) + 7),
    ]
    for path in sorted(RESULTS.glob("conformations-*.json")):
        r = read_json(path)
        assert r is not None
        if "case" not in r:  # of another script
            continue
        found = f"{100 * r['poses']['rotation_frac_below_10deg']:.1f} %" if "poses" in r else ""
        scores = r.get("scores", {})
        cells = [f"{scores[k]:.{n}f}" if k in scores else "" for k, _, n in keys]
        said = r["headline"].split("particles. ")[-1]
        lines.append(
            f"| {r['case']} | {r['seed']} | {found} | "
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
        write_json(
            RESULTS / f"conformations-{name}-s{a.seed}.json",
            measure(name, a.seed, work, (a.set_folder or a.workdir / "sets").absolute()),
        )
        write_table()


if __name__ == "__main__":
    main()
