"""LatentPosterior and ClassPosterior: the types that conformation methods return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, repr=False)
class LatentPosterior:
    """Gaussian posteriors of the Z latent coordinates of B images.

    Attributes:
        mean: posterior means, [B, Z].
        covariance: posterior covariances, [B, Z, Z].
        contrast: expected contrast of the particle in each image relative to the mean of the set, [B]; 1 where the
            contrast is not inferred.
    """

    mean: Tensor
    covariance: Tensor
    contrast: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def __repr__(self) -> str:
        B, Z = self.mean.shape
        return f"LatentPosterior({B} images x {Z} latent coordinate{'s' if Z != 1 else ''}: mean, covariance, contrast)"

    @staticmethod
    def diagonal(mean: Float[Tensor, "B Z"], log_variance: Float[Tensor, "B Z"]) -> LatentPosterior:
        """Posteriors with independent coordinates and contrast 1, as variational encoders give them."""
        return LatentPosterior(mean, torch.diag_embed(log_variance.exp()), mean.new_ones(len(mean)))

    def rows(self, index: Tensor) -> LatentPosterior:
        """The posteriors of the images with the given indices."""
        return LatentPosterior(self.mean[index], self.covariance[index], self.contrast[index])

    def without(self, unseen: Bool[Tensor, " B"]) -> LatentPosterior:
        """The same posteriors, with the prior and contrast 0 for the `unseen` images."""
        eye = torch.eye(self.mean.shape[1]).to(self.mean)
        return LatentPosterior(
            torch.where(unseen[:, None], 0, self.mean),
            torch.where(unseen[:, None, None], eye, self.covariance),
            torch.where(unseen, 0, self.contrast),
        )

    def told_apart(self) -> tuple[Float[Tensor, " Z"], Float[Tensor, "Z Z"]]:
        """Reliability of the latent coordinates along the directions in which images are distinguished best.

        Returns:
            Reliabilities in falling order: the variance of the posterior means over that of the population (variance of
            the means plus the mean covariance); 1 is exact, 0 uninformative. And the directions as rows, scaled so that
            the variance of the population is one. An unused coordinate does not lower the reliability of the others.
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
        """The same posteriors on a device."""
        return LatentPosterior(self.mean.to(device), self.covariance.to(device), self.contrast.to(device))

    @staticmethod
    def joined(parts: list[LatentPosterior]) -> LatentPosterior:
        """The posteriors of several batches in order."""
        mean, covariance, contrast = (torch.cat([getattr(p, n) for p in parts]) for n in LatentPosterior.__slots__)
        return LatentPosterior(mean, covariance, contrast)


@dataclass(frozen=True, slots=True)
class DiagonalGaussian:
    """Approximate posteriors q(z|X) of B images: mean and log_variance, [B, Z] each, differentiable."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, normal: Float[Tensor, "B Z"]) -> Float[Tensor, "B Z"]:
        """Reparameterised sample: mean + standard deviation x standard normal numbers (Kingma and Welling 2014)."""
        return self.mean + (0.5 * self.log_variance).exp() * normal

    def divergence(self) -> Float[Tensor, " B"]:
        """KL(q || N(0, I)) in nats."""
        excess = self.log_variance.exp() + self.mean.square() - 1 - self.log_variance
        return 0.5 * excess.sum(1)

    def posterior(self) -> LatentPosterior:
        """The same Gaussians as a `LatentPosterior`, detached."""
        return LatentPosterior.diagonal(self.mean.detach(), self.log_variance.detach())


@dataclass(frozen=True, slots=True)
class ClassPosterior:
    """Posterior probabilities of K classes for each of B images: log_weight [B, K], normalised over K."""

    log_weight: Tensor

    def __len__(self) -> int:
        return len(self.log_weight)

    def best(self) -> Int[Tensor, " B"]:
        """The most probable class of each image."""
        return self.log_weight.argmax(1)

    def shares(self) -> Float[Tensor, " K"]:
        """Expected share of the images in each class."""
        return self.log_weight.exp().mean(0)
