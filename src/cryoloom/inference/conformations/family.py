"""A linear family in standard form: coordinates of unit variance, orthogonal components, halves that agree.

A family is volumes V_0 .. V_Z, [Z + 1, m, m, m], the mean first and its components after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.linear import InferredLatents

LEAST_CONTRAST = 0.5  # images below show no particle
NEIGHBOURHOOD = 1.5  # standard deviation of local averages, voxels of the band-limited box


@dataclass(frozen=True)
class Population:
    """Sums over images of E[z] [Z] and E[z z^T] [Z, Z], their number, and E[a], E[a^2] of their contrasts."""

    count: int
    z: Tensor
    zz: Tensor
    contrast: tuple[Tensor, ...]
    contrast_square: tuple[Tensor, ...]

    @property
    def contrast_sigma(self) -> float:
        """Standard deviation of the contrasts of images that show a particle, in units of their mean."""
        a, aa = torch.cat(self.contrast).double(), torch.cat(self.contrast_square).double()
        seen = a > LEAST_CONTRAST
        if not seen.any():
            return 0.0
        mean = a[seen].mean()
        return float((aa[seen].mean() - mean.square()).clamp(min=0).sqrt() / mean)

    @staticmethod
    def empty(components: int) -> Population:
        """Sums over no images."""
        return Population(0, torch.zeros(components).double(), torch.zeros(components, components).double(), (), ())

    @staticmethod
    def of(found: InferredLatents) -> Population:
        """Sums over some images."""
        latents = found.latents
        mean = latents.mean.double().cpu()
        square = latents.covariance.double().cpu().sum(0) + mean.T @ mean
        return Population(len(mean), mean.sum(0), square, (latents.contrast.cpu(),), (found.second[:, 0].cpu(),))

    def __add__(self, other: Population) -> Population:
        return Population(
            self.count + other.count,
            self.z + other.z,
            self.zz + other.zz,
            (*self.contrast, *other.contrast),
            (*self.contrast_square, *other.contrast_square),
        )


def standardised(volumes: Tensor, population: Population) -> Tensor:
    """The same family in coordinates whose population has mean 0 and covariance 1, and contrasts around 1.

    EM alone converges to these slowly; the step is that of parameter-expanded EM (Liu, Rubin & Wu 1998).
    """
    mean = population.z / population.count
    spread = population.zz / population.count - mean[:, None] * mean
    root = torch.linalg.cholesky(spread + 1e-9 * torch.eye(len(mean)).double()).to(volumes)
    base, components = volumes[0], volumes[1:]
    scale = float(torch.cat(population.contrast).median())
    base = base + torch.einsum("j,jzyx->zyx", mean.to(volumes), components)
    return scale * torch.cat([base[None], torch.einsum("ji,jzyx->izyx", root, components)])


def principal(volumes: Tensor) -> Tensor:
    """The same family with orthogonal components, largest first."""
    flat = volumes[1:].flatten(1)
    if len(flat) == 0:
        return volumes
    _, U = torch.linalg.eigh((flat @ flat.T).double())
    turned = U.flip(1).T.to(flat) @ flat
    return torch.cat([volumes[:1], turned.reshape(volumes[1:].shape)])


def aligned(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both families with the first's principal components in order, the second's turned to agree with them."""
    first = principal(first)
    if len(first) == 1:
        return first, second
    overlap = first[1:].flatten(1) @ second[1:].flatten(1).T
    U, _, Vt = torch.linalg.svd(overlap.double())
    turned = (U @ Vt).to(second) @ second[1:].flatten(1)
    return first, torch.cat([second[:1], turned.reshape(second[1:].shape)])


def localised(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both families with their components damped where the halves do not agree: often only a small part moves.

    A Wiener filter in space: the power of the halves' mean, averaged over a few voxels, estimates signal plus noise,
    and that of half their difference estimates noise.
    """
    if len(first) == 1:
        return first, second
    weight = local_weight(first[1:], second[1:])
    return tuple(torch.cat([v[:1], v[1:] * weight]) for v in (first, second))  # type: ignore[return-value]


def local_weight(first: Float[Tensor, "Z m m m"], second: Float[Tensor, "Z m m m"]) -> Float[Tensor, "Z m m m"]:
    """Share of the local power of each component that its halves have in common, 0 to 1."""
    both = _smooth((0.5 * (first + second)).square())
    apart = _smooth((0.5 * (first - second)).square())
    return (1 - apart / both.clamp(min=1e-30)).clamp(0, 1)


def _smooth(values: Float[Tensor, "Z m m m"]) -> Tensor:
    width = 2 * round(2 * NEIGHBOURHOOD) + 1
    x = torch.arange(width, dtype=values.dtype, device=values.device) - width // 2
    kernel = torch.exp(-0.5 * (x / NEIGHBOURHOOD).square())
    kernel = kernel / kernel.sum()
    out = values[:, None]
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], pad[axis] = width, width // 2
        out = torch.nn.functional.conv3d(out, kernel.reshape(shape), padding=pad)
    return out[:, 0]
