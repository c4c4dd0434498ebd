"""The run folder: whose it is, what may be overwritten, and what run.json says."""

import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest

from cryoloom.runs.folder import (
    BadRunFolder,
    LogNote,
    RunFolder,
    check_output_folder,
    read_record,
    read_settings,
)
from cryoloom.runs.lock import LockHolder, RunLocked, lock_holder
from cryoloom.runs.metrics_log import MetricsLog, read_metrics
from cryoloom.runs.progress import StepInfo


class Symmetry(StrEnum):
    C1 = "C1"
    D2 = "D2"


@dataclass(frozen=True, slots=True)
class Schedule:
    radii: tuple[float, ...] = (5, 6.5)
    steps: tuple[int, int] = (15, 20)


@dataclass(frozen=True, slots=True)
class Settings:
    particles: Path = Path("/data/β set/p.star")
    symmetry: Symmetry = Symmetry.D2
    diameter_angstrom: float | None = None
    on_bad: Literal["error", "drop"] = "drop"
    schedule: Schedule = field(default_factory=Schedule)
    threads: int = field(default=2, metadata={"may_change": True})


def create(path: Path, settings: object = None, **options) -> RunFolder:
    return RunFolder.create(
        path,
        settings or Settings(),
        "f" * 64,
        "reconstruct",
        input_path=Path("p.star"),
        seed=3,
        threads=2,
        device="cpu",
        **options,
    )


def resume(path: Path, settings: object = None, fingerprint: str = "f" * 64) -> RunFolder:
    return RunFolder.resume(path, settings or Settings(), fingerprint, threads=4, device="cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An interrupted run."""
    create(tmp_path / "run").close()
    return tmp_path / "run"


def test_record_says_what_was_run(tmp_path: Path):
    with create(tmp_path / "a run" / "é", argv=("cryoloom", "reconstruct")) as folder:
        assert read_record(folder.path).status == "running"
        folder.record_timing("abinit", 2.0, 3.0)
        with folder.timing("maps"):
            pass
        folder.finish({"resolution_angstrom": 7.5})
    record = read_record(tmp_path / "a run" / "é")
    assert record == folder.record
    assert (record.status, record.command, record.seed) == ("finished", "reconstruct", 3)
    assert record.verdict == {"resolution_angstrom": 7.5}
    assert record.input_path == str(Path("p.star").absolute())
    assert (record.machine.threads, record.machine.device) == (2, "cpu")
    assert [t.stage for t in record.timings] == ["abinit", "maps"]
    assert set(record.versions) >= {"cryoloom", "python", "numpy", "torch"}
    assert not folder.lock_path.exists()


def test_settings_come_back_as_they_were(run: Path):
    assert read_settings(run, Settings) == Settings()


def test_settings_of_another_kind_are_refused(run: Path):
    @dataclass(frozen=True)
    class Other:
        box: int

    with pytest.raises(BadRunFolder, match=r"run\.json, settings: missing: box"):
        read_settings(run, Other)
    document = json.loads((run / "run.json").read_text())
    document["settings"]["symmetry"] = "C9"
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(BadRunFolder, match=r"settings\.symmetry: found 'C9'"):
        read_settings(run, Settings)


def test_settings_that_json_can_not_hold_are_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="inf cannot be stored"):
        create(tmp_path / "run", Settings(diameter_angstrom=float("inf")))
    assert list((tmp_path / "run").iterdir()) == []


def test_resume_takes_the_same_settings_and_other_threads(run: Path):
    with resume(run, Settings(threads=7)) as folder:
        assert folder.record.status == "running"
        assert folder.record.settings["threads"] == 7
    assert read_record(run).status == "interrupted"


def test_resume_names_the_setting_that_differs(run: Path):
    with pytest.raises(BadRunFolder, match="symmetry: C1, in the run: D2"):
        resume(run, Settings(symmetry=Symmetry.C1))
    assert lock_holder(run / "run.lock") is None


def test_resume_with_other_data_is_refused(run: Path):
    with pytest.raises(BadRunFolder, match=r"not the one this run began with(.|\n)*expected: ffff"):
        resume(run, fingerprint="e" * 64)


def test_resume_of_a_finished_run_is_refused(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        folder.finish({})
    with pytest.raises(BadRunFolder, match="is finished"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', "[" * 100_000])
def test_what_is_not_our_run_json_is_refused(tmp_path: Path, text: str):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadRunFolder, match=r"run\.json"):
        read_record(tmp_path)
    with pytest.raises(BadRunFolder, match=r"run\.json"):
        check_output_folder(tmp_path, overwrite=True)


def test_a_folder_with_other_files_is_refused_even_to_overwrite(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (None, ("*.tex",)):
        with pytest.raises(BadRunFolder, match=r"thesis\.tex"):
            create(tmp_path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_earlier_run_is_replaced_only_on_request(run: Path):
    for folder in ("checkpoints", "inner", "empty after"):
        (run / folder).mkdir()
    for name in ("map.mrc", "notes.txt", "part_001.mrc", "inner/a.npy", "inner/mine.txt", "empty after/a.npy"):
        (run / name).write_text(name)
    (run / "checkpoints" / "abinit-00000001.safetensors").write_text("old")
    with pytest.raises(BadRunFolder, match="continue it with 'cryoloom resume"):
        create(run)
    assert (run / "map.mrc").exists()
    create(run, overwrite=("map.mrc", "part_[0-9][0-9][0-9].mrc", "inner/*.npy", "empty after/*.npy")).close()
    left = sorted(p.relative_to(run).as_posix() for p in run.rglob("*"))
    assert left == ["inner", "inner/mine.txt", "notes.txt", "run.json", "run.log"]


def test_a_folder_that_can_not_be_written_is_refused(tmp_path: Path):
    with pytest.raises(BadRunFolder, match="can't write here"):
        create(Path("/proc/cryoloom"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRunFolder, match="can't write here"):
        create(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path):
    tmp_path.chmod(0o555)
    with pytest.raises(BadRunFolder, match="can't write here"):
        create(tmp_path)


def test_two_runs_in_one_folder_are_refused(run: Path):
    with resume(run):
        for attempt in (lambda: resume(run), lambda: create(run, overwrite=())):
            with pytest.raises(RunLocked, match=f"process {os.getpid()} on {socket.gethostname()}"):
                attempt()
        assert read_record(run).status == "running"
    resume(run).close()


def test_another_process_is_refused(run: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run / "run.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(RunLocked, match=f"process {holder.pid} "):
            resume(run)
        holder.kill()
        # dead, but not yet collected by its parent
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        with resume(run):
            assert f"lock of process {holder.pid}" in (run / "run.log").read_text()
    finally:
        holder.communicate()


HOLD = """
import sys
from pathlib import Path
from cryoloom.runs.lock import RunLock
RunLock.acquire(Path(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("holder", "refused"),
    [
        (LockHolder(2**22 + 1, socket.gethostname(), 1, "then"), False),  # no such process
        (replace(LockHolder.here(), born=1), False),  # our PID, but of a process born at another time
        (LockHolder(1, "elsewhere", 1, "then"), True),
    ],
)
def test_stale_locks_are_recognised(run: Path, holder: LockHolder, refused: bool):
    text = json.dumps({"pid": holder.pid, "host": holder.host, "born": holder.born, "since": holder.since})
    (run / "run.lock").write_text(text)
    if refused:
        with pytest.raises(RunLocked, match=r"alive on elsewhere, delete .*run\.lock"):
            resume(run)
    else:
        resume(run).close()


@pytest.mark.parametrize("text", ["", "{", '{"pid": -1, "host": "x", "born": null, "since": ""}', "[" * 4000])
def test_a_garbled_lock_is_taken_over(run: Path, text: str):
    (run / "run.lock").write_text(text)
    resume(run).close()
    assert not (run / "run.lock").exists()


def test_failure_leaves_its_traceback_in_the_log(run: Path):
    logger = logging.getLogger("cryoloom.somewhere")

    def fail() -> None:
        with resume(run):
            logger.warning("about to fail")
            raise ZeroDivisionError("oh")

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    log = (run / "run.log").read_text()
    assert "WARNING cryoloom.somewhere: about to fail" in log
    assert "ZeroDivisionError: oh" in log
    assert [type(note) for note in caught.value.__notes__] == [LogNote]
    assert read_record(run).status == "failed"
    logger.warning("after the run")
    assert "after the run" not in (run / "run.log").read_text()


def test_metrics_are_cut_to_the_resumed_step(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.cut("abinit", 0)
    for step in (1, 2, 3):
        log.write(StepInfo("abinit", step, metrics=(("loss", 0.1 * step),)), 1.0, 2.0)
    path.write_bytes(path.read_bytes() + b'{"stage": "abin')
    log = MetricsLog(path)
    log.cut("abinit", 2)
    log.write(StepInfo("abinit", 3, message="<new>"), 1.0, 2.0)
    steps = read_metrics(path)
    assert [s.info.step for s in steps] == [1, 2, 3]
    assert steps[1].info.metrics == (("loss", 0.2),)
    assert steps[2].info.message == "<new>"
    assert steps[2].cpu_s == 2.0


def test_foreign_lines_in_metrics_are_named(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1"):
        read_metrics(tmp_path / "metrics.jsonl")
