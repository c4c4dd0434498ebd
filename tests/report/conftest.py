"""A run folder for the tests of the report."""

from pathlib import Path

import pytest

from .fake_run import write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test may change: copy it, or use `write_run`."""
    return write_run(tmp_path_factory.mktemp("finished") / "run 1")
