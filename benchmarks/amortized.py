"""Amortised inference, measured: amortized.py hybrid|parts|cold|infer|rates|volumes|table

hybrid   --poses hybrid on ribosome, igg and adk beside --poses search; best of K candidates before the polish
parts    the hybrid's encoder with one thing changed, on the ribosome: candidates before any polish
cold     cold starts on a 70S ribosome of 32 px: symmetrised loss or not, CryoPoseNet; clean and noisy
infer    images that training never saw; images a second of both encoders; memory from 5,000 to 50,000 images
rates    the encoders' images a second once more, on a quiet machine
volumes  FourierNet and voxel grid fitted at known poses; memory and time an image at 64, 128, 256 px

Results: results/amortized-WHAT.json and results/amortized.md. Needs ../shared/bench and RELION.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

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
    write_star,
)
from cryoloom.inference.poses.candidate_loss import candidate_loss
from cryoloom.inference.poses.encoder import PAPER, VGGEncoder, best_of_candidates_degrees
from cryoloom.inference.poses.encoder_file import read_encoder
from cryoloom.inference.poses.proposals import propose
from cryoloom.inference.training import Trainer
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.presets import with_preset
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.kernels.images import Images
from cryoloom.maps.fsc import crossing, fourier_shell_correlation
from cryoloom.maps.io import read_map
from cryoloom.maps.mask import soft_sphere
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.rotations import random_rotations
from cryoloom.recipes.abinit import AbInitRecipe
from cryoloom.recipes.amortized import AmortizedRecipe, AmortizedState
from cryoloom.recipes.methods.hybrid import WakeSleepSettings
from cryoloom.recipes.methods.search import AbInitSettings
from cryoloom.recipes.wake_sleep import WakeSleepRecipe
from cryoloom.runs.session import Session
from cryoloom.volumes.fourier_net import FourierNet
from cryoloom.volumes.interface import Volume, rotated_frequencies
from cryoloom.volumes.voxel_grid import VoxelGrid
from score_run import scores, stage_cpu_s

STRUCTURES = ("ribosome", "igg", "adk")
MODEL = SHARED_BENCH.parent / "data" / "models" / "ribosome70S_5states" / "grp0.pdb.gz"
CONVERGED = 10.0  # degrees, median
# the hybrid's encoder with one thing changed; "vgg" is cryoAI's compact encoder with so many heads
PARTS: dict[str, dict] = {
    "as it is": {},
    "half the dreams": {"rounds": 50},
    "never awake": {"wake_every": 10**9},
    "VGG-like, 4 heads": {"vgg": 4, "learning_rate": 1e-3},
}
# cryoai-compact with one thing changed
VARIANTS: dict[str, dict] = {
    "unsymmetrised": {"symmetrised": False},
    "four-heads": {"heads": 4},
    "one-filter": {"filters": 1},
    "fixed-noise": {"noise_rate": 0.0},
    "no-march": {"first_level": 8.0},
    "from-level-3": {"first_level": 3.0},
    "wide-first-layer": {"net_reach": 1.0},
    "slow-volume": {"volume_rate": 3e-4},
    "voxel-volume": {"volume": "voxel", "volume_rate": 3e-2},  # as fast as a grid wants it
}


def feed_of(folder: Path, **changes: object) -> tuple[ImageFeed, torch.Tensor]:
    """The images of a set as a run sees them, and their noise."""
    settings = ReconstructSettings(input=InputSettings(str(folder / "particles.star")), **changes)  # type: ignore[arg-type]
    particles = open_input(settings.input)
    preprocessing = prepare(particles, settings)
    return make_feed(particles, preprocessing, settings), preprocessing.noise.float()


def true_rotations(folder: Path, run: Path) -> torch.Tensor:
    """R of the true poses in the frame and hand of a run, [N, 3, 3]."""
    e = evaluator()
    kt, At, *_ = e.read_poses(str(folder / "truth.star"))
    ke, Ae, *_ = e.read_poses(str(run / "particles.star"))
    rows = e.match_rows(kt, ke)
    hand, Q, _, _ = e.common_frame(At[rows], Ae, "C1")
    return framed(At[rows], hand, Q)


def hybrid(name: str, seed: int, work: Path, sets: Path) -> dict:
    """One structure: candidates before the polish, poses and map after it, and what search gives."""
    folder = make_set(name, seed, sets)
    out: dict = {"set": name, "seed": seed, "machine": machine(), "commit": commit()}
    for poses in ("search", "hybrid"):
        run, log = work / f"{name}-s{seed}-{poses}", work / f"{name}-s{seed}-{poses}.log"
        shutil.rmtree(run, ignore_errors=True)
        spent = run_measured(
            [CRYOLOOM, "reconstruct", folder / "particles.star", "-o", run, "--seed", str(seed), "--poses", poses], log
        )
        found = scores(folder, run)
        out[poses] = {
            "cpu_s": spent.cpu_s,
            "peak_rss_bytes": spent.peak_rss_bytes,
            "stage_cpu_s": stage_cpu_s(run),
            "verdict": json.loads((run / "run.json").read_text())["verdict"]["outcome"],
            **{
                k: found[k]
                for k in ("rotation_median_deg", "rotation_frac_below_10deg", "shift_median_px", "fsc0.5_shell")
            },
        }
    trained = read_encoder(run / "encoder.safetensors")
    feed, noise = feed_of(folder)
    candidates, truth = propose(trained, feed, trained.encoder.radius, noise), true_rotations(folder, run)
    for K in (1, 2, 4, 8):
        error = best_of_candidates_degrees(candidates, truth, K)
        out[f"best_of_{K}"] = {"median_deg": float(error.median()), "within_15": float((error < 15).float().mean())}
    return out


def parts(seed: int, sets: Path) -> dict:
    """What each part of the hybrid's encoder buys: the best of K candidates for real images, before any polish."""
    folder = make_set("ribosome", seed, sets)
    feed = feed_of(folder)[0]
    first = Session.in_memory().run(AbInitRecipe(feed, AbInitSettings(), seed))
    e = evaluator()
    At = e.read_poses(str(folder / "truth.star"))[1]
    out: dict = {"machine": machine(), "commit": commit(), "set": "ribosome", "seed": seed, "parts": {}}
    for name, changes in PARTS.items():
        given = {k: v for k, v in changes.items() if k != "vgg"}
        recipe = WakeSleepRecipe(
            feed=feed,
            settings=replace(WakeSleepSettings(), **given),
            seed=seed,
            volume=first.volume,
            noise=first.noise,
            sigma_angstrom=first.sigma_angstrom,
        )
        if "vgg" in changes:
            box = 2 * (recipe.radius + 1)
            torch.manual_seed(seed)
            recipe.encoder = VGGEncoder(box, feed.box * feed.pixel_size / box, recipe.radius, heads=changes["vgg"])
            recipe.encode = replace(recipe.encode, encoder=recipe.encoder)
            recipe.trainer = Trainer({"encoder": recipe.encoder}, {"encoder": recipe.settings.learning_rate})
        began = time.process_time()
        state = Session.in_memory().state(recipe)
        spent, candidates = time.process_time() - began, recipe.result(state).poses
        hand, Q, _, _ = e.common_frame(At, np.swapaxes(candidates.best()[0].double().numpy(), 1, 2), "C1")
        truth = framed(At, hand, Q)
        out["parts"][name] = {"cpu_s": spent}
        for K in (1, 4, 8):
            error = best_of_candidates_degrees(candidates, truth, K)
            out["parts"][name][f"best_of_{K}"] = {
                "median_deg": float(error.median()),
                "within_15": float((error < 15).float().mean()),
            }
        print(name, out["parts"][name], flush=True)
    return out


def framed(At: np.ndarray, hand: bool, Q: np.ndarray) -> torch.Tensor:
    """R of true poses, given as RELION's matrices, in the frame and hand of others."""
    R = torch.from_numpy(np.ascontiguousarray(Q.T)) @ torch.from_numpy(np.swapaxes(At, 1, 2).copy())
    return (R @ torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=R.dtype)) if hand else R).float()


def small_ribosome(work: Path, snr: float, seed: int) -> Path:
    """5,000 images of 32 px."""
    folder, map_ = work / f"ribosome-32-snr{snr:g}-s{seed}", work / "70S-32.mrc"
    if not map_.exists():
        subprocess.run(
            [
                sys.executable,
                str(SHARED_BENCH / "make_map.py"),
                str(MODEL),
                str(map_),
                "--pixel",
                "11.2",
                "--box",
                "32",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    if not (folder / "truth.star").exists():
        subprocess.run(
            [
                sys.executable,
                str(SHARED_BENCH / "simulate.py"),
                str(folder),
                str(map_),
                "-n",
                "5000",
                "--snr",
                str(snr),
                "--seed",
                "1",
                "--shift",
                "0.75",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return folder


def infer(work: Path, sets: Path) -> dict:
    """A run trained on one set asked for another; rates and memory."""
    trained, new = make_set("ribosome", 1, sets), make_set("ribosome", 2, sets)
    run = work / "ribosome-s1-hybrid"
    if not (run / "encoder.safetensors").exists():
        raise SystemExit("run amortized.py hybrid first: infer asks its ribosome run")
    out: dict = {"machine": machine(), "commit": commit(), "points": []}
    for name, folder in (("seen", trained), ("new", new)):
        for polish in (0, 5):
            star, log = work / f"infer-{name}.star", work / "infer.log"
            spent = run_measured(
                [CRYOLOOM, "infer", run, folder / "particles.star", "-o", star, "--overwrite", "--polish", str(polish)],
                log,
            )
            found = evaluator().evaluate(str(folder / "truth.star"), str(star))
            out["points"].append(
                {
                    "images": name,
                    "polish": polish,
                    "cpu_s": spent.cpu_s,
                    "peak_rss_bytes": spent.peak_rss_bytes,
                    "said": log.read_text().strip().splitlines()[-1].split(". Poses in")[0],
                    **{
                        k: found[k]
                        for k in (
                            "rotation_median_deg",
                            "rotation_mean_deg",
                            "rotation_frac_below_10deg",
                            "shift_median_px",
                        )
                    },
                }
            )
    out["memory"] = [_memory(work, run, n) for n in (5000, 50000)]
    return out | rates(work, sets)


def rates(work: Path, sets: Path) -> dict:
    """Images a second through both encoders at 64 px."""
    feed, noise = feed_of(make_set("ribosome", 2, sets))
    trained = read_encoder(work / "ribosome-s1-hybrid" / "encoder.safetensors").encoder
    paper = VGGEncoder(64, feed.pixel_size, 31, PAPER).eval()
    out: dict = {}
    for name, net, count in (("compact", trained, 5000), ("paper", paper, 300)):
        images = feed.images(np.arange(count), net.radius, noise)
        parts = [
            Images(
                images.observed[i : i + 100],
                images.ctf[i : i + 100],
                images.variance,
                images.group[i : i + 100],
                images.disc,
            )
            for i in range(0, count, 100)
        ]
        at, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            for part in parts:
                net(part)
        wall, cpu = time.perf_counter() - at, time.process_time() - cpu
        out |= {
            f"{name}_images_per_second": count / wall,
            f"{name}_images_per_cpu_second": count / cpu,
            f"{name}_threads": torch.get_num_threads(),
        }
    return out


def _memory(work: Path, run: Path, count: int) -> dict:
    """Peak memory of infer on the first `count` of 50,000 images."""
    folder = many_images(work)
    tables = read_star(folder / "particles.star")
    part = folder / f"first-{count}.star"
    write_star(part, {**tables, "particles": tables["particles"].iloc[:count]})
    log = work / "infer-memory.log"
    spent = run_measured([CRYOLOOM, "infer", run, part, "-o", work / "many.star", "--overwrite", "--polish", "0"], log)
    return {
        "images": count,
        "peak_rss_bytes": spent.peak_rss_bytes,
        "cpu_s": spent.cpu_s,
        "returncode": spent.returncode,
    }


def many_images(work: Path) -> Path:
    """50,000 images that really are there, in one stack."""
    folder = work / "many"
    if not (folder / "truth.star").exists():
        map_ = work / "70S-64.mrc"
        subprocess.run(
            [sys.executable, str(SHARED_BENCH / "make_map.py"), str(MODEL), str(map_), "--pixel", "5.6", "--box", "64"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run([CRYOLOOM, "simulate", map_, "-o", folder, "-n", "50000", "--snr", "0.1", "-q"], check=True)
    return folder


def fitted(make: Callable[[], Volume], rate: float, truth: torch.Tensor, pixel: float, seconds: float) -> dict:
    """A volume fitted to images of a map at known poses, for so many CPU-seconds."""
    from cryoloom.kernels import dispatch
    from cryoloom.kernels.half_grid import volume_to_half
    from cryoloom.physics.frequencies import FourierDisc

    torch.manual_seed(1)
    box = truth.shape[-1]
    volume, disc = make(), FourierDisc.create(box, pixel)
    grid, generator = volume_to_half(truth), torch.Generator().manual_seed(1)
    R_all = random_rotations(5000, generator).float()
    clean = dispatch.slices(grid, R_all, disc)
    sigma = (clean.abs().square().mean() / 0.1).sqrt() / 2**0.5
    observed = clean + sigma * torch.complex(
        torch.randn(clean.shape, generator=generator), torch.randn(clean.shape, generator=generator)
    )
    adam = torch.optim.Adam(volume.parameters(), rate)
    began, updates = time.process_time(), 0
    while (spent := time.process_time() - began) < seconds:
        for group in adam.param_groups:
            group["lr"] = rate * max(0.02, 1 - spent / seconds)
        rows = torch.randint(0, 5000, (32,), generator=generator)
        residual = (volume.slices(rotated_frequencies(disc.k, R_all[rows])) - observed[rows]).abs().square()
        loss = (disc.weight * residual).sum(1).mean() / float(sigma) ** 2
        adam.zero_grad()
        loss.backward()
        adam.step()
        updates += 1
    mask = soft_sphere(box, 0.4 * box, 3.0)
    fsc = fourier_shell_correlation((volume.density_map((box - 1) // 2) * mask).double(), (truth * mask).double())
    return {
        "cpu_s": spent,
        "images": updates * 32,
        "fsc0.5_shell": float(crossing(fsc[: box // 2], 0.5)),
        "mean_fsc": float(fsc[1 : box // 2].mean()),
    }


def cost(make: Callable[[], Volume], box: int) -> dict:
    """Memory of the parameters and CPU-seconds an image, forward and backward, on the whole disc."""
    from cryoloom.physics.frequencies import FourierDisc

    volume, disc = make(), FourierDisc.create(box, 1.0)
    R = random_rotations(2, torch.Generator().manual_seed(0)).float()
    k = rotated_frequencies(disc.k, R)
    volume.slices(k).abs().square().sum().backward()
    at = time.process_time()
    volume.slices(k).abs().square().sum().backward()
    return {
        "box": box,
        "parameter_bytes": sum(4 * p.numel() for p in volume.parameters()),
        "cpu_s_an_image": (time.process_time() - at) / 2,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def volumes(work: Path) -> dict:
    """Both volumes at known poses and D = 32; and what they cost at 64, 128, 256 px."""
    small_ribosome(work, 0.1, 1)
    given = read_map(work / "70S-32.mrc")
    truth, pixel = given.data.float(), given.pixel_size
    power = float(truth.std()) * 32**1.5
    makers: dict[str, tuple[Callable[..., Volume], float]] = {
        "voxel": (lambda box, p: VoxelGrid(box, p, power), 3e-2),
        "fouriernet": (
            lambda box, p: FourierNet(box, p, torch.full((box // 2 + 1,), power), 46.0 / 11.2 * p * box / 32, 128),
            3e-4,
        ),
    }
    out: dict = {"machine": machine(), "commit": commit(), "fit": {}, "cost": {}}
    for name, (make, rate) in makers.items():
        out["fit"][name] = fitted(lambda m=make: m(32, pixel), rate, truth, pixel, 150)
        out["cost"][name] = [cost(lambda m=make, b=b: m(b, 1.0), b) for b in (64, 128, 256)]
        print(name, out["fit"][name], out["cost"][name], flush=True)
    return out


def cold(work: Path, presets: list[str], snrs: list[float], seeds: list[int]) -> None:
    """Cold starts: every configuration's median error against CPU-minutes, and whether it converged."""
    for preset, snr, seed in ((p, s, n) for p in presets for s in snrs for n in seeds):
        target = RESULTS / f"amortized-cold-{preset}-snr{snr:g}-s{seed}.json"
        if not target.exists():
            result = cold_run(work, preset, snr, seed)
            write_json(target, {"machine": machine(), "commit": commit(), **result})
            print({k: v for k, v in result.items() if k != "course"}, flush=True)


@torch.no_grad()
def likeliest_rotations(recipe: AmortizedRecipe, state: AmortizedState) -> torch.Tensor:
    """R [N, 3, 3] of the candidate that explains each image best."""
    poses, feed, radius = recipe.result(state).poses, recipe.feed, recipe.radius(max(0, state.round - 1))
    branches = []
    for rows in torch.arange(len(feed)).split(500):
        images = feed.images(rows.numpy(), radius, state.noise)
        branches.append(candidate_loss(recipe.volume, images, poses.rows(rows)).branch)
    return poses.R[torch.arange(len(feed)), torch.cat(branches)]


def cold_run(work: Path, preset: str, snr: float, seed: int) -> dict:
    """One run by the program itself, its poses scored from checkpoint to checkpoint by their weights."""
    folder = small_ribosome(work, snr, seed)
    settings = ReconstructSettings(input=InputSettings(str(folder / "particles.star")), seed=seed)
    settings = with_preset(settings, "cryoai-compact" if preset in VARIANTS else preset)
    settings = replace(settings, methods=settings.methods.changed("amortized", **VARIANTS.get(preset, {})))
    particles = open_input(settings.input)
    feed = make_feed(particles, prepare(particles, settings), settings)
    recipe = AmortizedRecipe(feed, settings.methods["amortized"], seed)
    e = evaluator()
    _, At, *_ = e.read_poses(str(folder / "truth.star"))
    state, spent, course = recipe.init(), 0.0, []
    while not recipe.finished(state):
        began = time.process_time()
        state, info = recipe.step(state)
        spent += time.process_time() - began
        if state.round % 20 == 0 or recipe.finished(state):
            R = likeliest_rotations(recipe, state).double().numpy()
            error = e.common_frame(At, np.swapaxes(R, 1, 2), "C1")[2]
            course.append(
                {
                    "cpu_s": spent,
                    "median_deg": float(np.median(error)),
                    "frac_below_10deg": float((error < 10).mean()),
                    "images_seen": dict(info.metrics)["images_seen"],
                }
            )
    return {
        "preset": preset,
        "snr": snr,
        "seed": seed,
        "cpu_s": spent,
        **course[-1],
        "converged": course[-1]["median_deg"] <= CONVERGED,
        "course": course,
    }


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def hybrid_part(runs: list[dict]) -> list[str]:
    """Candidates before the polish, and the result beside that of a search."""
    rows = []
    for r in runs:
        h, s = r["hybrid"], r["search"]
        best = [f"{r[f'best_of_{K}']['median_deg']:.1f} ({r[f'best_of_{K}']['within_15']:.2f})" for K in (1, 4, 8)]
        keys = (("rotation_median_deg", 2), ("rotation_frac_below_10deg", 3), ("fsc0.5_shell", 1), ("cpu_s", 0))
        pairs = [f"{h[key]:.{n}f} / {s[key]:.{n}f}" for key, n in keys]
        gib = f"{h['peak_rss_bytes'] / 2**30:.2f}"
        rows.append([f"{r['set']}-s{r['seed']}", *best, *pairs, f"{h['stage_cpu_s']['encoder']:.0f}", gib, r["commit"]])
    head = [
        "set",
        "best of 1",
        "of 4",
        "of 8",
        "median deg, hybrid / search",
        "< 10 deg",
        "FSC-0.5 shell",
        "CPU-s",
        "of it encoder",
        "GiB",
        "commit",
    ]
    return [
        "## Hybrid beside search",
        "",
        "5,000 images of 64 px, SNR 0.1. Best of K: median angle between the truth and the nearest of the K candidates",
        "that the encoder holds likeliest, degrees, before any polish (in brackets: share within 15 degrees).",
        "",
        *table(head, rows),
    ]


def parts_part(found: dict) -> list[str]:
    """The hybrid's encoder, one thing changed at a time."""
    rows = []
    for name, r in found["parts"].items():
        best = [f"{r[f'best_of_{K}']['median_deg']:.1f} ({r[f'best_of_{K}']['within_15']:.2f})" for K in (1, 4, 8)]
        rows.append([name, *best, f"{r['cpu_s']:.0f}"])
    return [
        "",
        f"## What the hybrid's parts buy ({found['set']}, seed {found['seed']}, {found['commit']})",
        "",
        *table(["encoder", "best of 1, deg (within 15)", "of 4", "of 8", "CPU-s of training"], rows),
    ]


def cold_part(runs: list[dict]) -> list[str]:
    """What converges from random networks and what gets stuck."""
    rows = []
    for r in runs:
        at = [next((c["median_deg"] for c in r["course"] if c["cpu_s"] >= 60 * m), None) for m in (3, 6, 9)]
        rows.append(
            [
                r["preset"],
                f"{r['snr']:g}",
                str(r["seed"]),
                "yes" if r["converged"] else "no",
                f"{r['median_deg']:.1f}",
                f"{r['frac_below_10deg']:.2f}",
                f"{r['cpu_s'] / 60:.1f}",
                *("" if x is None else f"{x:.0f}" for x in at),
                r["commit"],
            ]
        )
    head = [
        "preset",
        "SNR",
        "seed",
        "converged",
        "median deg",
        "< 10 deg",
        "CPU-min",
        "deg after 3 CPU-min",
        "6",
        "9",
        "commit",
    ]
    return [
        "",
        "## Cold starts",
        "",
        "70S ribosome, 5,000 images of 32 px (11.2 angstrom a pixel, CTF, shifts), one thread. SNR 1000 is clean.",
        "",
        *table(head, rows),
    ]


def infer_part(found: dict) -> list[str]:
    """Images that training never saw, rates, memory."""
    rows = [
        [
            r["images"],
            str(r["polish"]),
            f"{r['rotation_median_deg']:.2f}",
            f"{r['rotation_mean_deg']:.2f}",
            f"{r['rotation_frac_below_10deg']:.3f}",
            r["said"],
        ]
        for r in found["points"]
    ]
    memory = ", ".join(f"{m['images']:,} images {m['peak_rss_bytes'] / 2**30:.2f} GiB" for m in found["memory"])
    return [
        "",
        "## New images",
        "",
        *table(["images", "polish", "median deg", "mean deg", "< 10 deg", "said"], rows),
        "",
        f"Encoder pass at 64 px, {found['compact_threads']} threads:",
        f"compact {found['compact_images_per_second']:,.0f},",
        f"paper {found['paper_images_per_second']:,.0f} images a second. Peak memory of infer: {memory}.",
    ]


def volumes_part(found: dict) -> list[str]:
    """Both volumes at known poses, and what they cost."""
    rows = []
    for name, fit in found["fit"].items():
        costs = [f"{c['parameter_bytes'] / 2**20:.1f} MiB, {c['cpu_s_an_image']:.3f} s" for c in found["cost"][name]]
        rows.append([name, f"{fit['fsc0.5_shell']:.1f}", f"{fit['mean_fsc']:.3f}", f"{fit['cpu_s']:.0f}", *costs])
    head = ["volume", "FSC-0.5 shell", "mean FSC", "CPU-s", "parameters and CPU-s an image: 64 px", "128 px", "256 px"]
    return ["", "## Volumes at known poses (D = 32, 5,000 images, SNR 0.1)", "", *table(head, rows)]


def write_table() -> None:
    """results/amortized.md from the results that are there."""
    lines = ["# Amortised inference", "", "Written by `benchmarks/amortized.py`; scored by `evaluate.py`.", ""]
    found = {name: read_json(RESULTS / f"amortized-{name}.json") for name in ("hybrid", "parts", "infer", "volumes")}
    cold_runs = [r for p in sorted(RESULTS.glob("amortized-cold-*.json")) if (r := read_json(p))]
    if found["hybrid"]:
        lines += hybrid_part(found["hybrid"]["runs"])
    if found["parts"]:
        lines += parts_part(found["parts"])
    if cold_runs:
        lines += cold_part(cold_runs)
    if found["infer"]:
        lines += infer_part(found["infer"])
    if found["volumes"]:
        lines += volumes_part(found["volumes"])
    (RESULTS / "amortized.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure what is asked for and write it down."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("hybrid", "parts", "cold", "infer", "rates", "volumes", "table"))
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument(
        "--presets",
        nargs="+",
        default=["cryoai-compact", "unsymmetrised", "cryoposenet"],
        help="of cold: presets, or variants of cryoai-compact in which one thing is changed: " + ", ".join(VARIANTS),
    )
    p.add_argument("--snr", nargs="+", type=float, default=[1000.0], help="of cold; 1000 is clean")
    p.add_argument("--workdir", type=Path, default=ROOT / "run-benchmarks")
    p.add_argument("--set-folder", type=Path, help="where the sets are or will be made (default: WORKDIR/sets)")
    a = p.parse_args()
    work = a.workdir.absolute() / "amortized"
    work.mkdir(parents=True, exist_ok=True)
    sets = (a.set_folder or a.workdir / "sets").absolute()
    if a.what == "table":
        write_table()
        return
    if a.what == "cold":
        cold(work, a.presets, a.snr, a.seeds)
    elif a.what == "hybrid":
        for name, seed in ((n, s) for n in STRUCTURES for s in a.seeds):
            kept = (read_json(RESULTS / "amortized-hybrid.json") or {"runs": []})["runs"]
            kept = [r for r in kept if (r["set"], r["seed"]) != (name, seed)] + [hybrid(name, seed, work, sets)]
            kept.sort(key=lambda r: (STRUCTURES.index(r["set"]), r["seed"]))
            write_json(RESULTS / "amortized-hybrid.json", {"runs": kept})
    elif a.what == "parts":
        write_json(RESULTS / "amortized-parts.json", parts(a.seeds[0], sets))
    elif a.what == "rates":
        target = RESULTS / "amortized-infer.json"
        write_json(target, (read_json(target) or {}) | rates(work, sets))
    else:
        found = infer(work, sets) if a.what == "infer" else volumes(work)
        write_json(RESULTS / f"amortized-{a.what}.json", found)
        print(json.dumps(found, indent=1))
    write_table()


if __name__ == "__main__":
    main()
