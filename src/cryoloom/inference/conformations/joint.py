"""Poses of images of a linear family, climbed by the evidence in which latents and contrast are summed over.

An image's pose and its conformation are found together: a pose found on the mean alone makes up for motion, and a
latent at such a pose for the pose's error. Steps are Gauss-Newton's for both, with the latents eliminated (variable
projection; Golub & Pereyra 1973).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryoloom.inference.conformations.linear import Products, infer_latents, whitened
from cryoloom.inference.poses.refine import with_shift_prior
from cryoloom.kernels import dispatch
from cryoloom.kernels.images import Images

AT_ONCE = 250  # poses: their slices stay in the processor's cache
LEAST_SPREAD = 0.05  # of contrasts, where all are taken for alike


@dataclass(frozen=True, slots=True)
class FamilyEvidence:
    """The objective (`refine.PoseObjective`) of images of V_0 .. V_Z.

    Attributes:
        grids: of the volumes; images: B of them; sigma_angstrom: of the prior on shifts.
        contrast, log_prior: [A], see `subspace.contrast_prior`.
    """

    grids: list[Complex[Tensor, "M M H"]]
    images: Images
    sigma_angstrom: float
    contrast: Float[Tensor, " A"]
    log_prior: Float[Tensor, " A"]

    def __call__(
        self, image: Int[Tensor, " C"], R: Float[Tensor, "C 3 3"], t: Float[Tensor, "C 2"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Evidence, its gradient at the expected mixture, and the matrix of the pose alone; see `PoseObjective`."""
        parts = [self._some(*some) for some in zip(*(x.split(AT_ONCE) for x in (image, R, t)), strict=True)]
        score, gradient, hessian, power = (torch.cat(part) for part in zip(*parts, strict=True))
        return (*with_shift_prior(score, gradient, hessian, t, self.sigma_angstrom), power)

    def _some(self, image: Tensor, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        i = self.images
        some = Images(i.observed[image], i.ctf[image], i.variance, i.group[image], i.disc)
        slices, observed = whitened(self.grids, some, R, t)
        gram, cross = slices @ slices.mT, torch.einsum("bqp,bp->bq", slices, observed)
        inferred = infer_latents(Products(gram.double(), cross.double()), self.contrast, self.log_prior)
        x = inferred.first
        model = torch.einsum("bq,bqp->bp", x, slices)
        columns = self._columns(some, R, x, model)
        gradient = torch.einsum("bip,bp->bi", columns, observed - model)
        inner = (gram + self._prior_precision(x)).double()
        mixed = (columns @ slices.mT).double()
        hessian = columns @ columns.mT - (mixed @ torch.linalg.solve(inner, mixed.mT)).float()
        return inferred.log_evidence.float(), gradient, 0.5 * (hessian + hessian.mT), model.square().sum(1)

    def _columns(self, images: Images, R: Tensor, x: Tensor, model: Float[Tensor, "C P2"]) -> Float[Tensor, "C 5 P2"]:
        """How the whitened prediction changes with rotation and shift."""
        disc = images.disc
        scale = (disc.weight / images.variance).sqrt()[images.group] * images.ctf
        turns = dispatch.turns(self.grids, x, R, disc) * scale[:, None]
        waves = (-2j * math.pi * disc.k.T) * torch.view_as_complex(model.unflatten(1, (-1, 2)))[:, None]
        return torch.view_as_real(torch.cat([turns, waves], 1)).flatten(2)

    def _prior_precision(self, x: Float[Tensor, "C Q"]) -> Float[Tensor, "C Q Q"]:
        """Of a mixture a (1, z): contrast as spread as its prior, z as wide as the contrast."""
        spread = float((self.log_prior.exp() * (self.contrast - 1).square()).sum().sqrt())
        precision = x[:, :1].clamp(min=0.3).square().reciprocal().expand(-1, x.shape[1]).clone()
        precision[:, 0] = 1 / max(spread, LEAST_SPREAD) ** 2
        return torch.diag_embed(precision)
