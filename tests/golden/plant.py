"""Runs chosen tests against altered copies of the package, each in a fork of one process that has imported torch once.

    python plant.py < jobs.json > outcomes.json

A job names a folder that holds a `cryoloom` and the tests to run; its outcome maps each test that ran to "passed",
"failed" (an assertion) or the message of another error. Importing torch takes seconds, most tests a few milliseconds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import traceback
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


class Recorder:
    """A pytest plugin that keeps what became of each test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            outcome = report.outcome
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                message = crash.message if crash else str(report.longrepr)
                outcome = "failed" if message.startswith(("assert", "AssertionError")) else f"error: {message}"
            self.outcomes[report.nodeid.removeprefix("tests/")] = outcome

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes[report.nodeid.removeprefix("tests/")] = f"error: {report.longrepr}"


def run(folder: str, tests: list[str]) -> dict[str, str]:
    sys.path.insert(0, folder)
    recorder = Recorder()
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--rootdir", str(TESTS.parent)]
    pytest.main([*options, *(str(TESTS / t) for t in tests)], plugins=[recorder])
    found = Path(sys.modules["cryoloom"].__file__ or "")
    if not found.is_relative_to(folder):
        recorder.outcomes = {"import": f"error: the tests ran against {found}"}
    return recorder.outcomes


def run_in_a_fork(folder: str, tests: list[str]) -> dict[str, str]:
    answer = Path(folder) / "outcomes.json"
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            try:
                outcomes = run(folder, tests)
            except BaseException:
                outcomes = {"run": f"error: {traceback.format_exc()}"}
            answer.write_text(json.dumps(outcomes))
            os._exit(0)
    os.waitpid(child, 0)
    return json.loads(answer.read_text())


def main() -> None:
    # what the tests import, for the forks to share; nothing of ours
    import healpix  # noqa: F401
    import jaxtyping  # noqa: F401
    import roma  # noqa: F401
    import scipy.spatial.transform  # noqa: F401
    import torch

    sys.path.pop(0)  # this folder
    torch.set_num_threads(1)  # a fork has no pool of threads
    gc.freeze()  # pytest collects garbage at its end: spare it the imports
    jobs = json.load(sys.stdin)
    json.dump([run_in_a_fork(job["folder"], job["tests"]) for job in jobs], sys.stdout)


if __name__ == "__main__":
    main()
