"""cryoloom resume: continue an interrupted run from its newest checkpoint."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Protocol, cast

import typer

from cryoloom.cli.errors import tell
from cryoloom.cli.options import Quiet

# command as written in run.json -> module with its continue_run
CONTINUATIONS = {name: "cryoloom.cli.runs" for name in ("reconstruct", "abinit", "refine", "hetero")}


class ContinueRun(Protocol):
    """What a resumable command's module offers as `continue_run`: it reads its settings with `read_settings`."""

    def __call__(self, folder: Path, *, threads: int | None, quiet: bool) -> None:
        """Continue the run in `folder` to its end; `threads` None means as before."""
        ...


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="resume")(resume)


def resume(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", metavar="RUN", show_default=False)],
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "-j",
            min=1,
            help="Number of threads; with another number than before, results are equal up to rounding only.",
            show_default="that of the run",
            metavar="N",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Continue an interrupted run with the settings that it began with.

    After a crash, a power cut or SIGTERM the result is the one that the run would have had without the interruption.

    A stage that Ctrl-C ended early stays as it is.
    """
    from cryoloom.runs.folder import BadRunFolder, read_record

    record = read_record(run)
    if record.status == "finished":
        tell(f"{run}: this run is finished; there is nothing to resume")
        return
    module = CONTINUATIONS.get(record.command)
    if module is None:
        raise BadRunFolder(f"{run / 'run.json'}: command {record.command!r} cannot be resumed by this version")
    cast(ContinueRun, importlib.import_module(module).continue_run)(run, threads=threads, quiet=quiet)
