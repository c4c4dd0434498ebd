"""Refinement of poses under a linear family of volumes, by the evidence marginalised over latents and contrast.

Pose and conformation of an image are inferred together: a pose found on the mean alone compensates for motion, and
latent coordinates at such a pose for the error of the pose. Gauss-Newton steps are taken on both, with the latents
eliminated (variable projection; Golub & Pereyra 1973).
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

AT_ONCE = 250  # poses at once: their slices stay in the cache of the processor
LEAST_SPREAD = 0.05  # standard deviation of contrasts where all are taken as equal


@dataclass(frozen=True, slots=True)
class FamilyEvidence:
    """Objective (`refine.PoseObjective`) of images of a linear family V_0 .. V_Z.

    Attributes:
        grids: half grids of the volumes.
        images: B images.
        sigma_angstrom: standard deviation of the prior on shifts.
        contrast, log_prior: grid of contrasts and log prior weights, [A]; see `linear.contrast_prior`.
    """

    grids: list[Complex[Tensor, "M M H"]]
    images: Images
    sigma_angstrom: float
    contrast: Float[Tensor, " A"]
    log_prior: Float[Tensor, " A"]

    def __call__(
        self, image: Int[Tensor, " C"], R: Float[Tensor, "C 3 3"], t: Float[Tensor, "C 2"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Evidence, its gradient at the expected mixture, and the matrix of the pose; see `PoseObjective`."""
        parts = [self._some(*some) for some in zip(*(x.split(AT_ONCE) for x in (image, R, t)), strict=True)]
        score, gradient, hessian, power = (torch.cat(part) for part in zip(*parts, strict=True))
        return (*with_shift_prior(score, gradient, hessian, t, self.sigma_angstrom), power)

    def _some(self, image: Tensor, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        i = self.images
        some = i.rows(image)
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
        """Derivatives of the whitened prediction with respect to rotation and shift."""
        disc = images.disc
        scale = (disc.weight / images.variance).sqrt()[images.group] * images.ctf
        turns = dispatch.turns(self.grids, x, R, disc) * scale[:, None]
        waves = (-2j * math.pi * disc.k.T) * torch.view_as_complex(model.unflatten(1, (-1, 2)))[:, None]
        return torch.view_as_real(torch.cat([turns, waves], 1)).flatten(2)

    def _prior_precision(self, x: Float[Tensor, "C Q"]) -> Float[Tensor, "C Q Q"]:
        """Prior precision of a mixture a (1, z), with the spread of the contrast prior."""
        spread = float((self.log_prior.exp() * (self.contrast - 1).square()).sum().sqrt())
        precision = x[:, :1].clamp(min=0.3).square().reciprocal().expand(-1, x.shape[1]).clone()
        precision[:, 0] = 1 / max(spread, LEAST_SPREAD) ** 2
        return torch.diag_embed(precision)
