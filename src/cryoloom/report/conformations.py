"""What a run found of conformations, prepared for the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cryoloom.analyze.density import FLAT, DensityMap2D, density_map
from cryoloom.analyze.latent import PrincipalAxes, Uncertainty, check_latent, principal_axes, uncertainty
from cryoloom.jobs.class_table import ClassRow
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.runs import layout


@dataclass(frozen=True, slots=True)
class Series:
    """Maps in order: along a trajectory, or one a class or cluster.

    Attributes:
        name: of the series; maps: their files; labels: one a map.
        points: [T, Z], where they lie in the latent space, None if unknown.
        joined: whether the points are those of one path.
    """

    name: str
    maps: tuple[Path, ...]
    labels: tuple[str, ...]
    points: np.ndarray | None = None
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Labelling:
    """A division of the images into classes or clusters.

    Attributes:
        kind: "class" or "cluster"; labels: [N], number of each image's class from 1, 0 for none; rows: of its table.
    """

    kind: str
    labels: np.ndarray
    rows: tuple[ClassRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Conformations:
    """The conformations of N images.

    Attributes:
        count: N.
        axes, uncertainty, density: of the latent coordinates (see `analyze`), None where there are none.
        embedding: [N, 2]; embedding_name: of the method.
        labellings: classes, clusters; series: of maps; names: [N] of images.
    """

    count: int
    axes: PrincipalAxes | None = None
    uncertainty: Uncertainty | None = None
    density: DensityMap2D | None = None
    embedding: np.ndarray | None = None
    embedding_name: str = "UMAP"
    labellings: tuple[Labelling, ...] = ()
    series: tuple[Series, ...] = ()
    names: np.ndarray | None = None


def of_latent(
    z: Float[np.ndarray, "N Z"],
    *,
    covariance: Float[np.ndarray, "N Z Z"] | None = None,
    embedding: Float[np.ndarray, "N 2"] | None = None,
    labellings: tuple[Labelling, ...] = (),
    series: tuple[Series, ...] = (),
    names: np.ndarray | None = None,
    rejected: np.ndarray | None = None,
) -> Conformations:
    """Axes, density and uncertainties of latent coordinates, with what else is known.

    Args:
        rejected: [N] bool, images that do not show the particle: they have no part in the density.

    Raises:
        ValueError: see `check_latent`; for labels, names or an embedding of another number of images.
    """
    check_latent(z, covariance)
    given = [("embedding", embedding), ("names", names), *((one.kind, one.labels) for one in labellings)]
    for what, values in given:
        if values is not None and len(values) != len(z):
            raise ValueError(f"{what} of {len(values)} images, latent coordinates of {len(z)}; expected one number")
    axes = principal_axes(z)
    density = None
    if len(axes.share) > 1 and axes.share[1] > FLAT:
        kept = np.ones(len(z), bool) if rejected is None else ~rejected
        blur = None if covariance is None else axes.covariance(covariance[kept], 2)
        density = density_map(axes.coordinates[kept, :2], blur)
    return Conformations(
        count=len(z),
        axes=axes,
        uncertainty=None if covariance is None else uncertainty(z, covariance),
        density=density,
        embedding=embedding,
        labellings=labellings,
        series=series,
        names=names,
    )


def read_conformations(run: FinishedRun) -> Conformations | None:
    """The conformations of a run; None for a run that has neither latent coordinates nor classes.

    Raises:
        ValueError: for a file that is there but damaged, or of another number of images, with its name.
    """
    z = run.array(layout.LATENTS, 2)
    classes = _class_series(run)
    if z is None and not run.classes and classes is None:
        return None
    series = tuple(s for s in (classes, _cluster_series(run), *_trajectories(run)) if s is not None)
    names = None if run.estimates is None else run.estimates.names
    labellings = _labellings(run)
    if z is None:
        count = len(names) if names is not None else sum(row.particles for row in run.classes)
        return Conformations(count, labellings=labellings, series=series, names=names)
    contrast = run.array(layout.CONTRAST, 1)
    try:
        return of_latent(
            z,
            covariance=run.array(layout.LATENT_COVARIANCES, 3),
            embedding=run.array(layout.UMAP, 2),
            labellings=labellings,
            series=series,
            names=names,
            # images that the method left out have the prior and no contrast
            rejected=None if contrast is None or len(contrast) != len(z) else contrast == 0,
        )
    except ValueError as error:
        raise ValueError(f"{run.folder}: {error}") from None


def _labellings(run: FinishedRun) -> tuple[Labelling, ...]:
    out = []
    particles, clusters = run.estimates, run.array(layout.CLUSTER_LABELS, 1)
    if run.classes and particles is not None and particles.classes is not None:
        out.append(Labelling("class", particles.classes, run.classes))
    if clusters is not None:
        out.append(Labelling("cluster", clusters.astype(np.int64), run.clusters))
    return tuple(out)


def _class_series(run: FinishedRun) -> Series | None:
    maps = tuple(sorted(run.folder.glob(layout.CLASS_MAP.pattern)))
    return Series("classes", maps, tuple(path.stem for path in maps), joined=False) if maps else None


def _cluster_series(run: FinishedRun) -> Series | None:
    maps = tuple(sorted(run.folder.glob(layout.CLUSTER_MAP.pattern)))
    if not maps:
        return None
    centres = run.array(layout.CLUSTER_CENTRES, 2)
    numbers = [int(path.stem[-3:]) for path in maps]
    if centres is not None and max(numbers) > len(centres):
        path = run.path(layout.CLUSTER_CENTRES)
        raise ValueError(f"{path}: {len(centres)} points, but there is {maps[-1].name}; expected one a cluster")
    points = None if centres is None else centres[[number - 1 for number in numbers]]
    return Series("clusters", maps, tuple(path.stem for path in maps), points, joined=False)


def _trajectories(run: FinishedRun) -> list[Series]:
    return [Series(t.name, t.maps, tuple(path.stem for path in t.maps), t.points) for t in run.trajectories]
