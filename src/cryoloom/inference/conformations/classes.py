"""Discrete classes: a mixture of K points in the latent space, fitted by EM to the likelihoods of the images.

The likelihood of a latent point is Gaussian for every image and follows from the posterior under the prior N(0, I):
with posterior covariance S its precision is S^-1 - I. The K volumes are thus restricted to the linear family, in which
the half sets have separated signal from noise; K free volumes, each with the noise of all its voxels, distinguish
images less well (docs/methods/classes.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.posterior import ClassPosterior, LatentPosterior

STARTS = 8
ITERATIONS = 100
STILL = 1e-5  # nats per image


@dataclass(frozen=True, slots=True)
class Classes:
    """K classes in falling order of size.

    Attributes:
        centres: latent coordinates of the classes, [K, Z].
        shares: shares of the images, [K].
        posterior: class probabilities of all images.
        log_likelihood: mean log-likelihood, nats per image.
    """

    centres: Tensor
    shares: Tensor
    posterior: ClassPosterior
    log_likelihood: float


def fit_classes(latents: LatentPosterior, count: int, generator: torch.Generator) -> Classes:
    """Fits K classes by EM from several random starts and returns the fit of largest likelihood.

    Raises:
        ValueError: for fewer than 2 classes, or not fewer classes than images.
    """
    if not 2 <= count < len(latents):
        raise ValueError(f"{count} classes of {len(latents)} images; expected 2 or more, and fewer than images")
    precision, right = _likelihoods(latents)
    fits = [_fit(precision, right, _first_centres(latents, count, generator)) for _ in range(STARTS)]
    best = max(fits, key=lambda fit: fit.log_likelihood)
    order = best.shares.argsort(descending=True)
    return Classes(
        best.centres[order].float(),
        best.shares[order].float(),
        ClassPosterior(best.posterior.log_weight[:, order]),
        best.log_likelihood,
    )


def _likelihoods(latents: LatentPosterior) -> tuple[Float[Tensor, "N Z Z"], Float[Tensor, "N Z"]]:
    """G and h of each image: log p(Y | z) = h.z - z.G.z / 2 up to a constant."""
    inverse = torch.linalg.inv(latents.covariance.double())
    right = torch.einsum("nij,nj->ni", inverse, latents.mean.double())
    eigen, U = torch.linalg.eigh(inverse - torch.eye(inverse.shape[-1]).double())
    return (U * eigen.clamp(min=0)[:, None]) @ U.mT, right


def _first_centres(latents: LatentPosterior, count: int, generator: torch.Generator) -> Float[Tensor, "K Z"]:
    """Centres at distant images, each drawn in proportion to its squared distance from the others (k-means++)."""
    z = latents.mean.double()
    rows = [int(torch.randint(len(z), (1,), generator=generator))]
    while len(rows) < count:
        apart = torch.cdist(z, z[rows]).amin(1).square() + 1e-12
        rows.append(int(torch.multinomial(apart, 1, generator=generator)))
    return z[rows]


def _fit(precision: Tensor, right: Tensor, centres: Tensor) -> Classes:
    K, before = len(centres), -torch.inf
    shares = torch.full((K,), 1.0 / K).double()
    ridge = 1e-9 * torch.eye(centres.shape[1]).double()
    log_weight, level = torch.zeros(len(right), K).double(), before
    for _ in range(ITERATIONS):
        quadratic = torch.einsum("ki,nij,kj->nk", centres, precision, centres)
        log_p = right @ centres.T - 0.5 * quadratic + shares.clamp(min=1e-12).log()
        total = torch.logsumexp(log_p, 1, keepdim=True)
        log_weight, level = log_p - total, float(total.mean())
        if level - before < STILL:
            break
        before = level
        weight = log_weight.exp()
        shares = weight.mean(0)
        left = torch.einsum("nk,nij->kij", weight, precision) + ridge
        centres = torch.linalg.solve(left, (weight.T @ right)[..., None])[..., 0]
    return Classes(centres, shares, ClassPosterior(log_weight.float()), level)
