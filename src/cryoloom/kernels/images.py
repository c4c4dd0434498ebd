"""Inputs and outputs of the kernels: images, weighted poses of images, posteriors over a grid of poses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import shift_ramp


@dataclass(frozen=True, slots=True, repr=False)
class Images:
    """Fourier coefficients of B images with their CTFs and noise spectra.

    Attributes:
        observed: complex64 [B, P].
        ctf: float32 [B, P].
        variance: float32 [G, P], E|n|^2 of each optics group.
        group: int64 [B], the optics group of each image.
        disc: the P frequencies.
    """

    observed: Tensor
    ctf: Tensor
    variance: Tensor
    group: Tensor
    disc: FourierDisc

    def __len__(self) -> int:
        return len(self.observed)

    def __repr__(self) -> str:
        groups = len(self.variance)
        return f"Images({len(self)} images, {groups} optics group{'s' if groups != 1 else ''}, {self.disc})"

    def rows(self, index: Tensor) -> Images:
        """The images with the given indices."""
        return Images(self.observed[index], self.ctf[index], self.variance, self.group[index], self.disc)

    def moved(self, t: Tensor) -> Images:
        """The images with their content moved by t [B, 2], angstrom."""
        observed = (self.observed * shift_ramp(self.disc.k, t)).contiguous()
        return Images(observed, self.ctf, self.variance, self.group, self.disc)

    def prefix(self, radius: float) -> Images:
        """The same images on the smaller disc of `radius` Fourier pixels."""
        disc = self.disc.prefix(radius)
        n = len(disc.weight)
        if n == len(self.disc.weight):
            return self
        # contiguous: the kernels are compiled for one memory layout
        observed, ctf, variance = (x[:, :n].contiguous() for x in (self.observed, self.ctf, self.variance))
        return Images(observed, ctf, variance, self.group, disc)


@dataclass(frozen=True, slots=True)
class Samples:
    """C weighted poses at which images are inserted.

    Attributes:
        image: int64 [C], row index into `Images`.
        R: [C, 3, 3]; t: [C, 2], angstrom.
        weight: [C].
    """

    image: Tensor
    R: Tensor
    t: Tensor
    weight: Tensor

    def rows(self, index: Tensor) -> Samples:
        """The samples with the given indices."""
        return Samples(self.image[index], self.R[index], self.t[index], self.weight[index])


@dataclass(frozen=True, slots=True)
class GridPosterior:
    """Posterior of B images over M rotations x T shifts; a grid point has the key t * M + m.

    Attributes:
        picks: int64 [B, S], keys of S systematic draws.
        best: int64 [B, K], keys of the K best grid points, -1 where there are fewer; best_score: [B, K].
        log_evidence: [B], log sum exp of the scores.
    """

    picks: Tensor
    best: Tensor
    best_score: Tensor
    log_evidence: Tensor

    @staticmethod
    def empty(images: int, draws: int, best: int) -> GridPosterior:
        """Uninitialised tensors on the CPU for a kernel to fill."""
        return GridPosterior(
            torch.empty(images, draws, dtype=torch.int64),
            torch.empty(images, best, dtype=torch.int64),
            torch.empty(images, best),
            torch.empty(images),
        )

    @staticmethod
    def joined(parts: list[GridPosterior]) -> GridPosterior:
        """The posteriors of several batches, concatenated."""
        return GridPosterior(
            torch.cat([p.picks for p in parts]),
            torch.cat([p.best for p in parts]),
            torch.cat([p.best_score for p in parts]),
            torch.cat([p.log_evidence for p in parts]),
        )
