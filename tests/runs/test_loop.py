"""The run loop: however a run is killed and resumed, its result and its metrics are those of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.runs.checkpoint import BadCheckpoint
from cryoloom.runs.folder import read_record
from cryoloom.runs.interrupts import Interrupts, Stopped
from cryoloom.runs.metrics_log import read_metrics
from cryoloom.runs.progress import SilentProgress, StepInfo
from cryoloom.runs.seeds import numpy_generator, torch_generator
from cryoloom.runs.session import Session

from .random_walk import RandomWalk, WalkSettings, open_folder, walk

PROGRAM = Path(__file__).with_name("random_walk.py")
ZERO = np.zeros((8, 8, 8))


def start(folder: Path, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(folder), *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Listening(SilentProgress):
    """Keeps what is said and which steps are done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[str, int]] = []

    def say(self, message: str, *, warning: bool = False) -> None:
        self.said.append(("warning: " if warning else "") + message)

    def update(self, info: StepInfo) -> None:
        self.steps.append((info.stage, info.step))


def resume(folder: Path, settings: WalkSettings | None = None) -> Listening:
    """Run to the end, in this process."""
    progress = Listening()
    walk(folder, settings or WalkSettings(), progress, seconds=100)
    return progress


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(f"{line!r} never came: {process.communicate()[1]}")


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("wall_s", "cpu_s")} for line in lines]


def assert_same_run(folder: Path, reference: Path, *, cleared: bool = True) -> None:
    with np.load(folder / "state.npz") as a, np.load(reference / "state.npz") as b:
        assert a["position"].tobytes() == b["position"].tobytes()
        assert a["trace"].tobytes() == b["trace"].tobytes()
    assert metrics(folder) == metrics(reference)
    assert read_record(folder).status == "finished"
    assert not cleared or not (folder / "checkpoints").exists()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 20 steps a stage."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    walk(folder, WalkSettings(), SilentProgress())
    return folder


def test_undisturbed_run_logs_every_step_once(reference: Path):
    steps = [(m["stage"], m["step"]) for m in metrics(reference)]
    assert steps == [(stage, n) for stage in ("abinit", "refine") for n in range(1, 21)]


def test_killed_at_random_moments(tmp_path: Path):
    """Large states, so that many of the kills fall into a checkpoint."""
    settings = WalkSettings(steps=60, box=40)
    resume(tmp_path / "reference", settings)
    chance = random.Random(5)
    folder, kills = tmp_path / "killed", 0
    for _ in range(5):
        process = start(folder, "--steps", 60, "--box", 40)
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert kills >= 2
    # the last kill may fall between the end of the run and the removal of its checkpoints
    killed_at_the_end = read_record(folder).status == "finished" and process.returncode != 0
    if read_record(folder).status != "finished":
        resume(folder, settings)
    assert_same_run(folder, tmp_path / "reference", cleared=not killed_at_the_end)


@pytest.mark.parametrize("kind", ["write", "replace"])
def test_killed_in_the_midst_of_a_checkpoint(tmp_path: Path, reference: Path, kind: str):
    process = start(tmp_path / "run", "--die", f"{kind}:7")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    names = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert any(name.endswith("-tmp") for name in names)
    assert "abinit-00000006.safetensors" in names
    assert "abinit: resumed after step 6" in resume(tmp_path / "run").said
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize("stage", ["abinit", "refine"])
def test_sigterm_saves_and_exits_143(tmp_path: Path, reference: Path, stage: str):
    # with the last checkpoint far back, only that of the signal can hold the step
    process = start(tmp_path / "run", "--pause", 0.05, "--seconds", 100)
    wait_for(process, f"{stage} 5")
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 143
    assert "stopped by SIGTERM" in err
    assert f"resume with: cryoloom resume {tmp_path / 'run'}" in err
    assert "Traceback" not in err
    assert read_record(tmp_path / "run").status == "interrupted"
    resumed = resume(tmp_path / "run")
    assert resumed.steps[0][0] == stage
    assert resumed.steps[0][1] >= 6
    assert_same_run(tmp_path / "run", reference)


def test_ctrl_c_twice_saves_and_exits_130(tmp_path: Path, reference: Path):
    process = start(tmp_path / "run", "--seconds", 100, "--press", "abinit:3:2")
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "stopped by Ctrl-C: abinit is saved after step 3" in err
    assert "abinit: resumed after step 3" in resume(tmp_path / "run").said
    assert_same_run(tmp_path / "run", reference)


def test_ctrl_c_once_ends_the_stage_and_goes_on(tmp_path: Path):
    process = start(tmp_path / "run", "--seconds", 100, "--press", "abinit:3:1")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "abinit: ended early after step 3" in out
    lines = metrics(tmp_path / "run")
    assert sum(line["stage"] == "abinit" for line in lines) == 3
    assert sum(line["stage"] == "refine" for line in lines) == 20
    with np.load(tmp_path / "run" / "state.npz") as state:
        # end_early adds 1000, of which the second stage's 20 steps keep 0.9^20
        assert state["position"].mean() == pytest.approx(1000 * 0.9**20, rel=0.05)


def test_a_second_ctrl_c_in_a_later_stage_stops(tmp_path: Path):
    class Pressing(SilentProgress):
        def update(self, info: StepInfo) -> None:
            if info.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="refine is saved after step 3"):
        walk(tmp_path / "run", WalkSettings(), Pressing())
    assert resume(tmp_path / "run").steps[0] == ("refine", 4)


def test_full_disk_stops_and_the_last_checkpoint_is_intact(tmp_path: Path, reference: Path):
    """The state grows by 1 kB a step until a checkpoint exceeds the limit on the size of a file."""
    process = start(tmp_path / "run", "--file-limit", 16_000)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "the disk is full" in err
    assert "Traceback" not in err
    assert f"the traceback is in {tmp_path / 'run' / 'run.log'}" in err
    assert "OSError" in (tmp_path / "run" / "run.log").read_text()
    assert read_record(tmp_path / "run").status == "failed"
    first = resume(tmp_path / "run").steps[0]
    assert first[0] == "abinit"
    assert first[1] > 5
    assert_same_run(tmp_path / "run", reference)


def test_damaged_newest_checkpoint_is_skipped_and_said(tmp_path: Path, reference: Path):
    folder = tmp_path / "run"
    interrupted_at(folder, "abinit", 9)
    newest = folder / "checkpoints" / "abinit-00000009.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    said = resume(folder).said
    assert said[0].startswith(f"warning: checkpoint skipped: {newest}: damaged")
    assert said[1] == "abinit: resumed after step 8"
    assert_same_run(folder, reference)


def test_a_finished_stage_is_not_repeated(tmp_path: Path, reference: Path):
    folder = tmp_path / "run"
    interrupted_at(folder, "refine", 4)
    resumed = resume(folder)
    assert "abinit: finished before, taken from its checkpoint" in resumed.said
    assert resumed.steps[0] == ("refine", 5)
    assert_same_run(folder, reference)


def test_damage_to_a_finished_stage_repeats_its_end_only(tmp_path: Path, reference: Path):
    folder = tmp_path / "run"
    interrupted_at(folder, "refine", 4)
    final = folder / "checkpoints" / "abinit-00000020.safetensors"
    final.write_bytes(b"")
    resumed = resume(folder)
    assert resumed.steps[:2] == [("abinit", 20), ("refine", 5)]
    assert_same_run(folder, reference)


def test_timings_add_up_over_a_resumption(tmp_path: Path):
    folder = tmp_path / "run"
    settings = WalkSettings(steps=6)
    interrupted_at(folder, "abinit", 3, settings, pause=0.03)
    walk(folder, settings, SilentProgress(), pause=0.03)
    record = read_record(folder)
    assert [t.stage for t in record.timings] == ["abinit", "refine"]
    assert all(t.wall_s >= 0.18 for t in record.timings)
    assert sum(step.wall_s for step in read_metrics(folder / "metrics.jsonl")) == pytest.approx(record.wall_s, rel=0.3)


def test_checkpoints_wait_for_their_time(tmp_path: Path):
    with open_folder(tmp_path / "run", WalkSettings()) as folder, Interrupts() as interrupts:
        Session(folder, SilentProgress(), interrupts, seconds=100).run(RandomWalk("abinit", WalkSettings(), ZERO))
        assert [path.name for path in folder.checkpoints.paths("abinit")] == ["abinit-00000020.safetensors"]


def test_a_step_that_fails_marks_the_run_and_keeps_the_traceback(tmp_path: Path):
    class Failing(RandomWalk):
        def step(self, state):
            if state.step == 3:
                raise FloatingPointError("loss is NaN")
            return super().step(state)

    folder = open_folder(tmp_path / "run", WalkSettings())
    with pytest.raises(FloatingPointError) as caught, folder, Interrupts() as interrupts:
        Session(folder, SilentProgress(), interrupts, seconds=0).run(Failing("abinit", WalkSettings(), ZERO))
    assert read_record(tmp_path / "run").status == "failed"
    assert caught.value.__notes__ == [str(tmp_path / "run" / "run.log")]
    assert "Traceback" in (tmp_path / "run" / "run.log").read_text()
    assert (tmp_path / "run" / "checkpoints" / "abinit-00000003.safetensors").exists()


def test_signal_outside_of_stages_stops_at_once():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped) as caught, Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_third_ctrl_c_stops_a_step_that_hangs():
    said: list[str] = []
    requests: list[tuple[bool, bool]] = []

    def hang() -> None:
        with Interrupts(said.append) as interrupts, interrupts.deferred():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                requests.append((interrupts.ending, interrupts.stopping))

    with pytest.raises(KeyboardInterrupt):
        hang()
    assert requests == [(True, False), (True, True)]
    assert len(said) == 2


def test_generators_depend_on_seed_stage_and_step_only():
    keys = [(1, "a", 1), (1, "a", 2), (1, "b", 1), (2, "a", 1), (1, 1, "a"), (1, "a", 1, 0)]
    numbers = [numpy_generator(*key).random() for key in keys]
    tensors = [torch.rand(1, generator=torch_generator(*key)).item() for key in keys]
    assert len(set(numbers)) == len(set(tensors)) == 6
    assert numbers[0] == numpy_generator(*keys[0]).random()
    assert tensors[0] == torch.rand(1, generator=torch_generator(*keys[0])).item()
    with pytest.raises(ValueError, match="seed -1"):
        numpy_generator(-1, "a")


def interrupted_at(path: Path, stage: str, step: int, settings: WalkSettings | None = None, pause: float = 0.0) -> None:
    """A run that got SIGTERM in that step."""

    class Terminating(SilentProgress):
        def update(self, info: StepInfo) -> None:
            if (info.stage, info.step) == (stage, step):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        walk(path, settings or WalkSettings(), Terminating(), pause=pause)


def test_a_recipe_needs_no_folder():
    """In memory the result is that of a run in a folder, and nothing is left behind."""
    session = Session.in_memory()
    state = session.run(RandomWalk("abinit", WalkSettings(), ZERO))
    assert state.step == 20
    assert session.path is None


def test_in_memory_ctrl_c_stops_at_once():
    class Pressing(SilentProgress):
        def update(self, info: StepInfo) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Session.in_memory(Pressing()).run(RandomWalk("abinit", WalkSettings(), ZERO))


def test_the_loop_tells_how_many_steps_are_expected(tmp_path: Path):
    told: list[StepInfo] = []

    class Keeping(SilentProgress):
        def update(self, info: StepInfo) -> None:
            told.append(info)

    Session.in_memory(Keeping()).run(RandomWalk("abinit", WalkSettings(steps=4), ZERO))
    assert [(i.step, i.total, i.cost, i.cost_ahead) for i in told] == [(n, 4, 1.0, 4.0 - n) for n in range(1, 5)]


def test_a_checkpoint_of_other_arrays_is_refused_with_a_clear_word(tmp_path: Path):
    """As an older version of a recipe would leave it."""
    folder = tmp_path / "run"
    interrupted_at(folder, "abinit", 3)

    @dataclass(frozen=True)
    class Older:
        step: int
        place: np.ndarray

    recipe = RandomWalk("abinit", WalkSettings(), ZERO, state_type=Older)  # type: ignore[arg-type]
    with open_folder(folder, WalkSettings()) as opened, Interrupts() as interrupts:
        session = Session(opened, SilentProgress(), interrupts)
        with pytest.raises(BadCheckpoint, match="not those of this version") as caught:
            session.run(recipe)
    assert "start the run anew with --overwrite" in str(caught.value)
