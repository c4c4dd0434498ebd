"""What a run left of its conformations, read for the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from cryoloom.analyze.density import DensityMap2D, density_map
from cryoloom.analyze.latent import PrincipalAxes, Uncertainty, check_latent, principal_axes, uncertainty
from cryoloom.jobs.class_table import ClassRow, read_class_table
from cryoloom.particles.star import read_star

ANALYSIS = "analysis"  # folder of a run in which its analysis lies
_MAP = re.compile(r"(.+)_(\d{3})\.mrc")
_FLAT = 1e-9  # share of the variance below which an axis is none


@dataclass(frozen=True, slots=True)
class Series:
    """Maps in order: along a trajectory, or one a class.

    Attributes:
        maps: their files; labels: one a map.
        points: [T, Z], where they lie in the latent space, None where there is none.
    """

    name: str
    maps: tuple[Path, ...]
    labels: tuple[str, ...]
    points: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Conformations:
    """The conformations of N images.

    Attributes:
        count: N.
        axes, uncertainty, density: of the latent (see `analyze`), None where there is none.
        embedding: [N, 2]; embedding_name: of the method.
        labels: [N], class or cluster from 0; -1: none.
        classes: what is known of each; series: of maps; names: [N] of images.
    """

    count: int
    axes: PrincipalAxes | None = None
    uncertainty: Uncertainty | None = None
    density: DensityMap2D | None = None
    embedding: np.ndarray | None = None
    embedding_name: str = "UMAP"
    labels: np.ndarray | None = None
    classes: tuple[ClassRow, ...] = ()
    series: tuple[Series, ...] = ()
    names: np.ndarray | None = None


def of_latent(
    z: Float[np.ndarray, "N Z"],
    covariance: Float[np.ndarray, "N Z Z"] | None = None,
    embedding: Float[np.ndarray, "N 2"] | None = None,
    labels: Int[np.ndarray, " N"] | None = None,
    classes: tuple[ClassRow, ...] = (),
    series: tuple[Series, ...] = (),
    names: np.ndarray | None = None,
) -> Conformations:
    """Axes, density and uncertainties of latent coordinates, with what else is known.

    Raises:
        ValueError: see `check_latent`; for labels, names or an embedding of another number of images.
    """
    check_latent(z, covariance)
    for what, values in (("embedding", embedding), ("labels", labels), ("names", names)):
        if values is not None and len(values) != len(z):
            raise ValueError(f"{what} of {len(values)} images, latent coordinates of {len(z)}; expected one number")
    axes = principal_axes(z)
    density = None
    if len(axes.share) > 1 and axes.share[1] > _FLAT:
        blur = None if covariance is None else axes.covariance(covariance, 2)
        density = density_map(axes.coordinates[:, :2], blur)
    sure = None if covariance is None else uncertainty(z, covariance)
    return Conformations(
        len(z), axes, sure, density, embedding, labels=labels, classes=classes, series=series, names=names
    )


def read_conformations(folder: Path) -> Conformations | None:
    """The conformations of a run, None for a run without any (no z.npy, no classes).

    Read are z.npy, z_covariance.npy, class_001.mrc ..., classes.csv and the names and rlnClassNumber of
    particles.star; and from the folder `analysis`: umap.npy, labels.npy, classes.csv (in place of the run's), series
    of maps NAME_000.mrc ... and NAME.npy, their latent points.

    Raises:
        ValueError: for a file that is there but damaged, or of another number of images, with its name.
    """
    inner = folder / ANALYSIS
    z = _array(folder / "z.npy", 2)
    series = (*_series(folder, "class"), *_series(inner, None))
    classes = read_class_table(inner / "classes.csv") or read_class_table(folder / "classes.csv")
    if z is None and not classes and not any(s.name == "class" for s in series):
        return None
    names, given = _particles(folder / "particles.star")
    clusters = _array(inner / "labels.npy", 1)
    labels = None if clusters is None else clusters.astype(np.int64)
    if z is None:
        # beside a latent, classes in the file are what another program left there
        labels = given if labels is None else labels
        count = len(names) if names is not None else sum(row.particles for row in classes)
        return Conformations(count, labels=labels, classes=classes, series=series, names=names)
    try:
        covariance, embedding = _array(folder / "z_covariance.npy", 3), _array(inner / "umap.npy", 2)
        return of_latent(z, covariance, embedding=embedding, labels=labels, classes=classes, series=series, names=names)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _array(path: Path, dims: int) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not an array ({error}); expected one of {dims} dimensions: copy it again") from None
    if array.ndim != dims or array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {array.dtype} of shape {array.shape}; expected numbers in {dims} dimensions")
    return array


def _series(folder: Path, only: str | None) -> tuple[Series, ...]:
    """Files NAME_000.mrc ... of a folder, by name; of one name alone if it is given."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*_[0-9][0-9][0-9].mrc")):
        match = _MAP.fullmatch(path.name)
        if match is not None and only in (None, match[1]):
            found.setdefault(match[1], []).append(path)
    out = []
    for name, paths in found.items():
        points = _array(folder / f"{name}.npy", 2)
        if points is not None and len(points) != len(paths):
            raise ValueError(f"{folder / name}.npy: {len(points)} points for {len(paths)} maps; expected one a map")
        out.append(Series(name, tuple(paths), tuple(path.stem for path in paths), points))
    return tuple(out)


def _particles(path: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Image names and classes from 0 of a particle file, each None where it has none."""
    if not path.is_file():
        return None, None
    block = read_star(path).block("particles")
    if block is None:
        return None, None
    table = block.table
    names = table["rlnImageName"].to_numpy() if "rlnImageName" in table else None
    labels = None
    if "rlnClassNumber" in table:
        try:
            labels = np.asarray(table["rlnClassNumber"], dtype=np.float64).astype(np.int64) - 1
        except ValueError as error:
            raise ValueError(f"{path}: column rlnClassNumber holds no numbers ({error})") from None
    return names, labels
