"""Maps of classes and clusters: each from its own images, with the gold-standard FSC of its half maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.jobs.class_table import ClassRow, write_class_table
from cryoloom.jobs.final_maps import ScoredMaps, scored_maps
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.physics.rotations import symmetry_group
from cryoloom.runs.layout import RunFile
from cryoloom.runs.seeds import torch_generator

FEWEST_PER_HALF = 10  # minimum number of images in each half set for a map


def cluster_map(
    posed: PosedImages,
    rows: Int[np.ndarray, " n"],
    seed: int,
    mask: Float[Tensor, "D D D"] | None = None,
    symmetry: str = "C1",
) -> ScoredMaps:
    """Reconstruct half maps from the images of `rows` at their poses, and score them as a run scores its own map.

    The resolution is where the corrected FSC of the halves falls below 0.143 (`gold.resolution_angstrom`, None where
    they don't correlate). It says how well the cluster's images agree on a map, not that the cluster is a real state:
    any subset of images has a map, and poses and latent coordinates were found on both halves together unless the run
    kept them apart.

    Args:
        mask: mask within which the halves are compared; computed from the map if left out.

    Raises:
        ValueError: for rows out of range or repeated, halves other than 0 and 1, or too few images in a half.
    """
    feed = posed.feed
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(feed)):
        raise ValueError(f"rows from {rows.min()} to {rows.max()}; expected 0 to {len(feed) - 1}")
    own = posed.only(rows)
    sizes = [int((own.half == h).sum()) for h in (0, 1)]
    if sum(sizes) != len(rows):
        raise ValueError(f"{sum(sizes)} of {len(rows)} rows occur once and in half set 0 or 1; expected all of them")
    if min(sizes) < FEWEST_PER_HALF:
        raise ValueError(
            f"the cluster has {sizes[0]} and {sizes[1]} images in its half sets; expected at least {FEWEST_PER_HALF} "
            "in each: ask for fewer clusters"
        )
    group = symmetry_group(symmetry).float().to(feed.device)
    radius = (feed.box - 1) // 2
    generators = [torch_generator(seed, "class maps", part) for part in ("samples", "rough", "final")]
    statistics = own.sums(radius, group, generators[0])
    return scored_maps(feed, statistics, generators[1], generators[2], mask)


def write_class_maps(
    run: Path,
    posed: PosedImages,
    labels: Int[np.ndarray, " N"],
    *,
    maps: RunFile,
    table: RunFile,
    mask: Float[Tensor, "D D D"],
    seed: int,
    shares: tuple[float, ...],
    say: Callable[[int, ClassRow], None] = lambda number, row: None,
) -> tuple[ClassRow, ...]:
    """Write map and table row of each class or cluster into the folder of a run; earlier ones are removed.

    A class with fewer than FEWEST_PER_HALF images in a half set gets no map and no resolution.

    Args:
        posed: all N images; those with half set -1 are left out of the maps.
        labels: number of each image's class, 1 to K; 0 for none.
        maps, table: which files are written; a class has the name of its map.
        mask: mask within which the half maps are compared.
        shares: estimated proportion of each class.
        say: called for each class when its map is made.
    """
    certain = replace(posed, poses=PosePosterior.certain(*posed.poses.best()), noise=posed.noise.float())
    pixel_size = posed.feed.pixel_size
    for stale in run.glob(maps.pattern):
        stale.unlink()
    rows = []
    for number, share in enumerate(shares, start=1):
        path, resolution = maps.path(run, number=number), None
        mine = np.flatnonzero((labels == number) & (posed.half >= 0))
        if min(int((posed.half[mine] == h).sum()) for h in (0, 1)) >= FEWEST_PER_HALF:
            scored = cluster_map(certain, mine, seed, mask)
            write_map(path, DensityMap(scored.combined.contiguous(), pixel_size))
            resolution = scored.gold.resolution_angstrom
        rows.append(ClassRow(path.stem, int((labels == number).sum()), share, resolution))
        say(number, rows[-1])
    write_class_table(table.path(run), tuple(rows))
    return tuple(rows)
