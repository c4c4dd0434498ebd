"""cryoloom report: the page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoloom.cli.options import Threads


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="report")(report)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", metavar="RUN", show_default=False)],
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Metrics as TensorBoard events, too (needs cryoloom[tensorboard])."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Write report.html into a run's folder: verdict, curves, maps and particles on one page that needs no network.

    'cryoloom reconstruct' does so by itself; repeat it after a file of the run was replaced.
    """
    from cryoloom.environment import set_threads

    set_threads(threads)

    from cryoloom.report.page import write_report

    typer.echo(str(write_report(run)))
    if tensorboard is not None:
        from cryoloom.report.tensorboard import write_events

        typer.echo(f"{write_events(run, tensorboard)} values in {tensorboard}")
