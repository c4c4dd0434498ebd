#!/usr/bin/env python3
"""Conformations by cryoloom and cryoDRGN at equal CPU-seconds: conformations_side_by_side.py --cryodrgn VENV/bin/...

Both are given the same images, the true poses, the same number of latent coordinates and one thread:

- `cryodrgn train_vae` in several forms (FORMS), each one run from which the last checkpoint within each budget is taken
  (it writes one an epoch; 5 % late is in time), commands that prepare its input included; maps by `cryodrgn eval_vol`;
- `cryoloom hetero --method vae`, one run a budget, of as many epochs as fit in it; `--method pca`, one run, default
  settings, which end by themselves.

Latents are scored by rank correlation with the true state and by k-means against the true classes; maps at the mean
latents of the true states by evaluate_hetero.py: those of the program's own decoder, and those that `state_maps` of
cryoloom makes of the images nearest by (for cryoDRGN's latents too). CPU is user + system of the run, without scores
and maps. What has a result is not run again. Results: results/conformations-side-by-side-SET-sSEED.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import k_means
from sklearn.metrics import adjusted_rand_score

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
from conformations import write_state_maps
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.jobs.conformation_run import open_conformations
from cryoloom.maps.io import DensityMap, read_map, write_map
from cryoloom.physics.fourier import resize_real

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
APART = {**ONE_THREAD, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}  # cryoDRGN's, in its own environment
SAFE = 0.97  # of a budget that our epochs are chosen for: it must not be passed
GRACE = 1.05  # of a budget: when cryoDRGN writes a checkpoint is not chosen, and one just too late would be hard on it
CALIBRATION = 2  # epochs of the run by which they are chosen


@dataclass(frozen=True, slots=True)
class Form:
    """A way to call `cryodrgn train_vae`.

    Attributes:
        epochs: None: until the largest budget is used; or so many, whatever they take.
        box: side to which `cryodrgn downsample` brings the images first; their maps have nothing beyond it.
    """

    name: str
    options: tuple[str, ...] = ()
    epochs: int | None = None
    box: int | None = None


FORMS = {
    form.name: form
    for form in (
        Form("256", ("--enc-dim", "256", "--dec-dim", "256")),
        Form("128-fast", ("--enc-dim", "128", "--dec-dim", "128", "--lr", "1e-3")),
        Form("256-fast-32px", ("--enc-dim", "256", "--dec-dim", "256", "--lr", "1e-3"), box=32),
        Form("defaults", (), 1),
    )
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is compared on.

    Attributes:
        folder: of the set; state: [N] of 1 to K, rows as in truth.star; budgets: CPU-seconds, ascending.
    """

    folder: Path
    work: Path
    state: np.ndarray
    seed: int
    latent: int
    budgets: tuple[float, ...]


def train(program: Path, form: Form, case: Case) -> dict:
    """One run of cryoDRGN: when it wrote each checkpoint, and how far it was at each budget."""
    run = case.work / f"cryodrgn-{form.name}"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    before = 0.0
    preparation = [("parse_pose_star", "poses.pkl"), ("parse_ctf_star", "ctf.pkl")]
    images: list[str | Path] = ["truth.star", "--datadir", "."]
    if form.box is not None:
        preparation.append(("downsample", "particles.mrcs"))
    for name, out in preparation:
        words = [*images, "-D", str(form.box), "--max-threads", "1"] if name == "downsample" else images[:1]
        spent = run_measured(
            [program, name, *words, "-o", run / out], run / f"{name}.log", cwd=case.folder, environment=APART
        )
        before += spent.cpu_s
    if form.box is not None:
        images = [run / "particles.mrcs"]
    command = [
        program,
        "train_vae",
        *images,
        "-o",
        run,
        "--zdim",
        str(case.latent),
        "--poses",
        run / "poses.pkl",
        "--ctf",
        run / "ctf.pkl",
        "--seed",
        str(case.seed),
        "-n",
        str(form.epochs or 1000),
        "--num-workers",
        "0",
        "--max-threads",
        "1",
        "--no-analysis",
        *form.options,
    ]
    log, written, reached = run / "train.log", [], {}

    def watch(cpu_s: float) -> None:
        cpu_s += before
        if (run / f"z.{len(written) + 1}.pkl").exists():
            written.append(cpu_s)
        for budget in case.budgets:
            if cpu_s >= budget and str(budget) not in reached:
                reached[str(budget)] = _epochs(log)

    spent = run_measured(
        command,
        log,
        cwd=case.folder,
        environment=APART,
        watch=watch,
        cpu_budget_s=None if form.epochs else GRACE * case.budgets[-1] - before,
    )
    if spent.returncode and not spent.stopped:
        raise SystemExit(log.read_text(errors="replace")[-2000:])
    shown = " ".join(str(c).replace(str(run), "RUN") for c in command[1:])
    return {
        "command": f"cryodrgn {shown}",
        "preparation_cpu_s": before,
        "cpu_s": spent.cpu_s + before,
        "peak_rss_bytes": spent.peak_rss_bytes,
        "checkpoint_cpu_s": written,
        "epochs_at_budget": reached,
    }


def _epochs(log: Path) -> float:
    """Epochs done so far, by the log of train_vae."""
    seen = re.findall(r"Train Epoch: (\d+)/\d+\] \[(\d+)/(\d+) particles", log.read_text(errors="replace"))
    return int(seen[-1][0]) - 1 + int(seen[-1][1]) / int(seen[-1][2]) if seen else 0.0


def cryodrgn_row(program: Path, form: Form, trained: dict, epoch: int, case: Case) -> dict:
    """Scores of a checkpoint."""
    run = case.work / f"cryodrgn-{form.name}"
    with open(run / f"z.{epoch}.pkl", "rb") as file:
        mean, log_variance = pickle.load(file), pickle.load(file)
    np.save(run / "z.npy", mean)
    np.savetxt(
        run / "z_of_states.txt", np.stack([mean[case.state == k].mean(0) for k in range(1, case.state.max() + 1)])
    )
    maps = run / f"maps.{epoch}"
    spent = run_measured(
        [
            program,
            "eval_vol",
            run / f"weights.{epoch}.pkl",
            "-c",
            run / "config.yaml",
            "-o",
            maps,
            "--zfile",
            run / "z_of_states.txt",
            "--Apix",
            str(_pixel_size(case.folder)),
        ],
        run / "eval_vol.log",
        environment=APART,
    )
    if spent.returncode:
        raise SystemExit((run / "eval_vol.log").read_text(errors="replace")[-2000:])
    opened = open_conformations(case.work / "cryoloom-pca", torch.device("cpu"), 1)
    decoded = sorted(maps.glob("vol_*.mrc"))
    for path in decoded if form.box is not None else []:
        box, pixel_size = opened.posed.feed.box, opened.posed.feed.pixel_size
        write_map(path, DensityMap(resize_real(read_map(path).data, box, 3).contiguous(), pixel_size))
    latents = LatentPosterior.diagonal(torch.from_numpy(mean).float(), torch.from_numpy(log_variance).float())
    near = run / f"near.{epoch}"
    near.mkdir(exist_ok=True)
    made = write_state_maps(replace(opened, latents=latents), case.state, near)
    truth = case.folder / "truth.star"
    return {
        "program": "cryodrgn",
        "form": form.name,
        "epochs": epoch,
        "cpu_s": trained["checkpoint_cpu_s"][epoch - 1],
        "peak_rss_bytes": trained["peak_rss_bytes"],
        "latents": latent_scores(truth, run / "z.npy", case),
        "decoder": map_scores(truth, [str(p) for p in decoded], case),
        "nearest_images": map_scores(truth, made, case),
    }


def cryoloom_run(name: str, options: list[str], case: Case) -> dict:
    """A run of `cryoloom hetero`, its cost by stage."""
    run = case.work / f"cryoloom-{name}"
    command = [
        CRYOLOOM,
        "hetero",
        case.folder / "truth.star",
        "-o",
        run,
        "--seed",
        str(case.seed),
        "--threads",
        "1",
        "--overwrite",
        *options,
    ]
    spent = run_measured(command, case.work / f"cryoloom-{name}.log", environment=ONE_THREAD)
    if spent.returncode:
        raise SystemExit((case.work / f"cryoloom-{name}.log").read_text(errors="replace")[-2000:])
    record = json.loads((run / "run.json").read_text())
    shown = " ".join(str(c) for c in command[5:])
    return {
        "command": f"cryoloom hetero truth.star -o RUN {shown}",
        "cpu_s": spent.cpu_s,
        "peak_rss_bytes": spent.peak_rss_bytes,
        "stage_cpu_s": {t["stage"]: t["cpu_s"] for t in record["timings"]},
    }


def cryoloom_row(name: str, spent: dict, case: Case) -> dict:
    """Scores of a run."""
    run = case.work / f"cryoloom-{name}"
    opened = open_conformations(run, torch.device("cpu"), 1)
    decoded = []
    for k in range(1, case.state.max() + 1):
        decoded.append(str(run / f"decoded_{k:02d}.mrc"))
        write_map(Path(decoded[-1]), opened.decoded(opened.latents.mean[torch.from_numpy(case.state == k)].mean(0)))
    star = run / "particles.star"
    return {
        "program": "cryoloom",
        "form": name,
        **spent,
        "coordinates": opened.latents.mean.shape[1],
        "latents": latent_scores(star, run / "z.npy", case),
        "decoder": map_scores(star, decoded, case),
        "nearest_images": map_scores(star, write_state_maps(opened, case.state, run), case),
    }


def latent_scores(star: Path, z: Path, case: Case) -> dict:
    """Rank correlations with the state's number (of a path) and agreement of k-means with the states."""
    scores = _evaluated(star, case, ["--latent", str(z)])
    states = int(case.state.max())
    found = k_means(np.load(z), states, n_init=10, random_state=0)[1]  # pyright: ignore[reportArgumentType]
    return {k: v for k, v in scores.items() if k.startswith("spearman")} | {
        "ari_of_kmeans": float(adjusted_rand_score(case.state, found))
    }


def map_scores(star: Path, maps: list[str], case: Case) -> dict:
    """FSC-AUC of one map a state, in order."""
    truths = sorted(str(p) for p in case.folder.glob("truth_*.mrc"))
    scores = _evaluated(star, case, ["--maps", *maps, "--truth-maps", *truths])
    kept = ("fsc_auc_mean", "own_truth_is_best", "own_or_next_truth_is_best", "fsc_auc_per_state")
    return {k: scores[k] for k in kept}


def _evaluated(star: Path, case: Case, options: list[str]) -> dict:
    command = [sys.executable, str(SHARED_BENCH / "evaluate_hetero.py"), str(case.folder / "truth.star"), str(star)]
    return json.loads(subprocess.run([*command, *options], check=True, capture_output=True, text=True).stdout)


def _pixel_size(folder: Path) -> float:
    return float(read_star(folder / "truth.star")["optics"]["rlnImagePixelSize"].iloc[0])


class Document:
    """The result file: what is in it is not measured again."""

    def __init__(self, path: Path, head: dict) -> None:
        self.path = path
        self.content = read_json(path) or {**head, "runs": {}, "rows": {}}

    def part(self, kind: str, name: str, measure: Callable[[], dict]) -> dict:
        """One run or one row, measured if it is not there."""
        if name not in self.content[kind]:
            self.content[kind][name] = measure()
            write_json(self.path, self.content)
            self.path.with_suffix(".md").write_text(table(self.content))
            print(name, json.dumps(self.content[kind][name])[:600], flush=True)
        return self.content[kind][name]


def compare_cryodrgn(program: Path, form: Form, case: Case, document: Document) -> None:
    """One form at all budgets, and after its epochs where these are given."""
    trained = document.part("runs", f"cryodrgn {form.name}", lambda: {**asdict(form), **train(program, form, case)})
    ends = trained["checkpoint_cpu_s"]
    for budget in (*case.budgets, *((None,) if form.epochs else ())):
        epoch = sum(1 for end in ends if budget is None or end <= GRACE * budget)
        label = f"cryodrgn {form.name}, " + ("to its end" if budget is None else f"{budget:.0f}")
        nothing = {"program": "cryodrgn", "form": form.name, "epochs": trained["epochs_at_budget"].get(str(budget))}
        document.part(
            "rows",
            label,
            lambda e=epoch, b=budget, n=nothing: {
                "budget_s": b,
                **(cryodrgn_row(program, form, trained, e, case) if e else n),
            },
        )


def compare_cryoloom(case: Case, document: Document) -> None:
    """`vae` at all budgets; each run says how many epochs the next may have."""

    def run(name: str, epochs: int) -> dict:
        options = ["--method", "vae", "--latent", str(case.latent), "--epochs", str(epochs)]
        return document.part(
            "runs", f"cryoloom {name}", lambda: {"epochs": epochs, **cryoloom_run(name, options, case)}
        )

    last = run("vae-calibration", CALIBRATION)
    for budget in case.budgets:
        stage, name = last["stage_cpu_s"]["vae"], f"vae-{budget:.0f}"
        last = run(name, int((SAFE * budget - (last["cpu_s"] - stage)) / (stage / last["epochs"])))
        document.part(
            "rows",
            f"cryoloom vae, {budget:.0f}",
            lambda b=budget, n=name, r=last: {"budget_s": b, **cryoloom_row(n, r, case)},
        )


def table(document: dict) -> str:
    """The result as Markdown."""
    path = document["states"] > 3
    out = [
        f"# Conformations, {document['set']}: cryoloom beside cryoDRGN {document['cryodrgn']}",
        "",
        f"Written by `benchmarks/conformations_side_by_side.py` at {document['commit']}; {document['machine']}, one "
        f"thread, torch {document['torch_of_cryodrgn']} for cryoDRGN. True poses, {document['latent']} latent "
        "coordinates (`pca`: as many as held-out images allow). Best FSC-AUC is 0.5.",
        "",
        "| program | budget, CPU-s | used | epochs | GiB | "
        + ("Spearman" if path else "ARI of k-means")
        + " | FSC-AUC, decoder | own state best, or next | FSC-AUC, nearest images | own state best, or next |",
        "|" + "---|" * 10,
    ]
    rows = ((name.rsplit(",", 1)[0], r) for name, r in document["rows"].items())
    for program, r in sorted(rows, key=lambda row: (row[0], row[1]["budget_s"] or 0)):
        budget = "" if r["budget_s"] is None else f"{r['budget_s']:.0f}"
        epochs = r.get("epochs")
        done = "" if epochs is None else f"{epochs:.3g}"
        if "latents" not in r:
            out.append(f"| {program} | {budget} | | {done} | | no checkpoint yet | | | | |")
            continue
        latent = r["latents"]["spearman_best_direction" if path else "ari_of_kmeans"]
        cells = [program, budget, f"{r['cpu_s']:.0f}", done, f"{r['peak_rss_bytes'] / 2**30:.2f}", f"{latent:.3f}"]
        for maps in (r["decoder"], r["nearest_images"]):
            share = maps["own_or_next_truth_is_best" if path else "own_truth_is_best"]
            cells += [f"{maps['fsc_auc_mean']:.3f}", f"{maps['own_truth_is_best']:.0%}, {share:.0%}"]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main() -> None:
    """Compare what is asked for and write it down."""
    programs = ("cryoloom", *FORMS)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cryodrgn", type=Path, required=True, help="the program, in an environment of its own")
    p.add_argument("--set", default="adk-path")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--latent", type=int, default=8, help="Z of both programs")
    p.add_argument("--budgets", type=float, nargs="+", default=[300.0, 900.0, 1800.0], help="CPU-seconds")
    p.add_argument("--programs", nargs="+", default=programs, choices=programs)
    p.add_argument("--workdir", type=Path, default=ROOT / "run-benchmarks")
    p.add_argument("--set-folder", type=Path, help="where the sets are or will be made (default: WORKDIR/sets)")
    p.add_argument("--output", type=Path, default=RESULTS)
    a = p.parse_args()
    torch.set_num_threads(1)
    folder = make_set(a.set, a.seed, (a.set_folder or a.workdir / "sets").absolute()).resolve()
    state = read_star(folder / "truth.star")["particles"]["rlnClassNumber"].to_numpy().astype(int)
    work = a.workdir.absolute() / f"conformations-side-by-side-{a.set}-s{a.seed}"
    work.mkdir(parents=True, exist_ok=True)
    case = Case(folder=folder, work=work, state=state, seed=a.seed, latent=a.latent, budgets=tuple(sorted(a.budgets)))
    python = a.cryodrgn.absolute().parent / "python"
    versions = subprocess.run(
        [python, "-c", "import cryodrgn, torch; print(cryodrgn.__version__, torch.__version__)"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **APART},
    ).stdout.split()
    head = {
        "set": folder.name,
        "states": int(state.max()),
        "latent": a.latent,
        "machine": machine(),
        "commit": commit(),
        "cryodrgn": versions[0],
        "torch_of_cryodrgn": versions[1],
    }
    document = Document(a.output / f"conformations-side-by-side-{folder.name}.json", head)
    pca = document.part("runs", "cryoloom pca", lambda: cryoloom_run("pca", ["--method", "pca"], case))
    document.part("rows", "cryoloom pca, ", lambda: {"budget_s": None, **cryoloom_row("pca", pca, case)})
    for name in a.programs:
        if name == "cryoloom":
            compare_cryoloom(case, document)
        else:
            compare_cryodrgn(a.cryodrgn.absolute(), FORMS[name], case, document)


if __name__ == "__main__":
    main()
