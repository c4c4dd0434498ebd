"""The program as its users meet it: answers at once, says what is wrong in words, exits with the right code."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
import types
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from cryoloom.cli import resume as resume_module
from cryoloom.cli.main import COMMANDS, build_app
from cryoloom.environment import available_threads, prepare_environment, set_threads
from cryoloom.runs import machine
from cryoloom.runs.display import LiveProgress, PlainProgress, open_progress, printable
from cryoloom.runs.folder import LogNote
from cryoloom.runs.interrupts import Stopped
from cryoloom.runs.machine import available_memory, check_memory, choose_device, memory_of
from cryoloom.runs.progress import StagePlan, StepInfo, clock_time

PROGRAM = [sys.executable, "-c", "from cryoloom.cli.main import main; main()"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, check=False, env=os.environ | environment
    )


def outcome(error: BaseException):
    """What the program prints and returns when a command raises."""
    app = build_app()

    @app.command("fail")
    def fail() -> None:
        raise error

    return CliRunner().invoke(app, ["fail"])


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from cryoloom.cli.main import main\n"
        "sys.argv = ['cryoloom', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'pandas', 'matplotlib', 'numba', 'sklearn', 'gemmi'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Commands" in out
    assert out.endswith("HEAVY []\n")


def test_version_and_usage_errors():
    assert run("--version").stdout.startswith("cryoloom 0.")
    wrong = run("no-such-command")
    assert wrong.returncode == 2
    assert "No such command" in wrong.stderr


def test_every_command_that_exists_has_help():
    app = build_app()
    existing = [c for c in COMMANDS if (Path(resume_module.__file__).parent / f"{c}.py").exists()]
    assert "resume" in existing
    for name in existing:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_bad_input_is_a_message_and_2():
    result = outcome(ValueError("p.star, row 3: defocus -5\n  expected: positive"))
    assert result.exit_code == 2
    assert result.stderr == "cryoloom: error: p.star, row 3: defocus -5\n  expected: positive\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ZeroDivisionError("division"), 1, "unexpected failure: ZeroDivisionError: division"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/map.mrc"), 1, "disk is full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 1, "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (MemoryError(), 1, "memory is exhausted"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), 1, "GPU's memory is exhausted"),
        (BrokenProcessPool("terminated abruptly"), 1, "a worker process was killed"),
    ],
)
def test_failures_are_one_clear_line_and_1(error: Exception, code: int, words: str):
    result = outcome(error)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    log = Path(result.stderr.rpartition("the traceback is in ")[2].strip())
    assert type(error).__name__ in log.read_text()
    log.unlink()


def test_the_runs_own_log_is_named():
    error = RuntimeError("bad luck")
    error.add_note(LogNote("/runs/1/run.log"))
    assert outcome(error).stderr.endswith("RuntimeError: bad luck\nthe traceback is in /runs/1/run.log\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (Stopped(signal.SIGINT, "saved"), 130), (Stopped(signal.SIGTERM, "saved"), 143)],
)
def test_stops_have_their_codes_and_say_how_to_resume(error: BaseException, code: int):
    error.add_note("resume with: cryoloom resume run")
    result = outcome(error)
    assert result.exit_code == code
    assert result.stderr.endswith("resume with: cryoloom resume run\n")


def test_exit_codes_of_commands_are_kept():
    assert outcome(typer.Exit(7)).exit_code == 7


def test_names_can_not_steer_the_terminal():
    result = outcome(ValueError("file \x1b[2Jé.mrcs\x07 \u202e"))
    assert result.stderr == "cryoloom: error: file \ufffd[2Jé.mrcs\ufffd \ufffd\n"
    assert printable("a\nb") == "a\nb"


def test_interrupt_of_the_program(tmp_path: Path):
    """A real SIGINT, while a command computes."""
    code = (
        "import time, typer\n"
        "from cryoloom.cli import main\n"
        "app = main.build_app()\n"
        "@app.command('sleep')\n"
        "def sleep():\n"
        "    print(flush=True)\n"
        "    time.sleep(30)\n"
        "app(['sleep'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=300)[1] == "cryoloom: error: interrupted\n"
    assert process.returncode == 130


def test_environment_lets_waiting_threads_sleep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "NUMBA_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that what the program sets is undone, also where there was nothing
        monkeypatch.delenv(name)
    monkeypatch.setenv("KMP_BLOCKTIME", "5")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prepare_environment()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "0")
    assert os.environ["KMP_BLOCKTIME"] == "5"
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "cryoloom" / "numba")
    assert (tmp_path / "cryoloom" / "numba").stat().st_mode & 0o777 == 0o700


def test_kernel_cache_without_a_writable_home_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    prepare_environment()
    cache = Path(os.environ["NUMBA_CACHE_DIR"])
    assert cache.stat().st_mode & 0o777 == 0o700
    assert cache.parent != tmp_path


def test_threads(monkeypatch: pytest.MonkeyPatch):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    monkeypatch.setattr("cryoloom.environment._THREAD_VARIABLES", names)
    for name in names:
        monkeypatch.setenv(name, "1")
    before = torch.get_num_threads()
    try:
        assert set_threads(2) == 2
        assert torch.get_num_threads() == 2
        assert os.environ["NUMBA_NUM_THREADS"] == "2"
    finally:
        torch.set_num_threads(before)
    assert 1 <= available_threads() <= (os.cpu_count() or 1)
    with pytest.raises(ValueError, match="0 threads"):
        set_threads(0)


def test_device_is_never_a_silent_fallback(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(machine, "_obstacle_to_cuda", lambda: "no GPU is visible")
    assert choose_device("cpu", said.append).type == "cpu"
    assert said == []
    assert choose_device("auto", said.append).type == "cpu"
    assert said == ["device: CPU (chosen automatically: no GPU is visible)"]
    with pytest.raises(ValueError, match="device cuda: no GPU can be used: no GPU is visible"):
        choose_device("cuda", said.append)
    with pytest.raises(ValueError, match="expected auto, cpu or cuda"):
        choose_device("tpu", said.append)


def test_cuda_is_refused_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="no GPU can be used"):
        choose_device("cuda", print)


@pytest.mark.gpu
def test_auto_takes_the_gpu_and_says_so():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    said: list[str] = []
    assert choose_device("auto", said.append).type == "cuda"
    assert torch.cuda.get_device_name() in said[0]


def test_memory_is_refused_with_the_estimate():
    available = available_memory()
    assert available is not None
    assert 2**20 < available < 2**50
    check_memory(2**20)
    with pytest.raises(ValueError, match=r"needed \(estimate\): 1024.0 GiB, available: "):
        check_memory(2**40)


class Clock:
    """Time that passes when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_progress_is_sparing_and_estimates_the_time_left():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, clock=clock)
    progress.plan([StagePlan("abinit", 20.0)])
    progress.begin("abinit", 0)
    for step in range(1, 21):
        clock.now += 1
        progress.update(StepInfo("abinit", step, 30.0, total=20, cost=1.0, cost_ahead=20.0 - step))
    progress.say("contrast inverted", warning=True)
    progress.end("abinit")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 4 + 2
    assert lines[0] == "abinit: begins"
    assert lines[1].startswith("abinit: step 5/20, 30.0 Å, 0:05, about 0:15 left, CPU ")
    assert lines[-2] == "warning: contrast inverted"
    assert lines[-1].startswith("abinit: done, step 20/20")


def test_quiet_progress_passes_warnings_only():
    stream = io.StringIO()
    progress = PlainProgress(stream, quiet=True)
    progress.begin("abinit", 0)
    progress.say("hello")
    progress.update(StepInfo("abinit", 1, total=2))
    progress.say("careful", warning=True)
    progress.end("abinit")
    assert stream.getvalue() == "warning: careful\n"


def test_progress_without_a_terminal_is_plain(capsys: pytest.CaptureFixture[str]):
    with open_progress() as progress:
        progress.begin("abinit", 3)
    assert capsys.readouterr().err == "abinit: begins after step 3\n"


def test_live_progress_draws_stage_step_and_resolution(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with LiveProgress() as progress:
        progress.begin("refine", 0)
        progress.update(StepInfo("refine", 3, 8.25, total=9, cost=1.0, cost_ahead=6.0))
        progress.say("file [bold]é \x1b[2J", warning=True)
        time.sleep(0.7)
        progress.end("refine")
    drawn = screen.getvalue()
    assert "3/9" in drawn
    assert "8.2 Å" in drawn
    # markup in a name is text, control characters are gone
    assert "warning: file [bold]é \ufffd[2J" in drawn
    assert "refine: done" in drawn


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")])
def test_clock_time(seconds: float, text: str):
    assert clock_time(seconds) == text


def test_resume_finds_the_command_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    called: list[tuple] = []
    fake = types.ModuleType("fake_reconstruct")
    fake.continue_run = lambda folder, *, threads, quiet: called.append((folder, threads, quiet))  # type: ignore
    monkeypatch.setitem(sys.modules, "fake_reconstruct", fake)
    monkeypatch.setitem(resume_module.CONTINUATIONS, "reconstruct", "fake_reconstruct")
    make_run(tmp_path / "run", "reconstruct")
    result = CliRunner().invoke(build_app(), ["resume", str(tmp_path / "run"), "--threads", "2", "-q"])
    assert result.exit_code == 0, result.stderr
    assert called == [(tmp_path / "run", 2, True)]


def test_resume_refuses_what_it_can_not_resume(tmp_path: Path):
    result = CliRunner().invoke(build_app(), ["resume", str(tmp_path)])
    assert (result.exit_code, "no run.json" in result.stderr) == (2, True)
    make_run(tmp_path / "odd", "simulate")
    result = CliRunner().invoke(build_app(), ["resume", str(tmp_path / "odd")])
    assert (result.exit_code, "'simulate' cannot be resumed" in result.stderr) == (2, True)
    make_run(tmp_path / "done", "reconstruct", finish=True)
    result = CliRunner().invoke(build_app(), ["resume", str(tmp_path / "done")])
    assert (result.exit_code, "nothing to resume" in result.stderr) == (0, True)


def make_run(folder: Path, command: str, finish: bool = False) -> None:
    from dataclasses import make_dataclass

    from cryoloom.runs.folder import RunFolder

    settings = make_dataclass("Settings", [("seed", int, 1)], frozen=True)()
    with RunFolder.create(
        folder, settings, "data", command, input_path=Path("in.star"), seed=1, threads=1, device="cpu"
    ) as run_folder:
        if finish:
            run_folder.finish({})


def test_a_low_pass_is_refused_where_it_would_do_nothing(tmp_path: Path):
    command = ["refine", "p.star", "-o", str(tmp_path / "run"), "--from"]
    result = CliRunner().invoke(build_app(), [*command, "poses", "--low-pass", "20"])
    assert (result.exit_code, "--low-pass" in result.stderr) == (2, True)
    assert CliRunner().invoke(build_app(), [*command, "map.mrc", "--low-pass", "0"]).exit_code == 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("8G", 8 << 30),
        ("7.5GiB", 15 << 29),
        ("800M", 800 << 20),
        ("1t", 1 << 40),
        ("512 mb", 512 << 20),
        (3e9, 3_000_000_000),
    ],
)
def test_memory_is_stated_as_a_size(size, expected):
    assert memory_of(size) == expected


@pytest.mark.parametrize("size", ["8", "0G", "-1G", "lots", "8GG", "", float("nan"), float("inf"), 0, -1.0])
def test_other_texts_are_no_size(size):
    with pytest.raises(ValueError, match="such as 8G"):
        memory_of(size)
