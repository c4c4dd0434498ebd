"""The main job as a whole: the same twice, the same after being killed, and right about structure and about noise."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from cryoloom.simulation.dataset import simulate_demo

from .small_run import settings_for

MAPS = ("map.mrc", "map_sharp.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "local_resolution.mrc")


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    simulate_demo(folder, 300, seed=3)
    return folder / "particles.star"


def start(particles: Path, folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("small_run.py")), str(particles), str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def complete(particles: Path, folder: Path) -> None:
    process = start(particles, folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def finished(folder: Path) -> bool:
    record = folder / "run.json"
    return record.exists() and json.loads(record.read_text())["status"] == "finished"


def result(folder: Path) -> dict[str, str]:
    """Digests of the map data and of the poses; headers and logs carry dates."""
    out = {name: hashlib.sha256(mrcfile.read(folder / name).tobytes()).hexdigest() for name in MAPS}
    table = starfile.read(folder / "particles.star")["particles"].drop(columns=["rlnImageName"])
    out["particles"] = hashlib.sha256(table.to_csv().encode()).hexdigest()
    return out


@pytest.fixture(scope="module")
def uninterrupted(particles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    folder = tmp_path_factory.mktemp("run") / "run"
    process = start(particles, folder)
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return result(folder), time.monotonic() - began


def killed_after(particles: Path, folder: Path, stage: str, steps: int) -> None:
    """The run, started or gone on with, and killed once it has logged that many steps of a stage."""
    process = start(particles, folder)
    log = folder / "metrics.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_text().count(f'"stage": "{stage}"') >= steps:
            process.kill()
        time.sleep(0.02)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors


def test_killed_in_each_stage_and_resumed_it_ends_with_the_same_bits(particles: Path, tmp_path: Path, uninterrupted):
    folder = tmp_path / "run"
    killed_after(particles, folder, "abinit", 8)
    killed_after(particles, folder, "refine", 1)
    assert not finished(folder)
    complete(particles, folder)
    assert result(folder) == uninterrupted[0]


@pytest.mark.slow
def test_the_same_run_twice_gives_the_same_bits(particles: Path, tmp_path: Path, uninterrupted):
    complete(particles, tmp_path / "run")
    assert result(tmp_path / "run") == uninterrupted[0]


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bits(
    particles: Path, tmp_path: Path, uninterrupted
):
    expected, seconds = uninterrupted
    rng = np.random.default_rng(7)
    folder = tmp_path / "run"
    killed = 0
    for _ in range(10):
        process = start(particles, folder)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.3) * seconds)
        if process.poll() is None:
            process.kill()
            killed += 1
        process.communicate()
        if finished(folder):  # the kill may come between the last write and the exit
            break
    assert killed >= 2
    if not finished(folder):
        complete(particles, folder)
    assert result(folder) == expected


def test_the_settings_of_a_run_rebuild_themselves(particles: Path, tmp_path: Path):
    from cryoloom.runs.record import from_json, to_json

    settings = settings_for(particles)
    assert from_json(type(settings), to_json(settings), "settings") == settings
