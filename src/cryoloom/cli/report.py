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
        typer.Option(
            metavar="FOLDER", help="Also write the metrics as TensorBoard events (needs the extra tensorboard)."
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN2",
            help="A run on the same images, with another seed for example: the page then shows how the classes of both "
            "agree.",
        ),
    ] = None,
    threads: Threads = None,
) -> None:
    """Write report.html into a run folder: verdict, curves, maps and particles on one page that needs no network.

    Every run writes its report at the end. Repeat it after you have replaced a file of the run.
    """
    from cryoloom.environment import set_threads

    set_threads(threads)

    from cryoloom.report.page import write_report
    from cryoloom.runs import layout

    if compare is not None:
        from cryoloom.jobs.class_agreement import class_agreement
        from cryoloom.jobs.finished_run import FinishedRun

        class_agreement(FinishedRun(run), FinishedRun(compare))  # raises where they can't be compared
    failures = write_report(run, compare)
    typer.echo(str(layout.REPORT.path(run)))
    for failure in failures:
        typer.echo(f"a part of the page could not be drawn: {failure}", err=True)
    if tensorboard is not None:
        from cryoloom.report.tensorboard import write_events

        typer.echo(f"{write_events(run, tensorboard)} values in {tensorboard}")
    if failures:
        raise typer.Exit(1)
