#!/usr/bin/env python3
"""The best map that a particle set allows: ceiling.py SET-FOLDER [...] [--symmetry D7] [--force]

relion_reconstruct with the true poses (junk left out), scored against the true map by ../shared/bench/evaluate.py with
truth.star as the estimate, so that the frame is the identity. Results are kept in SET-FOLDER's neighbour
ceilings/SET[-SYMMETRY].json and read from there the next time. Needs RELION on PATH.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench import evaluator, machine, read_json, read_star, relion_version, run_measured, write_json, write_star


def ceiling(folder: Path, symmetry: str = "C1", force: bool = False, nice: int = 0) -> dict:
    """Scores of the map with the true poses."""
    folder = folder.resolve()
    cache = folder.parent / "ceilings" / (folder.name + ("" if symmetry == "C1" else f"-{symmetry}") + ".json")
    known = None if force else read_json(cache)
    if known is not None:
        return known
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        tables = read_star(folder / "truth.star")
        pixel = float(tables["optics"]["rlnImagePixelSize"].iloc[0])
        tables["particles"] = tables["particles"].query("rlnClassNumber == 1")
        write_star(work / "true_poses.star", tables)
        # image names are relative to the set's folder
        command = [
            "relion_reconstruct",
            "--i",
            work / "true_poses.star",
            "--o",
            work / "map.mrc",
            "--ctf",
            "--sym",
            symmetry.lower(),
            "--angpix",
            f"{pixel:.6f}",
        ]
        spent = run_measured(command, work / "log", cwd=folder, environment={"OMP_NUM_THREADS": "1"}, nice=nice)
        if spent.returncode:
            raise RuntimeError(f"relion_reconstruct failed on {folder}:\n{(work / 'log').read_text()[-2000:]}")
        scores = evaluator().evaluate(
            str(work / "true_poses.star"),
            str(work / "true_poses.star"),
            str(folder / "truth_001.mrc"),
            str(work / "map.mrc"),
            symmetry=symmetry,
        )
    kept = ("fsc0.5_shell", "fsc0.5_angstrom", "fsc0.143_shell", "fsc0.143_angstrom", "fsc_area", "fsc")
    result = {
        "set": folder.name,
        "symmetry": symmetry,
        "particles": scores["particles"],
        **{k: scores[k] for k in kept},
        "relion_reconstruct_cpu_s": spent.cpu_s,
        "relion": relion_version(),
        "machine": machine(),
    }
    write_json(cache, result)
    return result


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="+", type=Path)
    p.add_argument("--symmetry", default="C1", help="imposed by relion_reconstruct, about the standard axes")
    p.add_argument("--force", action="store_true", help="measure again")
    p.add_argument("--nice", type=int, default=0)
    a = p.parse_args()
    for f in a.folders:
        found = ceiling(f, a.symmetry, a.force, a.nice)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in found.items() if k != "fsc"}))
