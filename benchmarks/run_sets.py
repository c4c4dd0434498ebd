#!/usr/bin/env python3
"""Every benchmark set from end to end, judged from outside: run_sets.py [--sets ribosome igg] [--seeds 1 2]

Makes each set (../shared/bench/make_sets.sh; needs RELION), runs `cryoloom reconstruct` on it with default settings and
program seed = set seed, measures CPU (user + system), peak memory and wall time from outside, scores the result with
../shared/bench/evaluate.py and compares it with what is possible: relion_reconstruct with the true poses, the
Cramer-Rao bound, the oracle (`cryoloom refine --from` the true map) and one RELION E-step on the true map.
One JSON a run in benchmarks/results, and the table of all of them in results/sets.md. Runs that have a result are
skipped; --force runs them again, --table only writes the table, --bounds only what is possible (bounds.json, .md).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import catalogue
from bench import CRYOLOOM, RESULTS, ROOT, commit, machine, make_set, read_json, run_measured, write_json
from catalogue import BY_NAME, CATALOGUE, BenchmarkSet
from ceiling import ceiling
from cramer_rao import bound
from oracle_relion import oracle as relion_oracle
from score_run import has_symmetry, record, scores, shell_of_map, stage_cpu_s


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a set, a seed, and the symmetry given to the program (C1: none given)."""

    set: BenchmarkSet
    seed: int
    symmetry: str = "C1"

    @property
    def name(self) -> str:
        """Of the result file."""
        return f"{self.set.name}-s{self.seed}" + ("" if self.symmetry == "C1" else f"-{self.symmetry}")


@dataclass(frozen=True, slots=True)
class Places:
    """Folders to work in."""

    work: Path
    sets: Path


class FirstMap:
    """Keeps a copy of every map that a run writes on its way, with the CPU-seconds used until then."""

    def __init__(self, run: Path, keep: Path) -> None:
        self.run, self.keep = run, keep
        self.seen: dict[Path, float] = {}
        self.copies: list[tuple[float, Path]] = []

    def __call__(self, cpu_s: float) -> None:
        for path in (*self.run.glob("map.mrc"), *self.run.glob("abinit*.mrc")):
            changed = path.stat().st_mtime
            if self.seen.get(path) == changed:
                continue
            self.seen[path] = changed
            self.keep.mkdir(parents=True, exist_ok=True)
            copy = self.keep / f"{len(self.copies):03d}-{path.name}"
            shutil.copyfile(path, copy)
            self.copies.append((cpu_s, copy))

    def first_recognisable(self, folder: Path) -> dict | None:
        """The first map beyond the shell that counts as recognisable, unless that is only the final one."""
        for cpu_s, copy in self.copies[:-1]:
            shell = shell_of_map(folder, copy)
            if shell > catalogue.FIRST_MAP_SHELL:
                return {"source": copy.name, "cpu_s": cpu_s, "fsc0.5_shell": shell}
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; 0 when every run was made, whatever its scores."""
    a = arguments(argv)
    places = Places(a.workdir, a.set_folder or a.workdir / "sets")
    jobs = [j for name in a.sets for j in jobs_of(BY_NAME[name], a.seeds)]
    if a.bounds:
        write_bounds([make_set(j.set.name, j.seed, places.sets) for j in jobs if j.symmetry == "C1"], a.relion_oracle)
        return 0
    if not a.table:
        todo = [j for j in jobs if a.force or not (RESULTS / f"{j.name}.json").exists()]
        print(f"{len(todo)} of {len(jobs)} runs to do on {machine()}", flush=True)
        if todo and a.warm_up:
            warm_up(places)
        for job in todo:
            result = run(job, places, a.oracle, a.relion_oracle, a.keep)
            write_json(RESULTS / f"{job.name}.json", result)
            bad = [c["name"] for c in result["checks"] if not c["ok"]]
            print(f"{job.name}: {'all targets met' if not bad else 'MISSED: ' + ', '.join(bad)}", flush=True)
            write_table()
        for job in [] if not a.oracle else jobs:
            add_oracle(job, places)
    if a.cold:
        cold(places, a.seeds[0])
    write_table()
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sets", nargs="+", default=[s.name for s in CATALOGUE], choices=sorted(BY_NAME), metavar="SET")
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="SEED")
    p.add_argument("--workdir", type=Path, default=ROOT / "run-benchmarks", help="for sets, runs and oracles")
    p.add_argument("--set-folder", type=Path, help="where the sets are or will be made (default: WORKDIR/sets)")
    p.add_argument("--force", action="store_true", help="run again what has a result")
    p.add_argument("--keep", action="store_true", help="keep the run folders")
    p.add_argument("--table", action="store_true", help="write the table of the results that are there, run nothing")
    p.add_argument("--bounds", action="store_true", help="write what the sets allow, run nothing of ours")
    p.add_argument("--cold", action="store_true", help="also a run without compiled kernels: cold.json")
    p.add_argument("--no-oracle", dest="oracle", action="store_false", help="skip the refinement from the true map")
    p.add_argument("--no-relion-oracle", dest="relion_oracle", action="store_false", help="skip RELION's E-step")
    p.add_argument("--no-warm-up", dest="warm_up", action="store_false", help="kernels are compiled and cached already")
    a = p.parse_args(argv)
    a.workdir = a.workdir.absolute()
    return a


def jobs_of(entry: BenchmarkSet, seeds: Iterable[int]) -> list[Job]:
    """The runs of a set: one a seed; symmetric sets also with their symmetry given."""
    symmetries = ("C1", entry.symmetry) if entry.kind == "symmetric" else ("C1",)
    return [Job(entry, seed, symmetry) for seed in seeds for symmetry in symmetries]


def warm_up(places: Places) -> None:
    """A small run, not measured, so that compiled kernels are in the cache."""
    folder = make_set("few", 1, places.sets)
    print("warming up", flush=True)
    with tempfile.TemporaryDirectory(dir=places.sets) as scratch:
        run_measured(reconstruct(folder, Path(scratch) / "run", 1, "C1"), Path(scratch) / "log")


def reconstruct(folder: Path, run_folder: Path, seed: int, symmetry: str) -> list[str | Path]:
    """The command line: defaults but for the seed."""
    particles = folder / "particles.star"
    words: list[str | Path] = [CRYOLOOM, "reconstruct", particles, "-o", run_folder, "--seed", str(seed)]
    return words + ([] if symmetry == "C1" else ["--symmetry", symmetry])


def run(job: Job, places: Places, with_oracle: bool, with_relion: bool, keep: bool) -> dict:
    """One run, measured and scored."""
    folder = make_set(job.set.name, job.seed, places.sets)
    run_folder = places.work / "runs" / job.name
    shutil.rmtree(run_folder, ignore_errors=True)
    run_folder.parent.mkdir(parents=True, exist_ok=True)
    watch = FirstMap(run_folder, places.work / "runs" / f"{job.name}.maps")
    shutil.rmtree(watch.keep, ignore_errors=True)
    command = reconstruct(folder, run_folder, job.seed, job.symmetry)
    load = os.getloadavg()[0]
    log = run_folder.with_suffix(".log")
    spent = run_measured(command, log, watch=watch)
    result: dict = {
        "set": job.set.name,
        "seed": job.seed,
        "symmetry": job.symmetry,
        "commit": commit(),
        "machine": machine(),
        "command": " ".join(Path(w).name if isinstance(w, Path) else w for w in command),
        "load_before": load,
        "returncode": spent.returncode,
        "cpu_s": spent.cpu_s,
        "wall_s": spent.wall_s,
        "peak_rss_bytes": spent.peak_rss_bytes,
    }
    if spent.returncode:
        result |= {"log": log.read_text(errors="replace")[-2000:]}
        result["checks"] = [check("ends without an error", spent.returncode, 0, False)]
        return result
    ran = record(run_folder)
    result |= {"versions": ran["versions"], "stage_cpu_s": stage_cpu_s(run_folder), "verdict": ran["verdict"]}
    if job.set.kind != "noise":
        result["scores"] = scores(folder, run_folder, job.set.symmetry)
        result["possible"] = possible(job, folder, places, with_oracle, with_relion)
        if job.set.kind == "plain":
            result["first_map"] = watch.first_recognisable(folder) or ab_initio_map(job, folder, places)
    if job.symmetry != "C1":
        result["on_standard_axes"] = has_symmetry(run_folder / "map.mrc", job.symmetry)
    result["checks"] = checks(job, result)
    if not keep:
        shutil.rmtree(run_folder)
        shutil.rmtree(watch.keep, ignore_errors=True)
    return result


def ab_initio_map(job: Job, folder: Path, places: Places) -> dict | None:
    """Where a run shows no map on its way: that of `cryoloom abinit` with the same seed, at the cost of all of it."""
    with tempfile.TemporaryDirectory(dir=places.sets) as scratch:
        run_folder, log = Path(scratch) / "run", Path(scratch) / "log"
        command = [CRYOLOOM, "abinit", folder / "particles.star", "-o", run_folder, "--seed", str(job.seed)]
        spent = run_measured(command, log)
        if spent.returncode or not (run_folder / "map.mrc").exists():
            return None
        shell = shell_of_map(folder, run_folder / "map.mrc")
    if shell <= catalogue.FIRST_MAP_SHELL:
        return None
    return {"source": "cryoloom abinit", "cpu_s": spent.cpu_s, "fsc0.5_shell": shell}


def possible(job: Job, folder: Path, places: Places, with_oracle: bool, with_relion: bool) -> dict:
    """What the set allows: ceiling, Cramer-Rao bound and, for hard sets, the oracles."""
    if job.set.kind in ("real-like", "twin"):
        return {"oracle": own_oracle(job, folder, places)} if job.set.kind == "real-like" and with_oracle else {}
    limit = cramer_rao_bound(folder)
    out = {
        "ceiling": {k: v for k, v in ceiling(folder, job.symmetry).items() if k != "fsc"},
        "cramer_rao": {k: v for k, v in limit.items() if k != "noise_over_white"},
    }
    if job.set.kind == "hard" and with_oracle:
        out["oracle"] = own_oracle(job, folder, places)
    if job.set.kind == "hard" and with_relion:
        out["relion_e_step"] = relion_oracle(folder)
    return out


def add_oracle(job: Job, places: Places) -> None:
    """The oracle of a hard set for a run that was made without it."""
    path = RESULTS / f"{job.name}.json"
    result = read_json(path)
    judged = job.set.kind in ("hard", "real-like")
    if not judged or result is None or "oracle" in result.get("possible", {"oracle": None}):
        return
    result["possible"]["oracle"] = own_oracle(job, make_set(job.set.name, job.seed, places.sets), places)
    result["checks"] = checks(job, result)
    write_json(path, result)
    print(f"{job.name}: oracle {result['possible']['oracle']}", flush=True)


def cramer_rao_bound(folder: Path) -> dict:
    """The set's bound, kept beside the sets in bounds/SET.json."""
    cache = folder.parent / "bounds" / f"{folder.name}.json"
    limit = read_json(cache)
    if limit is None:
        limit = bound(folder)
        write_json(cache, limit)
    return limit


def write_bounds(folders: Sequence[Path], with_relion: bool) -> None:
    """bounds.json and bounds.md: ceiling, Cramer-Rao bound and RELION's E-step of each set that holds molecules."""
    rows = []
    for folder in (f for f in folders if not f.name.startswith("noise")):
        hard = BY_NAME[folder.name.rsplit("-s", 1)[0]].kind in ("hard", "plain")
        limit, top = cramer_rao_bound(folder), ceiling(folder)
        e_step = relion_oracle(folder) if with_relion and hard else None
        rows.append({"set": folder.name, "cramer_rao": limit, "ceiling": top, "relion_e_step": e_step})
    write_json(RESULTS / "bounds.json", {"machine": machine(), "sets": rows})
    lines = [
        "# What the sets allow",
        "",
        "Ceiling: shell and angstrom where the FSC of `relion_reconstruct` with the true poses falls below 0.5. "
        "Bound: expected median errors at the Cramer-Rao bound. E-step: one of `relion_refine` on the true map "
        "(15 to 7.5 degrees), its first images only.",
        "",
        "| set | ceiling, shell | ceiling, A | bound, deg | bound, px | E-step < 10 deg | E-step median, deg "
        "| E-step images | E-step CPU-s an image |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        top, limit, e = r["ceiling"], r["cramer_rao"], r["relion_e_step"]
        last = (
            " |  |  |  |"
            if e is None
            else (
                f"{e['rotation_frac_below_10deg']:.3f} | {e['rotation_median_deg']:.2f} | {e['of']} "
                f"| {e['cpu_s_per_image']:.3f} |"
            )
        )
        lines.append(
            f"| {r['set']} | {top['fsc0.5_shell']:.1f} | {top['fsc0.5_angstrom']:.2f} "
            f"| {limit['rotation_median_deg']:.3f} | {limit['shift_median_px']:.4f} | {last}"
        )
    (RESULTS / "bounds.md").write_text("\n".join(lines) + "\n")


def own_oracle(job: Job, folder: Path, places: Places) -> dict:
    """`cryoloom refine --from` the true map, scored like a run; kept in WORKDIR/oracles for this commit."""
    cache = places.work / "oracles" / f"{folder.name}-{commit()}.json"
    known = read_json(cache)
    if known is not None:
        return known
    with tempfile.TemporaryDirectory(dir=places.sets) as scratch:
        run_folder, log = Path(scratch) / "run", Path(scratch) / "log"
        command = [
            CRYOLOOM,
            "refine",
            folder / "particles.star",
            "--from",
            folder / "truth_001.mrc",
            "-o",
            run_folder,
            "--seed",
            str(job.seed),
        ]
        spent = run_measured(command, log)
        if spent.returncode:
            return {"failed": log.read_text(errors="replace")[-1000:]}
        found = scores(folder, run_folder, job.set.symmetry)
    kept = ("rotation_median_deg", "rotation_frac_below_10deg", "shift_median_px", "fsc0.5_shell", "junk_auc")
    result = {"cpu_s": spent.cpu_s, **{k: found[k] for k in kept if k in found}}
    write_json(cache, result)
    return result


def check(name: str, value: float | str | bool | None, bound_: float | str | bool, ok: bool) -> dict:
    """One target: what was found, what was wanted, and whether it holds."""
    return {"name": name, "value": value, "bound": bound_, "ok": bool(ok)}


def at_least(name: str, value: float | None, bound_: float) -> dict:
    """value >= bound."""
    return check(name, value, bound_, value is not None and value >= bound_)


def at_most(name: str, value: float | None, bound_: float) -> dict:
    """value <= bound."""
    return check(name, value, bound_, value is not None and value <= bound_)


def checks(job: Job, result: dict) -> list[dict]:
    """The targets that hold for this run."""
    entry, verdict = job.set, result["verdict"] or {}
    out = [check("ends without an error", 0, 0, True)]
    if entry.cpu_s is not None:
        out.append(at_most("CPU-s", result["cpu_s"], entry.cpu_s))
    if entry.rss_gib is not None:
        out.append(at_most("peak GiB", result["peak_rss_bytes"] / 2**30, entry.rss_gib))
    if entry.kind == "noise":
        return [*out, check("called noise", verdict.get("outcome"), "noise", verdict.get("outcome") == "noise")]
    found, limit = result["scores"], result["possible"]
    share = found["rotation_frac_below_10deg"]
    if entry.share is not None:
        out.append(at_least("share below 10 degrees", share, entry.share))
    if entry.kind in ("plain", "large", "symmetric"):
        wanted = catalogue.CEILING_SHELLS * limit["ceiling"]["fsc0.5_shell"]
        out.append(at_least("FSC-0.5 shell", found["fsc0.5_shell"], wanted))
    if entry.kind == "plain":
        bounds = limit["cramer_rao"]
        for name, key in (("median rotation error", "rotation_median_deg"), ("median shift error", "shift_median_px")):
            out.append(at_most(name, found[key], catalogue.CRAMER_RAO * bounds[key]))
        first = result["first_map"]
        out.append(at_most("CPU-s to the first map", first and first["cpu_s"], catalogue.FIRST_MAP_CPU_S))
    if entry.kind in ("hard", "real-like"):
        out += oracle_checks(share, limit)
    twin = read_json(RESULTS / f"{entry.twin}-s{job.seed}.json") if entry.twin else None
    if twin is not None:
        out.append(at_most("times the CPU-s of the clean twin", result["cpu_s"] / twin["cpu_s"], catalogue.TWIN_COST))
    if entry.name == "ribosome-junk":
        out.append(at_least("junk AUC", found.get("junk_auc"), catalogue.JUNK_AUC))
    if job.symmetry != "C1":
        out.append(check("on the standard axes", result["on_standard_axes"], True, result["on_standard_axes"]))
    return [*out, *verdict_checks(result)]


def oracle_checks(share: float, limit: dict) -> list[dict]:
    """The share below 10 degrees against the oracle's, and the oracle against RELION's E-step."""
    out = []
    own, relion = limit.get("oracle"), limit.get("relion_e_step")
    if own is not None:
        oracle_share = own.get("rotation_frac_below_10deg")
        if oracle_share is None:
            return [check("the oracle runs", own.get("failed", "")[-200:], "", False)]
        out.append(at_least("share of the oracle's", share / oracle_share, catalogue.ORACLE_SHARE))
        if relion is not None:
            out.append(at_least("oracle's share", oracle_share, relion["rotation_frac_below_10deg"]))
    else:
        out.append(at_least("share of what any oracle could reach", share, catalogue.ORACLE_SHARE))
    return out


def is_right(result: dict) -> bool:
    """Whether the truth calls this run a success, for the comparison with its verdict."""
    attainable = result["possible"].get("oracle", {}).get("rotation_frac_below_10deg", 1.0)
    return result["scores"]["rotation_frac_below_10deg"] >= catalogue.RIGHT_SHARE * attainable


def verdict_checks(result: dict) -> list[dict]:
    """The verdict against the truth: outcome, and the stated resolution where the run says that it converged."""
    verdict, found = result["verdict"] or {}, result["scores"]
    outcome, right = verdict.get("outcome"), is_right(result)
    out = [check("verdict", outcome, "converged" if right else "not converged", (outcome == "converged") == right)]
    stated, true = verdict.get("resolution_angstrom"), found.get("own_mask_fsc0.5_angstrom")
    box = len(found["fsc"]) - 1
    if outcome == "converged" and found.get("own_mask_fsc0.5_shell", box) < box - 1:
        error = None if not stated or not true else abs(stated / true - 1)
        out.append(at_most("stated resolution's error", error, catalogue.STATED_RESOLUTION))
    return out


def cold(places: Places, seed: int) -> None:
    """The first plain set once more with an empty kernel cache."""
    entry = CATALOGUE[0]
    folder = make_set(entry.name, seed, places.sets)
    with tempfile.TemporaryDirectory(dir=places.sets) as scratch:
        command = reconstruct(folder, Path(scratch) / "run", seed, "C1")
        environment = {"NUMBA_CACHE_DIR": str(Path(scratch) / "cache")}
        spent = run_measured(command, Path(scratch) / "log", environment=environment)
    warm = read_json(RESULTS / f"{entry.name}-s{seed}.json") or {}
    write_json(
        RESULTS / "cold.json",
        {
            "set": folder.name,
            "commit": commit(),
            "machine": machine(),
            "returncode": spent.returncode,
            "cpu_s": spent.cpu_s,
            "wall_s": spent.wall_s,
            "warm_cpu_s": warm.get("cpu_s"),
            "warm_wall_s": warm.get("wall_s"),
        },
    )


def write_table() -> None:
    """results/sets.md from the result files that are there."""
    known = {j.name: (j, read_json(RESULTS / f"{j.name}.json")) for e in CATALOGUE for j in jobs_of(e, range(1, 6))}
    done = [(job, r) for job, r in known.values() if r is not None]
    if not done:
        return
    machines = " or ".join(sorted({r["machine"] for _, r in done}))
    lines = [
        "# Benchmark sets",
        "",
        "`cryoloom reconstruct` with default settings on the sets of `make_sets.sh`, seed of the program = seed of the "
        f"set, on a {machines} (each result names its own); scored by `evaluate.py`. "
        "Written by `benchmarks/run_sets.py`.",
        "",
        "FSC is the shell at which the FSC with the truth falls below 0.5, and that of `relion_reconstruct` with the "
        "true poses. Medians stand beside the Cramer-Rao bound. The oracle is `cryoloom refine --from` the truth.",
        "",
        "| run | verdict | FSC / ceiling | < 10 deg | oracle | RELION E-step | rotation / bound, deg "
        "| shift / bound, px | CPU-s | first map, CPU-s | GiB | commit | missed |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(job, r) for job, r in done]
    lines += ["", "## By set", "", "| set | runs | all targets met | median CPU-s | target |", "|---|---|---|---|---|"]
    for entry in CATALOGUE:
        of_set = [r for job, r in done if job.set == entry]
        if of_set:
            met = sum(all(c["ok"] for c in r["checks"]) for r in of_set)
            allowed = "at most one in five fails" if entry.kind == "hard" else "none fails"
            cpu_s = statistics.median(r["cpu_s"] for r in of_set)
            lines.append(f"| {entry.name} | {len(of_set)} | {met} | {cpu_s:.1f} | {allowed} |")
    (RESULTS / "sets.md").write_text("\n".join(lines) + "\n")


def row(job: Job, r: dict) -> str:
    """A run's line of the table."""

    def number(value: float | None, digits: int = 2) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    found, limit, first = r.get("scores", {}), r.get("possible", {}), r.get("first_map")
    bounds, top = limit.get("cramer_rao", {}), limit.get("ceiling", {})
    missed = "; ".join(f"{c['name']} {_short(c['value'])} ({_short(c['bound'])})" for c in r["checks"] if not c["ok"])
    cells = [
        job.name,
        str((r.get("verdict") or {}).get("outcome", "")),
        f"{number(found.get('fsc0.5_shell'), 1)} / {number(top.get('fsc0.5_shell'), 1)}",
        number(found.get("rotation_frac_below_10deg"), 3),
        number(limit.get("oracle", {}).get("rotation_frac_below_10deg"), 3),
        number(limit.get("relion_e_step", {}).get("rotation_frac_below_10deg"), 3),
        f"{number(found.get('rotation_median_deg'))} / {number(bounds.get('rotation_median_deg'))}",
        f"{number(found.get('shift_median_px'), 3)} / {number(bounds.get('shift_median_px'), 3)}",
        number(r["cpu_s"], 1),
        number(first and first["cpu_s"], 1),
        number(r["peak_rss_bytes"] / 2**30),
        r["commit"],
        missed or "-",
    ]
    return "| " + " | ".join(cells) + " |"


def _short(value: object) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
    return text.replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
