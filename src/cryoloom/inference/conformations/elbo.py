"""What variational methods maximise: a lower bound of the log evidence of images (Kingma and Welling 2014), in nats."""

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
    """Of B images.

    Attributes:
        log_likelihood: [B], log p(X|z) of one z drawn from q for each, nats; without the normalisation of the noise,
            which depends on its variance alone (`physics.noise.log_likelihood`).
        divergence: [B], KL(q(z|X) || N(0, I)), nats.
        residual: [B, P], |Y - X|^2 of each coefficient, detached.
    """

    log_likelihood: Tensor
    divergence: Tensor
    residual: Tensor

    def loss(self, beta: float) -> Float[Tensor, " B"]:
        """What is minimised, nats: with beta = 1 the bound's negative; less weighs the prior less."""
        return beta * self.divergence - self.log_likelihood


def predicted_images(
    volume: ConformationVolume,
    images: Images,
    R: Float[Tensor, "B 3 3"],
    t: Float[Tensor, "B 2"],
    z: Float[Tensor, "B Z"],
) -> Complex[Tensor, "B P"]:
    """C e^{-2 pi i k.t} V(R k, z), t in angstrom."""
    disc = images.disc
    return images.ctf * shift_ramp(disc.k, t) * volume.slices(rotated_frequencies(disc.k, R), z)


def predicted_mean(
    volume: PositionalMLP, images: Images, R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]
) -> Complex[Tensor, "B P"]:
    """C e^{-2 pi i k.t} mean(R k), what is known before any conformation is."""
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
    """The bound by one sample of z an image, made of standard normal numbers; differentiable in all that is learnt.

    Its mean over `normal` is E_q[log p(X|z)] - KL: the log evidence where q is the posterior.
    """
    predicted = predicted_images(volume, images, R, t, q.sample(normal))
    fit = log_likelihood(images.observed, predicted, images.variance[images.group], images.disc.weight)
    residual = (images.observed - predicted).detach().abs().square()
    return EvidenceBound(fit, q.divergence(), residual)


def some_coefficients(images: Images, chance: Float[Tensor, " P"], generator: torch.Generator) -> Images:
    """The same images at frequencies drawn anew, weighted so that sums over them keep their expectation.

    Neighbouring coefficients tell a network much the same: more images at fewer frequencies each are the better use
    of the same time.

    Args:
        chance: of each frequency to be among them, in (0, 1]; their sum is how many are drawn (systematic sampling).
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
    """Of frequencies to be drawn, about `count` in all: half of them alike, half in proportion to the amplitude (over
    that of the noise) which gradients from there are expected to have; 1 where there are no more than `count`."""
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
