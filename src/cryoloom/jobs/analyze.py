"""Analysis of a run of cryoloom hetero: clusters of the latent space, trajectories through it, and their maps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoloom.analyze.clusters import k_means
from cryoloom.analyze.density import count_modes
from cryoloom.analyze.embedding import umap_embedding
from cryoloom.analyze.latent import principal_axes
from cryoloom.analyze.series import MapSeries, write_cluster_particles, write_movie_script, write_series
from cryoloom.analyze.trajectories import along_axis, neighbour_graph, through_neighbours
from cryoloom.jobs.class_maps import write_class_maps
from cryoloom.jobs.class_table import ClassRow
from cryoloom.jobs.conformation_run import ConformationRun
from cryoloom.jobs.hetero import JUNK_CONTRAST
from cryoloom.maps.io import DensityMap
from cryoloom.runs import layout
from cryoloom.runs.progress import Progress, StepInfo


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    """Settings of the analysis of a run's latent space."""

    clusters: int | None = None
    """Number of k-means clusters; None: the number of modes of the latent density."""

    axes: int = 2
    """Principal axes along which maps are made."""

    points: int = 10
    """Maps along each trajectory."""

    through: tuple[int, ...] = ()
    """Rows of particles, from 1, which a further trajectory passes through."""

    umap: bool = False
    """Embed the latent coordinates in two dimensions."""

    seed: int = 1
    """Seed of k-means and UMAP."""


def analyze(run: ConformationRun, settings: AnalysisSettings, progress: Progress) -> None:
    """Write the analysis into the folder `analysis` of the run.

    Files of an earlier analysis are replaced, those of trajectories and clusters that are not made again removed.

    Raises:
        ValueError: for rows that a trajectory can't pass through, or more clusters than images; nothing is written.
    """
    z = run.latents.mean.numpy()
    points = _trajectories(run, settings)
    layout.CLUSTERS.path(run.folder).parent.mkdir(exist_ok=True)
    _remove_earlier(run.folder)
    clusters = _clusters(run, settings, progress)
    series = [_maps_at(run, name, points[name], progress) for name in points]
    if settings.umap:
        embedding = umap_embedding(z, settings.seed)
        if embedding.remark is not None:
            progress.say(embedding.remark, warning=embedding.coordinates is None)
        if embedding.coordinates is not None:
            np.save(layout.UMAP.path(run.folder), embedding.coordinates)
    movies = series or ([clusters] if clusters.paths else [])
    if movies:
        write_movie_script(layout.MOVIES_SCRIPT.path(run.folder), movies)


def _shown(run: ConformationRun) -> np.ndarray:
    """Rows of the images that show the particle."""
    return np.flatnonzero(run.latents.contrast.numpy() >= JUNK_CONTRAST)


def _clusters(run: ConformationRun, settings: AnalysisSettings, progress: Progress) -> MapSeries:
    """Particles, map and table row of each cluster."""
    z, shown = run.latents.mean.numpy(), _shown(run)
    seen = z[shown]
    count = settings.clusters
    if count is None:
        count = count_modes(principal_axes(seen))
        modes = "1 mode" if count == 1 else f"{count} modes"
        progress.say(f"the density of the latent coordinates has {modes}: {count} k-means clusters (--clusters)")
    found = k_means(seen, count, settings.seed)
    labels = np.zeros(len(z), np.int64)
    labels[shown] = found.labels + 1
    folder = layout.CLUSTERS.path(run.folder).parent
    np.save(layout.CLUSTER_LABELS.path(run.folder), labels)
    np.save(layout.CLUSTER_CENTRES.path(run.folder), seen[found.nearest].astype(np.float32))
    write_cluster_particles(folder, run.particles, labels, count)
    progress.begin("clusters", 0)

    def say(number: int, row: ClassRow) -> None:
        progress.update(_step("clusters", number, count, row.resolution_angstrom))

    write_class_maps(
        run.folder,
        run.posed,
        labels,
        maps=layout.CLUSTER_MAP,
        table=layout.CLUSTERS,
        mask=run.mask,
        seed=settings.seed,
        shares=tuple((found.sizes / len(z)).tolist()),
        say=say,
    )
    progress.end("clusters")
    return MapSeries(folder, "cluster", tuple(sorted(run.folder.glob(layout.CLUSTER_MAP.pattern))))


def _trajectories(run: ConformationRun, settings: AnalysisSettings) -> dict[str, np.ndarray]:
    """Latent points of the maps along principal axes and through chosen particles, [T, Z] by the trajectory's name."""
    z, shown = run.latents.mean.numpy(), _shown(run)
    seen = z[shown]
    axes = principal_axes(seen)
    found = {}
    for component in range(min(settings.axes, len(axes.axes))):
        found[f"pc{component + 1}"] = along_axis(seen, axes, component, settings.points).points
    if settings.through:
        place = {int(row) + 1: i for i, row in enumerate(shown)}
        for row in settings.through:
            if not 1 <= row <= len(z):
                raise ValueError(f"--through {row}: no such row; expected rows from 1 to {len(z)}")
            if row not in place:
                raise ValueError(f"--through {row}: this image does not show the particle; choose another")
        stops = [place[row] for row in settings.through]
        try:
            found["way"] = through_neighbours(neighbour_graph(seen), stops, settings.points).points
        except ValueError as error:
            raise ValueError(f"--through {','.join(map(str, settings.through))}: {error}") from None
    return found


def _remove_earlier(folder: Path) -> None:
    """Remove the trajectories and the embedding of an earlier analysis; clusters are replaced as they are written."""
    for name, maps in layout.series_maps(folder).items():
        if re.fullmatch(r"pc\d+|way", name):
            for path in (*maps, layout.SERIES_POINTS.path(folder, series=name)):
                path.unlink(missing_ok=True)
    for file in (layout.UMAP, layout.MOVIES_SCRIPT):
        file.path(folder).unlink(missing_ok=True)


def _maps_at(run: ConformationRun, name: str, points: np.ndarray, progress: Progress) -> MapSeries:
    """Maps at latent points, written one by one, with the points beside them."""
    progress.begin(name, 0)

    def maps() -> Iterator[DensityMap]:
        pixel_size = run.posed.feed.pixel_size
        for i, point in enumerate(points):
            found = run.map_at(torch.from_numpy(np.asarray(point)).float())
            progress.update(_step(name, i + 1, len(points), found.resolution_angstrom(pixel_size)))
            yield DensityMap(found.combined.contiguous(), pixel_size)

    folder: Path = layout.CLUSTERS.path(run.folder).parent
    written = write_series(folder, name, maps())
    np.save(layout.SERIES_POINTS.path(run.folder, series=name), np.asarray(points, dtype=np.float32))
    progress.end(name)
    return written


def _step(stage: str, step: int, total: int, resolution_angstrom: float | None) -> StepInfo:
    """Progress after one of several maps of equal cost."""
    return StepInfo(stage, step, resolution_angstrom, total=total, cost=1.0, cost_ahead=float(total - step))
