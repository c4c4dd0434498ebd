"""The map of a cluster's own images, with the gold-standard FSC of its half sets."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from cryoloom.inference.poses.posed import PosedImages
from cryoloom.jobs.final_maps import ScoredMaps, scored_maps
from cryoloom.physics.rotations import symmetry_group
from cryoloom.runs.seeds import torch_generator

FEWEST_PER_HALF = 10  # images without which there is no map to speak of


def cluster_map(
    posed: PosedImages,
    rows: Int[np.ndarray, " n"],
    seed: int,
    mask: Float[Tensor, "D D D"] | None = None,
    symmetry: str = "C1",
) -> ScoredMaps:
    """Backproject the images of `rows` at their poses, half sets apart, and score them as a run scores its own map.

    The resolution is where the corrected FSC of the halves falls below 0.143 (`gold.resolution_angstrom`, None where
    they don't correlate). It says how well the cluster's images agree on a map, not that the cluster is a real state:
    any subset of images has a map, and poses and latent coordinates were found on both halves together unless the run
    kept them apart.

    Args:
        mask: within which the halves are compared; found from the map where it is left out.

    Raises:
        ValueError: for rows that there are not or come twice, halves other than 0 and 1, or too few images in a half.
    """
    feed = posed.feed
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(feed)):
        raise ValueError(f"rows from {rows.min()} to {rows.max()}; expected 0 to {len(feed) - 1}")
    own = posed.only(rows)
    sizes = [int((own.half == h).sum()) for h in (0, 1)]
    if sum(sizes) != len(rows):
        raise ValueError(f"of {len(rows)} rows {sum(sizes)} are in half 0 or 1 once; expected each row once, in a half")
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
