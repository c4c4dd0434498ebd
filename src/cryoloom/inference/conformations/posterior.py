"""What conformation methods return: a Gaussian over latent coordinates, or weights of classes, for every image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LatentPosterior:
    """Where B images lie in a space of Z latent coordinates, and how surely.

    Attributes:
        mean: [B, Z]; covariance: [B, Z, Z].
        contrast: [B], expected scale of the particle in the image (1: as the rest), 1 where it is not inferred.
    """

    mean: Tensor
    covariance: Tensor
    contrast: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    @staticmethod
    def diagonal(mean: Float[Tensor, "B Z"], log_variance: Float[Tensor, "B Z"]) -> LatentPosterior:
        """Independent coordinates, as variational encoders give them; contrast 1."""
        return LatentPosterior(mean, torch.diag_embed(log_variance.exp()), mean.new_ones(len(mean)))

    def rows(self, index: Tensor) -> LatentPosterior:
        """Those of some images."""
        return LatentPosterior(self.mean[index], self.covariance[index], self.contrast[index])

    def without(self, unseen: Bool[Tensor, " B"]) -> LatentPosterior:
        """The same, but of some images nothing is known: the prior, and contrast 0."""
        eye = torch.eye(self.mean.shape[1]).to(self.mean)
        return LatentPosterior(
            torch.where(unseen[:, None], 0, self.mean),
            torch.where(unseen[:, None, None], eye, self.covariance),
            torch.where(unseen, 0, self.contrast),
        )

    def told_apart(self) -> tuple[Float[Tensor, " Z"], Float[Tensor, "Z Z"]]:
        """How well images are told apart along the directions in which they are best (and then next best) told apart.

        Returns:
            Reliabilities, largest first: the share of the population's variance (that of the means plus the mean
            covariance) that the means show; 1 is exact, 0 nothing. And the directions, rows, in which the
            population's variance is one. A coordinate that is not in use does not lessen the others' reliability.
        """
        mean, Z = self.mean.double(), self.mean.shape[1]
        centred = mean - mean.mean(0)
        between = centred.T @ centred / max(1, len(mean) - 1)
        total = between + self.covariance.double().mean(0)
        floor = 1e-9 * float(total.diagonal().max().clamp(min=1e-30)) if Z else 0.0
        inverse = torch.linalg.inv(torch.linalg.cholesky(total + floor * torch.eye(Z).to(total)))
        values, vectors = torch.linalg.eigh(inverse @ between @ inverse.T)
        return values.flip(0).clamp(0, 1), vectors.flip(1).T @ inverse

    def to(self, device: torch.device) -> LatentPosterior:
        """Moved to a device."""
        return LatentPosterior(self.mean.to(device), self.covariance.to(device), self.contrast.to(device))

    @staticmethod
    def joined(parts: list[LatentPosterior]) -> LatentPosterior:
        """Of several batches, one after the other."""
        mean, covariance, contrast = (torch.cat([getattr(p, n) for p in parts]) for n in LatentPosterior.__slots__)
        return LatentPosterior(mean, covariance, contrast)


@dataclass(frozen=True, slots=True)
class DiagonalGaussian:
    """q(z|X) of B images as variational methods learn it: mean and log_variance, [B, Z] each, differentiable."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, normal: Float[Tensor, "B Z"]) -> Float[Tensor, "B Z"]:
        """mean + s.d. times standard normal numbers (Kingma and Welling 2014)."""
        return self.mean + (0.5 * self.log_variance).exp() * normal

    def divergence(self) -> Float[Tensor, " B"]:
        """KL(q || N(0, I)) in nats."""
        excess = self.log_variance.exp() + self.mean.square() - 1 - self.log_variance
        return 0.5 * excess.sum(1)

    def posterior(self) -> LatentPosterior:
        """As other methods give it."""
        return LatentPosterior.diagonal(self.mean.detach(), self.log_variance.detach())


@dataclass(frozen=True, slots=True)
class ClassPosterior:
    """How likely each of K classes is for each of B images: log_weight [B, K], normalised over K."""

    log_weight: Tensor

    def __len__(self) -> int:
        return len(self.log_weight)

    def best(self) -> Int[Tensor, " B"]:
        """The likeliest class."""
        return self.log_weight.argmax(1)

    def shares(self) -> Float[Tensor, " K"]:
        """Expected share of the images in each class."""
        return self.log_weight.exp().mean(0)
