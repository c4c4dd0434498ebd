"""Scale and sign of a map from elsewhere, by the likelihood of images summed over all their poses.

With c = Re sum w Y e^{+2 pi i k.t} C conj V(Rk) and n = sum w C^2 |V(Rk)|^2, an image of the map a V has the ratio
log p(Y | a V) - log p(Y | nothing) = log mean over poses of exp(a c - a^2 n / 2), whose maximum over a is sought.
Unlike the images' power, it is not misled by backgrounds: they do not look like the map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.grids import cached_rotation_grid, shift_grid
from cryoloom.inference.poses.search import FIRST_SIGMA, Reference, Scores, shift_prior, slice_reference, weighted
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.noise import shell_means, spread_shells

# radius of the comparison, in Fourier pixels of a box as large as the particle: on a grid of 20 degrees the scale comes
# out 4 to 8 % too small there (ribosome, SNR 0.1; CFTR with a real set's nuisances), at 6.0 up to 13 %
LEVEL, NSIDE = 4.5, 3
REACH = 2.7  # standard deviations of shifts that are searched
STEP = 1 / 3  # between shifts, in wavelengths at the rim
SAMPLES = (200, 800)  # images compared; the second number where the first leaves a doubt
SCANNED = 100  # images compared at all scales, of which the fit uses more
CHUNK = 20  # images compared at once
LEAST_POWER = 0.25  # of the smallest scale scanned, nats an image: below, nothing could be told from it
LEAST_NOISE = 0.5  # of the noise measured beside the particles, or of the images' power where that is smaller
SURE_NATS, SURE_SIGMA = 8.0, 3.0  # log-likelihood ratio, and standard errors, that settle a question
OCTAVES, SETTLED = 0.25, 0.02  # spacing of scales in the fit, and change after which it ends
MOST_ITERATIONS = 10


@dataclass(frozen=True, slots=True)
class MapScale:
    """What was found of a map's scale.

    Attributes:
        factor: number by which the map is multiplied, negative where its contrast is the opposite of the images'.
        gain_nats: log-likelihood ratio of an image with the map to that without, mean over the images compared.
        sign_known: whether the images tell the sign; if not, that of the map is kept.
    """

    factor: float
    gain_nats: float
    sign_known: bool


def fit_scale(feed: ImageFeed, volume: Float[Tensor, "m m m"]) -> MapScale | None:
    """The scale of a map that makes images most likely; None if at no scale they are more likely than without the map.

    Args:
        volume: in the images' field of view, of any scale and sign, band-limited by its box (`Band`), on the feed's
            device.
    """
    radius = min(Band.of_box(volume.shape[-1]).radius, feed.radius_of(LEVEL))
    unit = float(volume.square().mean().sqrt())
    if not unit > 0 or not math.isfinite(unit):
        return None
    found = None
    for count in SAMPLES:
        rows = _spread(len(feed), count)
        found = _Comparison.of(feed, volume / unit, radius, rows).fit()
        if (found is not None and found.sign_known) or len(rows) == len(feed):
            break
    return None if found is None else replace(found, factor=found.factor / unit)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Some images and the slices of a map.

    Attributes:
        prior: log of the prior over shifts, normalised over all poses, [T].
        power: power of the images over the noise measured beside the particles, by shell, [S]; signal: that of the map.
    """

    images: Images
    reference: Reference
    shifts: Tensor
    prior: Tensor
    power: Tensor
    signal: Tensor

    @staticmethod
    def of(feed: ImageFeed, volume: Tensor, radius: int, rows: np.ndarray) -> _Comparison:
        images = feed.images(rows, radius, feed.noise)
        half = volume_to_half(rebox(volume, Band(radius).box).contiguous())
        reference = slice_reference(half, cached_rotation_grid(NSIDE), images.disc)
        sigma = FIRST_SIGMA * feed.field_of_view
        step = STEP * feed.field_of_view / radius
        shifts = shift_grid(step, max(REACH * sigma, 1.01 * step)).to(feed.device)
        prior = shift_prior(shifts, sigma)
        variance = images.variance[images.group]
        seen = images.observed.abs().square() / variance
        drawn = images.ctf.square() / variance * reference.power.mean(0)
        return _Comparison(
            images,
            reference,
            shifts,
            prior - prior.logsumexp(0) - math.log(len(reference.grid.R)),
            power=shell_means(seen.mean(0), images.disc),
            signal=shell_means(drawn.mean(0), images.disc),
        )

    def fit(self) -> MapScale | None:
        """Sign and scale; the noise is what the images hold beside the map, at first all of it."""
        whole = self.power.clamp(min=1e-6)
        some = _spread(len(self.images), SCANNED)
        scales = self._scanned(whole)
        gains = self._gains(whole, [*scales, *(-s for s in scales)], some)
        best = gains.sum(1).reshape(2, -1).max(1)
        up, down = gains[best.indices[0]], gains[len(scales) + best.indices[1]]
        sign = -1.0 if _surely(down - up) else 1.0
        scale = sign * scales[int(best.indices[0 if sign > 0 else 1])]
        noise = whole
        for _ in range(MOST_ITERATIONS):
            before = scale
            scale = self._climbed(noise, scale)
            rest = self.power - scale**2 * self.signal
            noise = torch.maximum(rest, LEAST_NOISE * whole.clamp(max=1.0))
            if abs(math.log2(scale / before)) < SETTLED:
                break
        gain = self._gains(noise, [scale], np.arange(len(self.images)))[0]
        if not _surely(gain):
            return None
        return MapScale(scale, float(gain.mean()), _surely(down - up) or _surely(up - down))

    def _scanned(self, noise: Tensor) -> list[float]:
        """Scales in octaves: from too little power to be seen, to twice what the images hold."""
        disc = self.images.disc
        unit = float((disc.weight * spread_shells(self.signal / noise, disc)).sum())
        octaves = math.ceil(math.log2(2 * float(disc.weight.sum()) / LEAST_POWER) / 2)
        return [math.sqrt(LEAST_POWER / unit) * 2.0**k for k in range(octaves + 1)]

    def _climbed(self, noise: Tensor, scale: float) -> float:
        """The vertex of a parabola through log-likelihoods around a scale, or the best of them at the rim."""
        tried = scale * 2.0 ** (OCTAVES * np.arange(-2, 3))
        total = self._gains(noise, tried.tolist(), np.arange(len(self.images))).sum(1).numpy()
        k = int(np.argmax(total))
        if k in (0, len(tried) - 1):
            return float(tried[k])
        square, slope, _ = np.polyfit(tried[k - 1 : k + 2] / tried[k], total[k - 1 : k + 2], 2)
        return float(tried[k] * -slope / (2 * square))

    def _gains(self, noise: Tensor, scales: Sequence[float], rows: np.ndarray) -> Float[Tensor, "F B"]:
        """Log-likelihood ratios of images with the map at each scale to those without; `noise` [S] as `power`."""
        disc = self.images.disc
        variance = self.images.variance * spread_shells(noise, disc)
        images = replace(self.images, variance=variance)
        parts, scores = [], Scores(self.reference, self.shifts)
        for start in range(0, len(rows), CHUNK):
            part = torch.from_numpy(rows[start : start + CHUNK]).to(images.group.device)
            cross, norm = scores.whole(*weighted(images, part))
            parts.append(torch.stack([self._log_mean(s * cross, s * s * norm) for s in scales]))
        return torch.cat(parts, 1).double().cpu()

    def _log_mean(self, cross: Float[Tensor, "B T M"], norm: Float[Tensor, "B M"]) -> Float[Tensor, " B"]:
        """Log of the mean over all poses of the likelihood ratio; overwrites `cross`, as temporaries take the time."""
        cross += norm[:, None]
        cross += self.prior[:, None]
        most = cross.amax((1, 2))
        cross -= most[:, None, None]
        return cross.exp_().sum((1, 2)).log() + most


def _spread(total: int, count: int) -> np.ndarray:
    """At most `count` of `total` rows, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def _surely(differences: Float[Tensor, " B"]) -> bool:
    """Whether log-likelihood ratios of images are positive in sum, beyond their scatter among images."""
    total = float(differences.sum())
    scatter = float((differences - differences.mean()).square().sum().sqrt())
    return total > SURE_NATS and total > SURE_SIGMA * scatter
