"""Runs from the command line: started in a new folder, or resumed, with their progress on stderr."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cryoloom.cli.options import RunningOptions

if TYPE_CHECKING:
    from cryoloom.api.runs import Settings


def start_run(settings: Settings, output: Path, options: RunningOptions) -> None:
    """Check everything, then compute in a new run folder."""
    from cryoloom.environment import set_threads
    from cryoloom.runs.display import announce, open_progress
    from cryoloom.runs.folder import check_output_folder

    check_output_folder(output, options.overwrite)  # before libraries are loaded, which takes seconds
    settings = replace(settings, threads=set_threads(options.threads))
    with open_progress(options.quiet) as progress:
        from cryoloom.api import runs
        from cryoloom.runs.interrupts import Interrupts

        device, overwrite = options.device.value, options.overwrite
        runs.start_run(settings, output, progress, Interrupts(announce), device=device, overwrite=overwrite)


def continue_run(folder: Path, *, threads: int | None, quiet: bool) -> None:
    """Continue an interrupted run; the result equals that of an uninterrupted run."""
    from cryoloom.environment import set_threads
    from cryoloom.runs.display import announce, open_progress
    from cryoloom.runs.folder import read_record

    count = set_threads(read_record(folder).settings["threads"] if threads is None else threads)
    with open_progress(quiet) as progress:
        from cryoloom.api import runs
        from cryoloom.runs.interrupts import Interrupts

        runs.continue_run(folder, count, progress, Interrupts(announce))
