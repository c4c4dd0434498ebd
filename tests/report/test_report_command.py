"""cryoloom report."""

import importlib.util
import shutil
from pathlib import Path

from typer.testing import CliRunner

from cryoloom.cli.main import build_app


def test_command_writes_the_page_and_says_where(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    result = CliRunner().invoke(build_app(), ["report", str(run), "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(run / "report.html")
    assert (run / "report.html").stat().st_size > 100_000


def test_a_folder_that_is_no_run_is_bad_input(tmp_path: Path) -> None:
    result = CliRunner().invoke(build_app(), ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "not a run of cryoloom" in result.output


def test_tensorboard_events_are_an_extra(finished_run: Path, tmp_path: Path) -> None:
    """Written where the package is installed; elsewhere the command says how to get it."""
    run, events = shutil.copytree(finished_run, tmp_path / "run"), tmp_path / "events"
    result = CliRunner().invoke(build_app(), ["report", str(run), "--threads", "1", "--tensorboard", str(events)])
    if importlib.util.find_spec("tensorboard") is None:
        assert result.exit_code == 2
        assert "cryoloom[tensorboard]" in result.output
    else:
        assert result.exit_code == 0, result.output
        assert list(events.glob("events.*"))
