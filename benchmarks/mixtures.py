#!/usr/bin/env python3
"""Several molecules, measured: mixtures.py CASE [...] [--seeds 1 2 3] [--workdir DIR] [--set-folder DIR] [--force]

A case is a run of cryoloom reconstruct with several classes on a set of different molecules, scored by
../shared/bench/evaluate_mixture.py (images in the right class and within 10 degrees; states found; junk in no class).
Cases: SET-auto (the number of classes is found), SET-K (it is given), SET-true (classes start from the true maps: what
a search can place), SET-one (one map, for the cost), SET-relion (RELION's InitialModel with as many classes as there
are molecules, stopped after --cpu-budget CPU-seconds), CASE~NAME (without a part of the method, see ABLATIONS). Sets:
those of make_sets.sh; and, made here, mix16 and mix32, of chain groups cut from ../shared/data/models; rare, of two
molecules 94 to 6; moving, of haemoglobin and of ten states on the path of adenylate kinase, which count as one
molecule. Results: results/mixtures-CASE-sSEED.json, results/mixtures.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gemmi

from bench import (
    CRYOLOOM,
    RESULTS,
    SHARED_BENCH,
    commit,
    machine,
    make_set,
    read_json,
    read_star,
    run_measured,
    write_json,
    write_star,
)
from side_by_side import DEFAULT, relion_initial_model

MODELS = SHARED_BENCH.parent / "data" / "models"
PIXEL_SIZE, EACH, SNR = 4.0, 1000, 0.1
# file, chains (all of them where empty), options of make_map.py; the first 16 are mix16
SPECIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "igg": ("1hzh_IgG.pdb", "", ()),
    "igg-without-a-light-chain": ("1hzh_IgG.pdb", "HKL", ()),
    "groel": ("1oel_GroEL.pdb", "", ()),
    "groel-4": ("1oel_GroEL.pdb", "ABCD", ()),
    "groel-2": ("1oel_GroEL.pdb", "AB", ()),
    "spike": ("6vxx_spike_closed.pdb", "", ()),
    "spike-2": ("6vxx_spike_closed.pdb", "AB", ()),
    "spike-1": ("6vxx_spike_closed.pdb", "A", ()),
    "cand1-cul1": ("species/1u6g.pdb.gz", "", ()),
    "cand1": ("species/1u6g.pdb.gz", "C", ()),
    "clpb": ("species/1qvr.pdb.gz", "", ()),
    "clpb-2": ("species/1qvr.pdb.gz", "AB", ()),
    "rubisco": ("species/1bxn.pdb.gz", "", ("--onto-z", "4")),
    "rubisco-half": ("species/1bxn.pdb.gz", "AIEK", ("--onto-z", "2")),
    "hsp90": ("species/2cg9.pdb.gz", "", ("--onto-z", "2")),
    "cftr": ("6msm_CFTR.pdb.gz", "", ()),
    "groel-3": ("1oel_GroEL.pdb", "ABC", ()),
    "groel-5": ("1oel_GroEL.pdb", "ABCDE", ()),
    "groel-6": ("1oel_GroEL.pdb", "ABCDEF", ()),
    "groel-1": ("1oel_GroEL.pdb", "A", ()),
    "cul1": ("species/1u6g.pdb.gz", "AB", ()),
    "clpb-1": ("species/1qvr.pdb.gz", "A", ()),
    "rubisco-3": ("species/1bxn.pdb.gz", "AICJEK", ()),
    "rubisco-large": ("species/1bxn.pdb.gz", "ACEG", ("--onto-z", "4")),
    "hsp90-1": ("species/2cg9.pdb.gz", "A", ()),
    "hsp70": ("species/3gl1.pdb.gz", "", ()),
    "haemoglobin": ("5ni1_hemoglobin.cif", "", ()),
    "igg-heavy": ("1hzh_IgG.pdb", "HK", ()),
    "igg-half": ("1hzh_IgG.pdb", "HL", ()),
    "rubisco-1": ("species/1bxn.pdb.gz", "AI", ()),
    "groel-alternate": ("1oel_GroEL.pdb", "ACE", ()),
    "groel-two-pairs": ("1oel_GroEL.pdb", "ABDE", ()),
}
NO_SPLIT = "least_split = 1000000000"  # single classes are not searched for more molecules
# cases CASE~NAME: settings without a part of the method
ABLATIONS = {
    "exact": "temperature = 1.0\neven_until = 0.0",  # posterior over classes from the first step
    "no-surplus": "surplus = 0.0\nleast_surplus = 0",  # as many maps as molecules
    "no-trial": "lasting_loss = 1000.0",  # maps dropped do not come back
    "no-split": NO_SPLIT,
    # these are made good for where single classes are searched: together with the last one
    "no-split-exact": f"{NO_SPLIT}\ntemperature = 1.0\neven_until = 0.0",
    "no-split-no-surplus": f"{NO_SPLIT}\nsurplus = 0.0\nleast_surplus = 0",
    "no-split-no-trial": f"{NO_SPLIT}\nlasting_loss = 1000.0",
    "one-round": "rounds = 1",
}
FRAMES = range(0, 100, 10)  # states of `moving`, of the trajectory
PATHS = {"moving": len(FRAMES), "adk-path": 20}  # first states of a set that count as one molecule
SYMMETRY = {
    "moving": ("2=C2",),
    "rare": ("1=C3",),
    "real-spike": ("1=C3",),
    "mix4": ("2=C7", "3=C3"),
    "mix8": ("2=C7", "3=C3", "5=C4", "7=C2", "8=C2"),
    "mix-junk": ("1=C3",),
    "mix16": ("3=C7", "6=C3", "13=C4", "14=C2", "15=C2"),
    "mix32": ("3=C7", "6=C3", "13=C4", "14=C2", "15=C2", "24=C4"),
}


def mixture_set(name: str, seed: int, sets: Path) -> Path:
    """The folder of a set, made if it is not there."""
    made: dict[str, int] = {"mix16": 16 * EACH, "mix32": 32 * EACH, "rare": 5000, "moving": 8000}
    if name not in made:
        return make_set(name, seed, sets)
    folder = sets / f"{name}-s{seed}"
    if not (folder / "truth.star").exists():
        shares: list[str] = []
        if name == "moving":
            maps = moving_maps(sets / "species")
            shares = [*(len(FRAMES) * ["1"]), str(len(FRAMES))]
        else:
            chosen = ["spike", "igg"] if name == "rare" else list(SPECIES)[: int(name.removeprefix("mix"))]
            maps = [species_map(species, sets / "species") for species in chosen]
            shares = ["94", "6"] if name == "rare" else []
        command = [sys.executable, SHARED_BENCH / "simulate.py", folder, *maps]
        command += ["-n", str(made[name]), "--snr", str(SNR), "--seed", str(seed)]
        subprocess.run([*command, *(["--shares", *shares] if shares else [])], check=True)
    return folder


def moving_maps(folder: Path) -> list[Path]:
    """Maps of the states of adenylate kinase, and of haemoglobin."""
    folder.mkdir(parents=True, exist_ok=True)
    maps = []
    path = (MODELS / "adk" / "adk_dims_heavy.npz", "--centre", "0", "0", "0")
    sources = [(f"adk-{frame:02d}", (*path, "--frame", str(frame))) for frame in FRAMES]
    for name, source in (*sources, ("haemoglobin-fine", (MODELS / "5ni1_hemoglobin.cif", "--onto-z", "2"))):
        maps.append(folder / f"{name}.mrc")
        if not maps[-1].exists():
            command = [sys.executable, SHARED_BENCH / "make_map.py", source[0], maps[-1], "--pixel", "1.8", *source[1:]]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return maps


def species_map(species: str, folder: Path) -> Path:
    """The map of a chain group."""
    file, chains, options = SPECIES[species]
    source, path = MODELS / file, folder / f"{species}.mrc"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if chains:
        structure = gemmi.read_structure(str(source))
        while len(structure) > 1:
            del structure[1]
        for chain in [chain.name for chain in structure[0]]:
            if chain not in chains:
                structure[0].remove_chain(chain)
        source = folder / f"{species}.pdb"
        structure.write_pdb(str(source))
    command = [sys.executable, SHARED_BENCH / "make_map.py", source, path, "--pixel", str(PIXEL_SIZE), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def measure(case: str, seed: int, work: Path, sets: Path, relion_cpu_s: float) -> dict:
    """Run a case and score it."""
    base, _, without = case.partition("~")
    name, how = base.rsplit("-", 1)
    folder, output = mixture_set(name, seed, sets), work / f"{case}-s{seed}"
    if how == "relion":
        return {"case": case, "seed": seed, **relion(name, folder, output, seed, relion_cpu_s), "machine": machine()}
    options: list[str | Path] = [] if how == "one" else ["--classes", how]
    if how == "true":
        options = [word for path in sorted(folder.glob("truth_*.mrc")) for word in ("--classes-from", path)]
    command = [CRYOLOOM, "reconstruct", folder / "particles.star", "--output", output, "--seed", str(seed), "-j", "1"]
    if without:
        preset = work / f"{without}.toml"
        preset.write_text(f"[mixture]\n{ABLATIONS[without]}\n")
        options += ["--preset", preset]
    spent = run_measured([*command, *options, "--overwrite"], work / f"{case}-s{seed}.log")
    if spent.returncode:
        raise RuntimeError(f"{case}, seed {seed} failed: see {work / f'{case}-s{seed}.log'}")
    if how == "one":
        in_one_class(output / "particles.star")
    found = score(name, folder, output / "particles.star")
    record = json.loads((output / "run.json").read_text())
    if how == "one":
        verdict, classes = {"outcome": record["verdict"]["outcome"]}, []
    else:
        verdict = record["verdict"]
        classes = [class_record(c, found["per_state"], folder, output) for c in verdict.pop("classes")]
    return {
        "case": case,
        "seed": seed,
        **found,
        "verdict": verdict,
        "class_verdicts": classes,
        "stages": [(t["stage"], t["cpu_s"]) for t in record["timings"]],
        "cpu_s": spent.cpu_s,
        "peak_rss_bytes": spent.peak_rss_bytes,
        "commit": commit(),
        "machine": machine(),
    }


def in_one_class(star: Path) -> None:
    """Give all images of a run with one map its class."""
    tables = read_star(star)
    tables["particles"]["rlnClassNumber"] = 1
    write_star(star, tables)


def score(name: str, folder: Path, star: Path) -> dict:
    """What the evaluator says of a particle file."""
    truth = folder / "truth.star"
    if name in PATHS:
        tables = read_star(truth)
        state = tables["particles"]["rlnClassNumber"].astype(int)
        tables["particles"]["rlnClassNumber"] = (state - PATHS[name] + 1).clip(lower=1)
        truth = star.with_name("molecules.star")
        write_star(truth, tables)
    scored = star.with_name("scored.json")
    scorer = [sys.executable, SHARED_BENCH / "evaluate_mixture.py", truth, star]
    symmetry = ["--symmetry", *SYMMETRY[name]] if name in SYMMETRY else []
    subprocess.run([*scorer, *symmetry, "--json", scored], check=True, stdout=subprocess.DEVNULL)
    return json.loads(scored.read_text())


def class_record(verdict: dict, states: dict, folder: Path, run: Path) -> dict:
    """A class's verdict beside the truth.

    That is the state it stands for, the share of the state's images that are solved, and, where it moves, how well a
    direction of its latent space follows the states of the set.
    """
    number = int(verdict["name"].removeprefix("class_"))
    mine = {state: found for state, found in states.items() if found["class"] == number}
    state, found = next(iter(mine.items())) if mine else (None, {"solved": 0.0})
    out = {**verdict, "state": state, "solved": found["solved"]}
    latents = run / verdict["name"] / "z.npy"
    if latents.exists():
        scorer = [sys.executable, SHARED_BENCH / "evaluate_hetero.py", folder / "truth.star"]
        scorer += [latents.with_name("particles.star"), "--latent", latents]
        said = json.loads(subprocess.run(scorer, check=True, capture_output=True, text=True).stdout)
        out["spearman_best_direction"] = said["spearman_best_direction"]
    return out


def relion(name: str, folder: Path, work: Path, seed: int, cpu_s: float) -> dict:
    """RELION's InitialModel with the true number of classes, and what its classes and poses are worth."""
    count = len(list(folder.glob("truth_*.mrc"))) - PATHS.get(name, 1) + 1
    job = replace(DEFAULT, classes=count)
    found = relion_initial_model(folder, work, job, seed, cpu_s, nice=0)
    if "failed" in found:
        raise RuntimeError(found["failed"])
    number = f"{found['iterations']:03d}"
    tables = read_star(work / f"run_it{number}_data.star")
    seen = tables["particles"]["rlnMaxValueProbDistribution"].to_numpy(float) > 0
    found["particles_seen"] = int(seen.sum())
    tables["particles"].loc[~seen, "rlnClassNumber"] = 0
    write_star(work / "particles.star", tables)
    return {**found, **score(name, folder, work / "particles.star"), "verdict": {"outcome": ""}}


def table() -> str:
    """results/mixtures.md from all results."""
    lines = [
        "# Several molecules",
        "",
        "Written by `benchmarks/mixtures.py`, one thread. Solved: share of the molecules' images in the right class",
        "and within 10 degrees. Commits are named in the results themselves.",
        "",
        "| case | seed | solved | states found | classes | adjusted Rand index | junk in none | molecules in none "
        "| outcome | CPU-s | memory, GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("mixtures-*.json"))]
    for r in results:
        junk = "" if r["junk_outside"] is None else f"{r['junk_outside']:.3f}"
        lines.append(
            f"| {r['case']} | {r['seed']} | {r['solved']:.4f} | {r['states_found']} of {r['states']} | {r['classes']} "
            f"| {r['ari']:.4f} | {junk} | {r['molecules_outside']:.4f} | {r['verdict']['outcome']} | {r['cpu_s']:.0f} "
            f"| {r['peak_rss_bytes'] / 2**30:.1f} |"
        )
    return "\n".join([*lines, *class_table(results)]) + "\n"


def class_table(results: list[dict]) -> list[str]:
    """Verdicts on classes beside the truth. A class is right if it stands for a state of which half of the images are
    solved; no other may stand for it."""
    counts: dict[str, list[int]] = {}
    for r in results:
        for c in r.get("class_verdicts", ()):
            right = c["solved"] > 0.5
            counts.setdefault(c["outcome"], [0, 0])[0 if right else 1] += 1
    lines = [
        "",
        "Verdicts on single classes, of all cases together:",
        "",
        "| verdict | right | wrong |",
        "|---|---|---|",
    ]
    return lines + [f"| {outcome} | {right} | {wrong} |" for outcome, (right, wrong) in sorted(counts.items())]


def main() -> None:
    """Measure what has no result yet, and write the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="*"), p.add_argument("--seeds", type=int, nargs="+", default=[1])
    p.add_argument("--workdir", type=Path, default=Path("mixtures")), p.add_argument("--force", action="store_true")
    p.add_argument("--set-folder", type=Path, default=Path("sets"))
    p.add_argument("--cpu-budget", type=float, default=600.0, help="CPU-seconds of RELION")
    a = p.parse_args()
    a.workdir.mkdir(parents=True, exist_ok=True)
    for case in a.cases:
        for seed in a.seeds:
            path = RESULTS / f"mixtures-{case}-s{seed}.json"
            if a.force or read_json(path) is None:
                found = measure(case, seed, a.workdir.resolve(), a.set_folder.resolve(), a.cpu_budget)
                write_json(path, found)
                print(f"{case} s{seed}: solved {found['solved']:.4f}, {found['cpu_s']:.0f} CPU-s", flush=True)
    (RESULTS / "mixtures.md").write_text(table())


if __name__ == "__main__":
    main()
