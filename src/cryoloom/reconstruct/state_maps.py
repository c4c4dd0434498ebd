"""Sharp maps of single conformations: kernel regression over the images whose latents lie near a point.

The mean of a few near images is noisy, that of many is blurred by motion. How many images serve best is measured shell
by shell, by cross-validation between half sets (Gilles & Singer 2024, RECOVAR, section 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.dispatch import Samples
from cryoloom.maps.fsc import crossing, fourier_shell_correlation, half_space, resolution_angstrom
from cryoloom.physics.fourier import rebox
from cryoloom.reconstruct.backprojection import Statistics, accumulate, solve, ssnr_of_sum
from cryoloom.reconstruct.feed import ImageFeed

BATCH = 500  # images at once
LEAST_IMAGES = 60  # in the narrowest neighbourhood,
LEAST_PART = 40  # ... or the set divided by this
WIDEN = 1.6  # from one neighbourhood to the next
SMOOTH = 2  # shells to either side over which errors are summed before they are compared


@dataclass(frozen=True)
class StateMap:
    """A map of one conformation.

    Attributes:
        combined: [D, D, D], Wiener-filtered by shell; halves: its unfiltered half maps.
        fsc: [S], of the halves within the mask, by shell.
        images: [S], how many images each shell was made of; nearest: [n] rows, by distance, of the largest of these.
    """

    combined: Tensor
    halves: tuple[Tensor, Tensor]
    fsc: Tensor
    images: Tensor
    nearest: np.ndarray

    def resolution_angstrom(self, pixel_size: float) -> float | None:
        """Where the halves agree to 0.143; None where they never do."""
        shell = float(crossing(torch.cat([self.fsc.double(), torch.zeros(1).double()]), 0.143))
        return resolution_angstrom(shell, len(self.combined), pixel_size)


def latent_distance(latents: LatentPosterior, z: Float[Tensor, " Z"]) -> Float[Tensor, " N"]:
    """Expected squared distance of each image from a point of the latent space, in units of the usual uncertainty.

    Images of which little is known (junk, say) are far from everywhere.
    """
    offset, covariance = latents.mean.double() - z.double(), latents.covariance.double()
    usual = covariance.median(0).values
    usual = 0.5 * (usual + usual.T)
    values, vectors = torch.linalg.eigh(usual)
    metric = (vectors / values.clamp(min=1e-6 * float(values.max()) + 1e-12)) @ vectors.T
    return torch.einsum("ni,ij,nj->n", offset, metric, offset) + torch.einsum("ij,nji->n", metric, covariance)


def state_map(
    feed: ImageFeed, poses: PosePosterior, half: np.ndarray, noise: Float[Tensor, "G S"], mask: Float[Tensor, "D D D"],
    distance: Float[Tensor, " N"], most_part: float = 0.1,
) -> StateMap:  # fmt: skip
    """The map at a point of the latent space, given each image's distance from it.

    Args:
        poses: K = 1 for all N images; half: [N] of 0 and 1; mask: 0 to 1 in the working box.
        most_part: of the images that the widest neighbourhood may hold.
    """
    order = torch.argsort(distance, stable=True).numpy()
    return _regressed(feed, poses, half, noise, mask, order, neighbourhoods(len(feed), most_part))


def _regressed(
    feed: ImageFeed, poses: PosePosterior, half: np.ndarray, noise: Tensor, mask: Tensor, order: np.ndarray,
    counts: list[int],
) -> StateMap:  # fmt: skip
    """From the first images of an order, as many as serve each shell best."""
    radius = (feed.box - 1) // 2
    rings = [order[start:stop] for start, stop in zip((0, *counts), counts, strict=False)]
    mask = mask.to(feed.device)
    totals: list[Statistics | None] = [None, None]
    pairs, kept = [], []
    for ring in rings:
        totals = [_added(totals[h], feed, poses, ring[half[ring] == h], noise, radius) for h in (0, 1)]
        if totals[0] is None or totals[1] is None:
            raise ValueError("a half set has no images near this conformation; expected both halves to be mixed")
        pairs.append([rebox(solve(s, None, radius), feed.box) * mask for s in totals if s is not None])
        kept.append(totals[0] + totals[1])
    choice = _best_counts(pairs, radius)
    curves = [fourier_shell_correlation(a, b)[: radius + 1].float().cpu().clamp(min=0) for a, b in pairs]
    fsc = torch.stack([curves[int(c)][s] for s, c in enumerate(choice)])
    combined, halves = torch.zeros_like(pairs[0][0]), [torch.zeros_like(pairs[0][0]) for _ in range(2)]
    for c in torch.unique(choice).tolist():
        whole = rebox(solve(kept[c], ssnr_of_sum(curves[c]), radius), feed.box)
        combined += _shells_of(whole, choice == c)
        for h in (0, 1):
            halves[h] += _shells_of(pairs[c][h], choice == c)
    images = torch.tensor([counts[int(c)] for c in choice])
    return StateMap(combined.cpu(), (halves[0].cpu(), halves[1].cpu()), fsc, images, order[: int(images.max())])


def map_of_rows(
    feed: ImageFeed, poses: PosePosterior, half: np.ndarray, noise: Float[Tensor, "G S"], mask: Float[Tensor, "D D D"],
    rows: np.ndarray,
) -> StateMap:  # fmt: skip
    """The map of these images and no others; arguments as of `state_map`."""
    return _regressed(feed, poses, half, noise, mask, rows, [len(rows)])


def neighbourhoods(count: int, most_part: float) -> list[int]:
    """Sizes of the neighbourhoods that are tried, narrowest first."""
    sizes = [min(count, max(LEAST_IMAGES, count // LEAST_PART))]
    while sizes[-1] * WIDEN < most_part * count:
        sizes.append(round(sizes[-1] * WIDEN))
    return sizes


def _added(
    total: Statistics | None, feed: ImageFeed, poses: PosePosterior, rows: np.ndarray, noise: Tensor, radius: int
) -> Statistics | None:
    R, t = poses.best()
    for start in range(0, len(rows), BATCH):
        some = np.sort(rows[start : start + BATCH])
        index, device = torch.from_numpy(some), feed.device
        ones = torch.ones(len(some), device=device)
        samples = Samples(
            torch.arange(len(some), device=device), R[index].float().to(device).contiguous(),
            t[index].float().to(device).contiguous(), ones,
        )  # fmt: skip
        newest = accumulate(feed.images(some, radius, noise), samples, 4 * (radius + 2))
        total = newest if total is None else total + newest
    return total


def _best_counts(pairs: list[list[Tensor]], radius: int) -> Tensor:
    """For each shell the neighbourhood whose half map comes nearest to the other half's narrowest one, int64 [S].

    The latter is noisy but blurred least; its noise is the same for all that are compared with it.
    """
    reference = [torch.fft.rfftn(v) for v in pairs[0]]
    shells = half_space(pairs[0][0].shape[-1], pairs[0][0].device)[0]
    errors = []
    for pair in pairs:
        spectra = [torch.fft.rfftn(v) for v in pair]
        apart = (spectra[0] - reference[1]).abs().square() + (spectra[1] - reference[0]).abs().square()
        errors.append(torch.bincount(shells.reshape(-1), apart.reshape(-1).double())[: radius + 1])
    error = torch.stack(errors).cpu()
    summed = torch.nn.functional.avg_pool1d(error[:, None], 2 * SMOOTH + 1, 1, SMOOTH, count_include_pad=False)[:, 0]
    return summed.argmin(0)


def _shells_of(volume: Tensor, wanted: Tensor) -> Tensor:
    """The part of a map in the wanted shells, bool [S]; nothing beyond them."""
    shells = half_space(volume.shape[-1], volume.device)[0]
    kept = torch.cat([wanted, torch.zeros(1, dtype=torch.bool)]).to(volume.device)[shells.clamp(max=len(wanted)).long()]
    return torch.fft.irfftn(torch.fft.rfftn(volume) * kept, s=volume.shape)
