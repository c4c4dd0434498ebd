"""cryoloom analyze: clusters of a run's latent space, trajectories through it, and their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoloom.cli.options import Device, DeviceName, Quiet, Threads


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="analyze")(analyze)


def analyze(
    run: Annotated[Path, typer.Argument(help="Finished run of cryoloom hetero.", metavar="RUN", show_default=False)],
    clusters: Annotated[
        int | None,
        typer.Option(
            "--clusters",
            "-k",
            min=1,
            max=200,
            help="Number of k-means clusters.",
            show_default="number of modes of the latent density",
        ),
    ] = None,
    axes: Annotated[int, typer.Option(min=0, max=10, help="Principal axes along which maps are made.")] = 2,
    points: Annotated[int, typer.Option(min=2, max=100, help="Maps along each trajectory.")] = 10,
    umap: Annotated[
        bool, typer.Option("--umap", help="Embed the latent coordinates by UMAP (needs the extra umap).")
    ] = False,
    through: Annotated[
        str,
        typer.Option(
            metavar="ROW,ROW,...", help="Make a trajectory through these particles (rows of particles.star, from 1)."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of k-means and UMAP.")] = 1,
    threads: Threads = None,
    device: Device = DeviceName.AUTO,
    quiet: Quiet = False,
) -> None:
    """Divide the latent space into clusters and make maps of them and along trajectories; rewrite the report.

    Each cluster gets its particles, a map and the gold-standard FSC of its half maps. Trajectories run along principal
    axes and through chosen particles. Results are in RUN/analysis; open analysis/open.cxc in ChimeraX for the movies.
    """
    from cryoloom.environment import set_threads
    from cryoloom.runs.display import open_progress
    from cryoloom.runs.machine import choose_device

    count, stops = set_threads(threads), _rows(through)
    with open_progress(quiet) as progress:
        import torch

        from cryoloom.jobs.analyze import AnalysisSettings
        from cryoloom.jobs.analyze import analyze as carry_out
        from cryoloom.jobs.conformation_run import open_conformations
        from cryoloom.report.page import write_report
        from cryoloom.runs import layout

        torch.set_num_threads(count)
        opened = open_conformations(run, choose_device(device.value, progress.say), count)
        settings = AnalysisSettings(clusters, axes=axes, points=points, through=stops, umap=umap, seed=seed)
        carry_out(opened, settings, progress)
        for failure in write_report(run):
            progress.say(f"a part of the report could not be drawn: {failure}", warning=True)
        results = layout.CLUSTERS.path(run).parent
        progress.say(f"Results in {results}; open {layout.REPORT.path(run)} first")


def _rows(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(f"--through {text}: expected row numbers separated by commas, as in 12,4077") from None
