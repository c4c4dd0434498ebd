"""Conformations as K volumes with shares: EM at given poses, half sets apart.

Starts from classes that a linear analysis of the same images suggests: random ones would lose small classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoloom.inference.conformations.posterior import ClassPosterior, LatentPosterior
from cryoloom.inference.conformations.subspace import contrast_prior, products
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.reconstruct.backprojection import ssnr_of_half
from cryoloom.reconstruct.config import ClassesSettings
from cryoloom.reconstruct.coupled import Moments, fsc_of_pairs, mask_in_box, solve_coupled
from cryoloom.reconstruct.feed import ImageFeed
from cryoloom.reconstruct.progress import StepInfo

BATCH = 500  # images at once
STILL = 0.001  # share of images that still change their class when EM has ended
STARTS = 10  # of the mixture of Gaussians that EM begins with


@dataclass(frozen=True)
class ClassesState:
    """Carried from iteration to iteration.

    Attributes:
        iteration: done so far; log_weight: [N, K] of all images; changed: share whose likeliest class is new.
        fsc: [K, S] of the classes' half maps.
    """

    iteration: int
    log_weight: Tensor
    changed: float
    fsc: Tensor


class ClassesRecipe:
    """The stage `classes`: from posed images and a first guess to K volumes and every image's class."""

    name = "classes"

    def __init__(
        self, feed: ImageFeed, settings: ClassesSettings, poses: PosePosterior, half: np.ndarray, noise: Tensor,
        first: ClassPosterior, contrast_sigma: float, mask: Float[Tensor, "D D D"] | None = None,
    ) -> None:  # fmt: skip
        """Args:
        poses: of all N images; the likeliest candidate of each is taken. half: [N] of 0 and 1; noise: [G, S].
        first: classes to begin with. mask: in the working box; the particle's sphere when None.
        """
        self.feed, self.settings, self.half, self.noise, self.first = feed, settings, half, noise, first
        self.R, self.t = (x.float() for x in poses.best())
        self.mask = feed.mask(feed.box).cpu() if mask is None else mask
        self.contrast, self.log_prior = contrast_prior(contrast_sigma)
        self.radius = feed.radius_of(settings.last_level)

    def init(self) -> ClassesState:
        """The first guess."""
        K = self.first.log_weight.shape[1]
        return ClassesState(0, self.first.log_weight.float().cpu(), 1.0, torch.zeros(K, self.radius + 1))

    def finished(self, state: ClassesState) -> bool:
        """Whether classes stand still."""
        return state.iteration >= self.settings.iterations or (state.iteration > 1 and state.changed < STILL)

    def end_early(self, state: ClassesState) -> ClassesState:
        """Any state is a result."""
        return state

    def step(self, state: ClassesState) -> tuple[ClassesState, StepInfo]:
        """Volumes of either half from its images' weights, then new weights from the own half's volumes."""
        moments = [self._sums(state, h) for h in (0, 1)]
        mask = mask_in_box(self.mask, 2 * (self.radius + 2)).to(self.feed.device)
        raw = [solve_coupled(m, None, self.radius) * mask for m in moments]
        fsc = fsc_of_pairs(raw[0], raw[1], self.radius)
        shares = ClassPosterior(state.log_weight).shares()
        weight, evidence = torch.empty_like(state.log_weight), 0.0
        for h, m in enumerate(moments):
            grids = [volume_to_half(v * mask) for v in solve_coupled(m, ssnr_of_half(fsc), self.radius)]
            for rows in _batches(np.flatnonzero(self.half == h)):
                log_p = self._log_likelihood(grids, rows) + shares.log().to(self.feed.device)
                total = torch.logsumexp(log_p, 1, keepdim=True)
                weight[torch.from_numpy(rows)] = (log_p - total).float().cpu()
                evidence += float(total.sum()) / len(self.feed)
        changed = float((weight.argmax(1) != state.log_weight.argmax(1)).float().mean())
        following = ClassesState(state.iteration + 1, weight, changed, fsc)
        side = self.feed.box * self.feed.pixel_size
        metrics = (("evidence", evidence), ("changed", changed),
                   *((f"share_{k + 1}", float(s)) for k, s in enumerate(ClassPosterior(weight).shares())))  # fmt: skip
        return following, StepInfo(self.name, state.iteration + 1, None, side / self.radius, metrics)

    def posterior(self, state: ClassesState) -> ClassPosterior:
        """Of all images, largest class first."""
        found = ClassPosterior(state.log_weight)
        return ClassPosterior(state.log_weight[:, found.shares().argsort(descending=True)])

    def _sums(self, state: ClassesState, half: int) -> Moments:
        K = state.log_weight.shape[1]
        i, j = torch.triu_indices(K, K)
        total = None
        for rows in _batches(np.flatnonzero(self.half == half)):
            index = torch.from_numpy(rows)
            images, R, t = self._images(rows)
            first = state.log_weight[index].exp().to(R)
            second = torch.where(i == j, first[:, i], 0.0).contiguous()
            newest = Moments(*dispatch.insert_moments(images, R, t, first, second, 4 * (self.radius + 2)))
            total = newest if total is None else total + newest
        if total is None:
            raise ValueError(f"half set {half + 1} has no particles; expected both halves to be filled")
        return total

    def _log_likelihood(self, grids: list[Tensor], rows: np.ndarray) -> Float[Tensor, "B K"]:
        """Of each image in each class, contrast summed over its grid, up to a constant of the image."""
        images, R, t = self._images(rows)
        found = products(grids, images, R, t)
        a = self.contrast.to(found.gram)
        power = found.gram.diagonal(dim1=1, dim2=2)
        log_p = a * found.cross[..., None] - 0.5 * a.square() * power[..., None] + self.log_prior.to(a)
        return torch.logsumexp(log_p, 2)

    def _images(self, rows: np.ndarray) -> tuple[dispatch.Images, Tensor, Tensor]:
        index, device = torch.from_numpy(rows), self.feed.device
        images = self.feed.images(rows, self.radius, self.noise)
        return images, self.R[index].to(device).contiguous(), self.t[index].to(device).contiguous()

    def to_arrays(self, state: ClassesState) -> Mapping[str, np.ndarray | Tensor]:
        """Flat arrays."""
        return {"iteration": np.array(state.iteration), "log_weight": state.log_weight,
                "changed": np.array(state.changed), "fsc": state.fsc}  # fmt: skip

    def from_arrays(self, arrays: Mapping[str, np.ndarray | Tensor]) -> ClassesState:
        """The inverse of `to_arrays`."""
        return ClassesState(
            int(np.asarray(arrays["iteration"])), torch.as_tensor(arrays["log_weight"]),
            float(np.asarray(arrays["changed"])), torch.as_tensor(arrays["fsc"]),
        )  # fmt: skip


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]


def classes_of_latents(latents: LatentPosterior, count: int, seed: int) -> ClassPosterior:
    """A first guess of classes: a mixture of as many Gaussians in the latent space.

    Raises:
        ValueError: for fewer than 2 classes.
    """
    from sklearn.mixture import GaussianMixture  # heavy to import

    if count < 2:
        raise ValueError(f"{count} classes; expected 2 or more")
    z = latents.mean.double().numpy()
    mixture = GaussianMixture(count, n_init=STARTS, random_state=seed, reg_covar=1e-3).fit(z)
    weight = np.clip(mixture.predict_proba(z), 1e-6, None)
    return ClassPosterior(torch.from_numpy(np.log(weight / weight.sum(1, keepdims=True))).float())


def mean_contrast_of(labels: Int[np.ndarray, " N"], latents: LatentPosterior, count: int) -> list[float]:
    """Of the images of each class: a class of low contrast is junk, not a conformation."""
    contrast = latents.contrast.numpy()
    return [float(contrast[labels == k].mean()) if (labels == k).any() else 0.0 for k in range(count)]
