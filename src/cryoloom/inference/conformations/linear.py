"""Latent coordinates of images in a linear family V(z) = V_0 + sum_j z_j V_j, z ~ N(0, I): probabilistic PCA.

Sources: Tipping & Bishop 1999; in cryo-EM Tagare et al. 2015, Punjani & Fleet 2021 (3DVA), and Gilles & Singer 2024
(RECOVAR), whose marginalisation over the contrast of each image is used here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.images import Images
from cryoloom.physics.image_model import shift_ramp

CONTRAST_STEPS = 41  # from no particle to twice the mean contrast


@dataclass(frozen=True, slots=True)
class Products:
    """Inner products of the slices of V_0 .. V_Z with each other and with the image, on which the likelihood depends.

    Attributes:
        gram: sum w C^2 Re S_i conj S_j, float64 [B, Z + 1, Z + 1].
        cross: sum w C Re Y conj S_i, float64 [B, Z + 1].
    """

    gram: Tensor
    cross: Tensor

    def truncated(self, components: int) -> Products:
        """Inner products of the mean and the first components alone."""
        n = components + 1
        return Products(self.gram[:, :n, :n], self.cross[:, :n])


@dataclass(frozen=True, slots=True)
class InferredLatents:
    """Posterior of latent coordinates and contrast a of B images.

    Attributes:
        latents: posterior of z.
        first, second: E[x] and E[x x^T] (upper triangle) of the mixture x = a (1, z) that each image shows.
        log_evidence: log p(Y) - log p(Y | no particle), [B].
    """

    latents: LatentPosterior
    first: Tensor
    second: Tensor
    log_evidence: Tensor


def products(
    grids: list[Complex[Tensor, "M M H"]], images: Images, R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]
) -> Products:
    """Inner products of images at known poses with slices of Z + 1 volumes."""
    slices, observed = whitened(grids, images, R, t)
    return Products((slices @ slices.mT).double(), torch.einsum("bqp,bp->bq", slices, observed).double())


def whitened(
    grids: list[Complex[Tensor, "M M H"]], images: Images, R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]
) -> tuple[Float[Tensor, "B Q P2"], Float[Tensor, "B P2"]]:
    """Slices times CTF and images shifted by -t, both divided by the noise; real and imaginary parts in turn."""
    root = (images.disc.weight / images.variance).sqrt()[images.group]
    slices = torch.stack([dispatch.slices(grid, R, images.disc) for grid in grids], 1) * (root * images.ctf)[:, None]
    observed = images.observed * shift_ramp(images.disc.k, -t) * root
    return torch.view_as_real(slices).flatten(2), torch.view_as_real(observed.contiguous()).flatten(1)


def contrast_prior(sigma: float) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
    """Grid of contrasts from 0 to 2 and the logs of their Gaussian prior weights around 1; 1 alone if sigma is 0."""
    if sigma <= 0:
        return torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    a = torch.linspace(0, 2, CONTRAST_STEPS, dtype=torch.float64)
    return a, torch.log_softmax(-0.5 * ((a - 1) / sigma) ** 2, 0)


def infer_latents(found: Products, contrast: Float[Tensor, " A"], log_prior: Float[Tensor, " A"]) -> InferredLatents:
    """Posterior of z and contrast, with the contrast summed over its grid.

    In the eigenbasis of the Gram matrix of an image, the precision 1 + a^2 lambda is diagonal for every contrast a.
    """
    a, log_prior = contrast.to(found.gram), log_prior.to(found.gram)
    g00, g0, b0, b = found.gram[:, 0, 0], found.gram[:, 0, 1:], found.cross[:, 0], found.cross[:, 1:]
    eigen, U = torch.linalg.eigh(found.gram[:, 1:, 1:])
    b, g0 = torch.einsum("bji,bj->bi", U, b), torch.einsum("bji,bj->bi", U, g0)
    h = a[:, None] * b[:, None] - a.square()[:, None] * g0[:, None]
    d = 1 + a.square()[:, None] * eigen.clamp(min=0)[:, None]
    mu = h / d
    log_p = a * b0[:, None] - 0.5 * a.square() * g00[:, None] + 0.5 * (h * mu).sum(2) - 0.5 * d.log().sum(2) + log_prior
    evidence = torch.logsumexp(log_p, 1)
    w = (log_p - evidence[:, None]).exp()

    def moments(power: int) -> tuple[Tensor, Tensor, Tensor]:
        """E[a^p], E[a^p z] and E[a^p z z^T]."""
        wa = w * a**power
        mean = torch.einsum("ba,baz->bz", wa, mu)
        square = torch.einsum("ba,bay,baz->byz", wa, mu, mu) + torch.diag_embed(torch.einsum("ba,baz->bz", wa, 1 / d))
        return wa.sum(1), torch.einsum("bij,bj->bi", U, mean), U @ square @ U.mT

    _, z, zz = moments(0)
    ea, eaz, _ = moments(1)
    eaa, eaaz, eaazz = moments(2)
    first = torch.cat([ea[:, None], eaz], 1)
    second = torch.cat([torch.cat([eaa[:, None], eaaz], 1)[:, None], torch.cat([eaaz[:, :, None], eaazz], 2)], 1)
    i, j = torch.triu_indices(first.shape[1], first.shape[1])
    latents = LatentPosterior(z.float(), (zz - z[:, :, None] * z[:, None]).float(), ea.float())
    return InferredLatents(latents, first.float(), second[:, i, j].float().contiguous(), evidence)


def infer_mixture(
    found: Products,
    points: Float[Tensor, "K Z"],
    shares: Float[Tensor, " K"],
    contrast: Float[Tensor, " A"],
    log_prior: Float[Tensor, " A"],
) -> tuple[Float[Tensor, "B Q"], Float[Tensor, "B T"]]:
    """E[x] and E[x x^T] (upper triangle) of x = a (1, z), z one of K points (see `InferredLatents`)."""
    x = torch.cat([torch.ones(len(points), 1), points.cpu()], 1).to(found.gram)
    a = contrast.to(found.gram)
    cross, power = found.cross @ x.T, torch.einsum("ki,bij,kj->bk", x, found.gram, x)
    log_p = a * cross[..., None] - 0.5 * a.square() * power[..., None] + log_prior.to(a)
    log_p = log_p + shares.to(a).clamp(min=1e-12).log()[:, None]
    w = torch.softmax(log_p.flatten(1), 1).reshape(log_p.shape)
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    first = (w * a).sum(2) @ x
    second = torch.einsum("bk,kt->bt", (w * a.square()).sum(2), x[:, i] * x[:, j])
    return first.float(), second.float().contiguous()
