"""Series of maps that ChimeraX plays as a movie, and the particles of each cluster as STAR files of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from cryoloom.files.durable import write_durably
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.particles.particle_set import ParticleSet, write_particles
from cryoloom.particles.table import ImageResults

FRAMES_PER_SECOND = 8
CACHED_FRAMES = 200  # surfaces that ChimeraX keeps, so that the second round plays smoothly
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class MapSeries:
    """Maps on one grid in order: NAME_000.mrc, NAME_001.mrc ... in `folder`."""

    folder: Path
    name: str
    paths: tuple[Path, ...]


def write_series(folder: Path, name: str, maps: Iterable[DensityMap]) -> MapSeries:
    """Write maps one by one as they come (a generator keeps one in memory) as NAME_000.mrc and so on.

    Maps of an earlier, longer series of this name are removed: a movie opens all files with that name.

    Raises:
        ValueError: for a name that is not allowed in a script, no map, or maps on different grids.
    """
    _check_name(name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    first: DensityMap | None = None
    for density in maps:
        first = first or density
        if density.data.shape != first.data.shape or abs(density.pixel_size / first.pixel_size - 1) > 1e-6:
            raise ValueError(
                f"map {len(paths)} of series {name} has {tuple(density.data.shape)} voxels of {density.pixel_size:g} "
                f"angstrom, the first {tuple(first.data.shape)} of {first.pixel_size:g}; expected one grid"
            )
        if len(paths) == 1000:
            raise ValueError(f"series {name} has more than 1000 maps; expected at most 1000: take fewer points")
        paths.append(folder / f"{name}_{len(paths):03d}.mrc")
        write_map(paths[-1], density)
    if not paths:
        raise ValueError(f"series {name} has no map; expected one or more")
    for stale in folder.glob(f"{name}_[0-9][0-9][0-9].mrc"):
        if stale not in paths:
            stale.unlink()
    return MapSeries(folder, name, tuple(paths))


def write_movie_script(path: Path, series: Sequence[MapSeries], level: float | None = None) -> None:
    """A ChimeraX script (open.cxc) that opens series as volume series and plays the first, back and forth.

    File names in it are relative: ChimeraX runs a script in the script's folder, so all can be moved together.

    Args:
        path: path of the script, in the folder of the series or one above it.
        level: contour level of all maps; ChimeraX chooses one where it is left out.

    Raises:
        ValueError: for no series, or one that is not below the script's folder or whose folder's name has spaces.
    """
    if not series:
        raise ValueError("no series of maps for the movie; expected one or more")
    path = Path(path)
    at = "" if level is None else f" level {level:.6g}"
    lines = ["# written by cryoloom: open with ChimeraX", "set bgColor white", "lighting soft"]
    for number, one in enumerate(series, start=1):
        files = f"{_relative(one, path.parent)}_[0-9][0-9][0-9].mrc"
        # a single map is no series
        lines.append(f"open {files} vseries true id {number}" if len(one.paths) > 1 else f"open {files} id {number}")
        lines.append(f"volume #{number} style surface step 1{at} color #8fb3d9")
        if number > 1:
            lines.append(f"hide #{number} models")
    lines.append("view")
    if len(series[0].paths) > 1:
        lines.append(
            f"vseries play #1 direction oscillate loop true maxFrameRate {FRAMES_PER_SECOND} "
            f"cacheFrames {CACHED_FRAMES}"
        )
    others = [f"#{i} {one.name}" for i, one in enumerate(series, start=1)]
    lines.append("# vseries stop #1 stops it; the series: " + ", ".join(others))
    write_durably(path, ("\n".join(lines) + "\n").encode())


def _relative(series: MapSeries, folder: Path) -> str:
    try:
        inner = series.folder.resolve().relative_to(folder.resolve())
    except ValueError:
        raise ValueError(
            f"series {series.name} lies in {series.folder}; expected a folder below the script's, {folder}"
        ) from None
    for part in inner.parts:
        _check_name(part)
    return (inner / series.name).as_posix()


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"series or folder {name!r} can't be named in a ChimeraX script; expected letters, digits, _, - and ."
        )


def write_cluster_particles(
    folder: Path,
    particles: ParticleSet,
    labels: Int[np.ndarray, " N"],
    count: int,
    name: str = "cluster",
    results: ImageResults | None = None,
) -> tuple[Path, ...]:
    """Write the particles of each of K clusters as NAME_001.star and so on, with all columns, in their order.

    Each file has rlnClassNumber, the number of the cluster. Clusters without particles get no file, and files of an
    earlier division are removed.

    Args:
        labels: 1 to K, one for each particle; 0 leaves a particle out.
        results: more values for all N particles, such as poses (see `write_particles`).

    Raises:
        ValueError: for labels of another length or beyond `count`.
        BadInput: if the folder can't be written.
    """
    if labels.shape != (len(particles),):
        raise ValueError(f"labels of shape {labels.shape} for {len(particles)} particles; expected one per particle")
    if len(labels) and not (labels.min() >= 0 and labels.max() <= count):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected 1 to {count}, or 0 for none")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for cluster in range(1, count + 1):
        rows = np.flatnonzero(labels == cluster)
        if len(rows) == 0:
            continue
        paths.append(folder / f"{name}_{cluster:03d}.star")
        own = replace((results or ImageResults()).take(rows), class_number=np.full(len(rows), cluster))
        write_particles(paths[-1], particles, own, rows)
    for stale in set(folder.glob(f"{name}_[0-9][0-9][0-9].star")) - set(paths):
        stale.unlink()
    return tuple(paths)
