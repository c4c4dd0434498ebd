"""Images beside what the map predicts of them: the plainest test of poses, CTF, contrast and hand of the convention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.particles.particle_set import ParticleSet
from cryoloom.physics.ctf import evaluate_ctf
from cryoloom.physics.fourier import resize_real
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import predict
from cryoloom.physics.slicing import volume_to_grid
from cryoloom.report.map_views import MapView

SIDE = 64
SHOWN = 6
# the contrast is that of this many images together
_VOTERS = 96
# places in the order of likelihood: the very last ones may be broken images that show nothing about the run
_QUANTILES = (0.02, 0.2, 0.4, 0.6, 0.8, 0.98)


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its reprojection, float32 [m, m], in the contrast of the map; y rises with the row.

    Attributes:
        row: of the particle in the file, from 1; name: of the image there.
        rank: share of particles with a smaller log-likelihood; log_likelihood, angular_error_degrees: None if unknown.
        correlation: within the circle of the particle, of the two pictures as shown.
    """

    row: int
    name: str
    rank: float
    log_likelihood: float | None
    angular_error_degrees: float | None
    image: np.ndarray
    reprojection: np.ndarray
    correlation: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """The chosen pairs, low-passed to `low_pass_angstrom`; `inverted` where the particles in the file are black."""

    pairs: tuple[Pair, ...]
    low_pass_angstrom: float
    inverted: bool


def compare(
    particles: ParticleSet,
    view: MapView,
    resolution_angstrom: float | None,
    log_likelihood: np.ndarray | None,
    angular_error_degrees: np.ndarray | None,
    places: tuple[float, ...] = _QUANTILES,
) -> Pairs:
    """Particles spread over the log-likelihood (over the file where there is none), each beside its reprojection.

    Args:
        places: of the particles in the order of log-likelihood, from 0 to 1.

    Raises:
        BadInput: if poses or images can't be read.
    """
    poses = particles.input_poses()
    chosen, rank = _choose(len(particles), log_likelihood, places)
    voters = np.unique(np.linspace(0, len(particles) - 1, _VOTERS).astype(np.int64))
    rows = np.concatenate([chosen, voters])
    side, field, disc, finest = _shown_disc(particles, resolution_angstrom)
    soft = _low_pass(disc, finest)
    images = disc.transform(resize_real(torch.from_numpy(particles.read(rows)), side, 2)) * soft
    grid = volume_to_grid(_fit(view, field, side))
    at = torch.from_numpy(rows)
    models = predict(grid, poses.R[at].float(), poses.t[at].float(), None, disc) * _transfer(particles, at, disc) * soft
    pictures, predicted = _pictures(images, disc), _pictures(models, disc)
    agreement = _correlation(pictures, predicted, side)
    sign = -1.0 if float(agreement[len(chosen) :].mean()) < 0 else 1.0
    pairs = tuple(
        Pair(
            row=int(particles.rows[row]) + 1,
            name=particles.table.image_name(row),
            rank=float(rank[i]),
            log_likelihood=_at(log_likelihood, row),
            angular_error_degrees=_at(angular_error_degrees, row),
            image=(sign * pictures[i]).numpy(),
            reprojection=predicted[i].numpy(),
            correlation=sign * float(agreement[i]),
        )
        for i, row in enumerate(chosen)
    )
    return Pairs(pairs, finest, sign < 0)


def low_passed(particles: ParticleSet, rows: np.ndarray, inverted: bool) -> Float[np.ndarray, "n m m"]:
    """Images as `compare` shows them, where no map is known.

    Raises:
        BadInput: if images can't be read.
    """
    side, _, disc, finest = _shown_disc(particles, None)
    images = disc.transform(resize_real(torch.from_numpy(particles.read(rows)), side, 2)) * _low_pass(disc, finest)
    return (-1.0 if inverted else 1.0) * _pictures(images, disc).numpy()


def _shown_disc(particles: ParticleSet, resolution_angstrom: float | None) -> tuple[int, float, FourierDisc, float]:
    """Side and field of view of the pictures, their frequencies, and the resolution to which they are filtered."""
    side = min(SIDE, particles.box)
    field = particles.box * particles.pixel_size
    finest = max(2 * field / side, 1.5 * (resolution_angstrom or 0), field / 16)
    return side, field, FourierDisc.create(side, field / side), float(finest)


def _low_pass(disc: FourierDisc, finest: float) -> Float[Tensor, " P"]:
    return torch.exp(-np.log(2) * (disc.k.norm(dim=-1) * finest) ** 2)


def _choose(count: int, log_likelihood: np.ndarray | None, at: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    order = np.arange(count)
    if log_likelihood is not None:
        order = np.argsort(np.where(np.isfinite(log_likelihood), log_likelihood, -np.inf), kind="stable")
    places = np.unique(np.round(np.array(at) * (count - 1)).astype(np.int64))
    return order[places], places / max(count - 1, 1)


def _at(values: np.ndarray | None, row: int) -> float | None:
    return None if values is None or not np.isfinite(values[row]) else float(values[row])


def _fit(view: MapView, field_angstrom: float, side: int) -> Float[Tensor, "m m m"]:
    """The map on the images' grid of `side` pixels over their field of view.

    Raises:
        ValueError: for a map of another field of view.
    """
    own = view.box * view.pixel_size
    if abs(own / field_angstrom - 1) > 0.01:
        raise ValueError(
            f"map.mrc is {own:.1f} angstrom wide, the images of particles.star {field_angstrom:.1f}; expected the same"
        )
    return resize_real(view.small, side, 3)


def _transfer(particles: ParticleSet, rows: Tensor, disc: FourierDisc) -> Float[Tensor, "B P"]:
    ctf = evaluate_ctf(particles.ctf[rows], disc.k.double()).float()
    if particles.ctf_premultiplied:
        return ctf.square()
    return ctf.abs() if particles.phase_flipped else ctf


def _pictures(coefficients: Tensor, disc: FourierDisc) -> Float[Tensor, "B m m"]:
    full = torch.fft.ifftshift(disc.scatter(coefficients), dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(full).real, dim=(-2, -1))


def _correlation(a: Tensor, b: Tensor, side: int) -> Float[Tensor, " B"]:
    axis = (torch.arange(side) - side // 2).square()
    circle = (axis[:, None] + axis).sqrt() < 0.42 * side
    a, b = a[:, circle], b[:, circle]
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-30)
