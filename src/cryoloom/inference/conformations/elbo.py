"""Evidence lower bound (ELBO) of images, which variational methods maximise (Kingma and Welling 2014), in nats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.inference.conformations.posterior import DiagonalGaussian
from cryoloom.kernels.images import Images
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.noise import log_likelihood
from cryoloom.volumes.interface import ConformationVolume, rotated_frequencies
from cryoloom.volumes.positional_mlp import PositionalMLP


@dataclass(frozen=True, slots=True)
class EvidenceBound:
    """Terms of the ELBO of B images.

    Attributes:
        log_likelihood: log p(X|z) in nats for one z drawn from q for each image, [B]; without the normalisation of the
            noise, which depends on its variance alone (`physics.noise.log_likelihood`).
        divergence: KL(q(z|X) || N(0, I)) in nats, [B].
        residual: |Y - X|^2 of each coefficient, [B, P], detached.
    """

    log_likelihood: Tensor
    divergence: Tensor
    residual: Tensor

    def loss(self, beta: float) -> Float[Tensor, " B"]:
        """Loss in nats: the negative bound for beta = 1; a smaller beta gives the prior less weight."""
        return beta * self.divergence - self.log_likelihood


def predicted_images(
    volume: ConformationVolume,
    images: Images,
    R: Float[Tensor, "B 3 3"],
    t: Float[Tensor, "B 2"],
    z: Float[Tensor, "B Z"],
) -> Complex[Tensor, "B P"]:
    """Predicted coefficients C e^{-2 pi i k.t} V(R k, z), t in angstrom."""
    disc = images.disc
    return images.ctf * shift_ramp(disc.k, t) * volume.slices(rotated_frequencies(disc.k, R), z)


def predicted_mean(
    volume: PositionalMLP, images: Images, R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]
) -> Complex[Tensor, "B P"]:
    """Coefficients predicted by the mean volume alone, C e^{-2 pi i k.t} mean(R k)."""
    disc = images.disc
    return images.ctf * shift_ramp(disc.k, t) * volume.mean_slices(rotated_frequencies(disc.k, R))


def evidence_bound(
    volume: ConformationVolume,
    images: Images,
    R: Float[Tensor, "B 3 3"],
    t: Float[Tensor, "B 2"],
    q: DiagonalGaussian,
    normal: Float[Tensor, "B Z"],
) -> EvidenceBound:
    """Estimate of the ELBO from one sample of z for each image; differentiable in all parameters.

    `normal` are standard normal numbers from which z is made. The mean over them is E_q[log p(X|z)] - KL, which equals
    the log evidence if q is the posterior.
    """
    predicted = predicted_images(volume, images, R, t, q.sample(normal))
    fit = log_likelihood(images.observed, predicted, images.variance[images.group], images.disc.weight)
    residual = (images.observed - predicted).detach().abs().square()
    return EvidenceBound(fit, q.divergence(), residual)


def some_coefficients(images: Images, chance: Float[Tensor, " P"], generator: torch.Generator) -> Images:
    """The same images at randomly drawn frequencies, weighted so that sums over frequencies keep their expectation.

    Neighbouring coefficients are largely redundant to a network, so more images with fewer frequencies each make better
    use of the same time.

    Args:
        chance: probability in (0, 1] of each frequency to be drawn; their sum is the number of frequencies drawn
            (systematic sampling).
    """
    disc = images.disc
    ticks = chance.double().cumsum(0).cpu() + torch.rand(1, generator=generator, dtype=torch.float64)
    kept = torch.nonzero(ticks.floor().diff(prepend=ticks.new_zeros(1)) > 0)[:, 0].to(disc.k.device)
    weight = disc.weight[kept] / chance[kept].to(disc.weight)
    smaller = FourierDisc(
        box=disc.box,
        pixel_size=disc.pixel_size,
        radius=disc.radius,
        index=disc.index[kept],
        k=disc.k[kept],
        weight=weight,
    )
    return Images(images.observed[:, kept], images.ctf[:, kept], images.variance[:, kept], images.group, smaller)


def chances(amplitude: Float[Tensor, " P"], count: int) -> Float[Tensor, " P"]:
    """Probabilities with which frequencies are drawn, about `count` in all.

    Half of the draws are uniform, half in proportion to `amplitude`, the expected amplitude of the gradients relative
    to that of the noise. All probabilities are 1 if there are no more than `count` frequencies.
    """
    P = len(amplitude)
    if count >= P:
        return torch.ones_like(amplitude)
    share = 0.5 / P + 0.5 * amplitude / amplitude.sum()
    low, high = 0.0, float(P) / count * 2
    for _ in range(40):
        middle = 0.5 * (low + high)
        filled = float((middle * count * share).clamp(max=1).sum()) < count
        low, high = (middle, high) if filled else (low, middle)
    return (high * count * share).clamp(max=1)
