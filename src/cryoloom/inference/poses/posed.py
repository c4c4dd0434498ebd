"""Images with their poses, from which maps and conformations are reconstructed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.samples import posterior_samples
from cryoloom.kernels.dispatch import Insertion
from cryoloom.kernels.images import Images
from cryoloom.kernels.order import view_order
from cryoloom.maps.backprojection import NormalEquations, Packed
from cryoloom.maps.band import Band
from cryoloom.maps.symmetric_sums import SymmetricSums
from cryoloom.particles.feed import ImageFeed

BATCH = 500  # images at once


@dataclass(frozen=True)
class PosedImages:
    """N images and the posteriors of their poses.

    Attributes:
        feed: the images.
        poses: candidate poses of all N images, on the CPU; where they have covariances, images are inserted over the
            width of their posterior.
        half: [N] int, half set of each image, 0 or 1; -1 for images that are left out.
        noise: [G, S], E|n|^2 by optics group and shell.
        sigma_angstrom: standard deviation of shifts.
    """

    feed: ImageFeed
    poses: PosePosterior
    half: np.ndarray
    noise: Tensor
    sigma_angstrom: float

    def __post_init__(self) -> None:
        if not len(self.poses) == len(self.half) == len(self.feed):
            raise ValueError(
                f"poses of {len(self.poses)} images and half sets of {len(self.half)} for a feed of {len(self.feed)}: "
                "they must be the same images"
            )

    def __len__(self) -> int:
        return len(self.feed)

    def __repr__(self) -> str:
        N, K = self.poses.log_weight.shape
        sizes = ", ".join(f"{len(self.half_set(h)):,}" for h in (0, 1))
        return f"PosedImages({N:,} images of {self.feed.box} px, K = {K} candidate poses, half sets of {sizes})"

    def half_set(self, half: int) -> np.ndarray:
        """Rows of the images of half set 0 or 1.

        Raises:
            ValueError: if a half set has no images.
        """
        rows = np.flatnonzero(self.half == half)
        if len(rows) == 0:
            raise ValueError(f"half set {half + 1} has no particles; expected particles in both half sets")
        return rows

    def with_poses(self, poses: PosePosterior) -> PosedImages:
        """The same images at other poses."""
        return replace(self, poses=poses)

    def only(self, rows: np.ndarray) -> PosedImages:
        """The same images, of which all but `rows` are left out."""
        half = np.full(len(self), -1, dtype=self.half.dtype)
        half[rows] = self.half[rows]
        return replace(self, half=half)

    def by_view(self, rows: np.ndarray) -> np.ndarray:
        """The rows in the order of their views (`kernels.order.view_order`), in which slices and insertion are fastest.

        Images that are read from a file again and again stay in its order.
        """
        if not self.feed.source.holds_all:
            return rows
        return rows[view_order(self.poses.R[torch.from_numpy(rows), 0]).numpy()]

    def images(self, rows: np.ndarray, radius: float) -> Images:
        """Images of `rows` on the disc of `radius`."""
        return self.feed.images(rows, radius, self.noise)

    def best(self, rows: np.ndarray) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 2"]]:
        """The likeliest pose of each image of `rows`, on the device."""
        R, t = self.poses.rows(torch.from_numpy(rows)).to(self.feed.device).best()
        return R.float().contiguous(), t.float().contiguous()

    def sums(
        self, radius: int, group: Float[Tensor, "G 3 3"], generator: torch.Generator
    ) -> tuple[NormalEquations, NormalEquations]:
        """Normal equations of the map of either half set, at `radius` Fourier pixels.

        Args:
            group: symmetry of the particle; generator: for the samples that represent the width of the posteriors.

        Raises:
            ValueError: if a half set has no images.
        """
        inserted = Insertion(Band(radius).side, self.feed.device)
        one = self._half_sum(0, radius, group, generator, inserted)
        return one, self._half_sum(1, radius, group, generator, inserted.emptied(inserted.side))

    def _half_sum(
        self, half: int, radius: int, group: Tensor, generator: torch.Generator, inserted: Insertion
    ) -> NormalEquations:
        symmetric = SymmetricSums.of(group)
        for rows in in_batches(self.by_view(self.half_set(half)), self.feed.at_once(radius, BATCH)):
            poses = self.poses.rows(torch.from_numpy(rows)).to(self.feed.device)
            samples = symmetric.at_mates(posterior_samples(poses, generator, radius, len(symmetric.mates)))
            inserted.add(self.images(rows, radius), samples)
        return Packed.of(symmetric.imposed(inserted), radius)


def in_batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The rows in runs of `size`, the last one shorter."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
