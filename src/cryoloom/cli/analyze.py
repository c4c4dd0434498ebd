"""cryoloom analyze: the latent space of a run of conformations, and maps along it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoloom.cli.options import Device, DeviceName, Quiet, Threads

if TYPE_CHECKING:
    import numpy as np

    from cryoloom.analyze.series import MapSeries
    from cryoloom.jobs.conformation_run import ConformationRun


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="analyze")(analyze)


def analyze(
    run: Annotated[Path, typer.Argument(help="Finished run of cryoloom hetero.", metavar="RUN", show_default=False)],
    clusters: Annotated[int, typer.Option("--clusters", "-k", min=2, max=200, help="Of k-means.")] = 8,
    axes: Annotated[int, typer.Option(min=0, max=10, help="Principal axes along which maps are made.")] = 2,
    points: Annotated[int, typer.Option(min=2, max=100, help="Maps along each way.")] = 10,
    umap: Annotated[bool, typer.Option(help="Lay the latents out in two dimensions (the extra 'umap').")] = False,
    through: Annotated[
        str, typer.Option(metavar="ROW,ROW,...", help="A way through these particles, from neighbour to neighbour.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of k-means and UMAP.")] = 1,
    threads: Threads = None,
    device: Device = DeviceName.AUTO,
    quiet: Quiet = False,
) -> None:
    """Clusters with their maps, half-map FSC and particles; ways along principal axes and through neighbours; the page.

    All goes to RUN/analysis; open analysis/open.cxc in ChimeraX for the movies. The run's page is written anew.
    """
    from cryoloom.environment import set_threads
    from cryoloom.runs.display import open_progress
    from cryoloom.runs.machine import choose_device

    count = set_threads(threads)
    with open_progress(quiet) as progress:
        import numpy as np
        import torch

        from cryoloom.analyze.clusters import k_means
        from cryoloom.analyze.embedding import umap_embedding
        from cryoloom.analyze.latent import principal_axes
        from cryoloom.analyze.series import write_cluster_particles, write_movie_script
        from cryoloom.analyze.trajectories import along_axis, neighbour_graph, through_neighbours
        from cryoloom.jobs.conformation_run import open_conformations
        from cryoloom.jobs.hetero import JUNK_CONTRAST
        from cryoloom.report.page import write_report

        torch.set_num_threads(count)
        opened = open_conformations(run, choose_device(device.value, progress.say), count)
        z = opened.latents.mean.numpy()
        rows = _rows(through, len(z)) if through else []
        folder = run / "analysis"
        folder.mkdir(exist_ok=True)
        shown = np.flatnonzero(opened.latents.contrast.numpy() >= JUNK_CONTRAST)
        seen = z[shown]
        found = k_means(seen, clusters, seed)
        labels = np.full(len(z), -1)
        labels[shown] = found.labels
        np.save(folder / "labels.npy", labels)
        write_cluster_particles(folder, opened.particles, labels, clusters)
        series = [_series(opened, folder, "cluster", seen[found.nearest], progress)]
        _cluster_table(opened, folder, labels, clusters, seed)
        principal = principal_axes(seen)
        for component in range(min(axes, len(principal.axes))):
            way = along_axis(seen, principal, component, points)
            series.append(_series(opened, folder, f"pc{component + 1}", way.points, progress))
        if rows:
            way = through_neighbours(neighbour_graph(z), rows, points)
            series.append(_series(opened, folder, "way", way.points, progress))
        if umap:
            embedding = umap_embedding(z, seed)
            if embedding.remark is not None:
                progress.say(embedding.remark, warning=embedding.coordinates is None)
            if embedding.coordinates is not None:
                np.save(folder / "umap.npy", embedding.coordinates)
        movies = [s for s in series if s.name != "cluster"] or series
        write_movie_script(folder / "open.cxc", movies)
        write_report(run)
        progress.say(f"Results in {folder}; open {run / 'report.html'} first")


def _series(opened: ConformationRun, folder: Path, name: str, places: np.ndarray, progress) -> MapSeries:
    """Maps at latent points, written one by one, with the points beside them."""
    import numpy as np
    import torch

    from cryoloom.analyze.series import write_series
    from cryoloom.maps.io import DensityMap
    from cryoloom.runs.progress import StepInfo

    progress.begin(name, 0)

    def maps():
        for i, place in enumerate(places):
            found = opened.map_at(torch.from_numpy(np.asarray(place)).float())
            resolution = found.resolution_angstrom(opened.posed.feed.pixel_size)
            progress.update(
                StepInfo(name, i + 1, resolution, total=len(places), cost=1.0, cost_ahead=float(len(places) - i - 1))
            )
            yield DensityMap(found.combined.contiguous(), opened.posed.feed.pixel_size)

    written = write_series(folder, name, maps())
    np.save(folder / f"{name}.npy", np.asarray(places, dtype=np.float32))
    progress.end(name)
    return written


def _cluster_table(opened: ConformationRun, folder: Path, labels: np.ndarray, count: int, seed: int) -> None:
    """Sizes of the clusters, and the resolution that the halves of each reach."""
    import numpy as np

    from cryoloom.jobs.class_maps import FEWEST_PER_HALF, cluster_map
    from cryoloom.jobs.class_table import ClassRow, write_class_table

    rows = []
    for k in range(count):
        mine = np.flatnonzero(labels == k)
        resolution = None
        if min(int((opened.posed.half[mine] == h).sum()) for h in (0, 1)) >= FEWEST_PER_HALF:
            scored = cluster_map(opened.posed, mine, seed, opened.mask)
            resolution = scored.gold.resolution_angstrom
        rows.append(ClassRow(f"cluster_{k + 1:02d}", len(mine), len(mine) / len(labels), resolution))
    write_class_table(folder / "classes.csv", tuple(rows))


def _rows(text: str, count: int) -> list[int]:
    try:
        rows = [int(part) - 1 for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--through {text}: expected numbers of rows with commas between them, as 12,4077") from None
    if any(not 0 <= row < count for row in rows):
        raise ValueError(f"--through {text}: expected rows from 1 to {count}")
    return rows
