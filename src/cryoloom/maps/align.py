"""Rigid alignment of one map onto another, and rigid motion of maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.maps.resample import FourierSampler, SplineVolume, half_sphere, voxel_points
from cryoloom.physics.fourier import fft3
from cryoloom.physics.rotations import exponential, geodesic_degrees, nearest_rotation, rotation_grid

COARSE_RADIUS = 8
FINE_RADIUS = 20
GRID_NSIDE = 4
# largest shift in the search, as a share of the box; refinement may go beyond
LARGEST_SHIFT = 0.15
CANDIDATES = 12


@dataclass(frozen=True, slots=True)
class Alignment:
    """fixed(x) ~ moving'(R^T (x - t)), x from the centre D // 2, moving' = `mirrored(moving)` where `hand`.

    Attributes:
        R: rotation, float64 [3, 3]. t: shift in angstrom (x, y, z), float64 [3].
        hand: whether the moving map is mirrored first.
        correlation: Pearson correlation of the maps after the move, both low-passed to `radius`.
        radius: highest shell compared, Fourier pixels.
    """

    R: Tensor
    t: Tensor
    hand: bool
    correlation: float
    radius: int


def mirrored(volume: Float[Tensor, "*b D D D"]) -> Float[Tensor, "*b D D D"]:
    """The map of opposite hand, V(-x) about the centre D // 2, for odd and even boxes."""
    out = volume.flip((-3, -2, -1))
    return out if volume.shape[-1] % 2 else out.roll((1, 1, 1), (-3, -2, -1))


def apply_rigid(
    volume: Float[Tensor, "D D D"],
    R: Float[Tensor, "3 3"],
    t: Float[Tensor, "3"] | None = None,
    pixel_size: float = 1.0,
) -> Float[Tensor, "D D D"]:
    """The volume rotated by R about the centre D // 2 and then shifted by t: out(x) = volume(R^T (x - t)).

    Content at x moves to R x + t. Cubic splines on a twofold finer grid: relative error about 1e-3. Frequencies
    beyond the sphere of Nyquist are lost; values from outside the box are 0.

    Args:
        R: rotation of vectors (x, y, z).
        t: shift (x, y, z) in the unit of `pixel_size`: angstrom if that is given, else voxels.
    """
    R = R.to(volume)
    points = voxel_points(volume.shape[-1], volume.dtype, volume.device)
    if t is not None:
        points = points - t.to(volume) / pixel_size
    return SplineVolume.create(volume).sample(points @ R)


def apply_alignment(moving: Float[Tensor, "D D D"], move: Alignment, pixel_size: float) -> Float[Tensor, "D D D"]:
    """The moving map in the frame of the fixed one."""
    return apply_rigid(mirrored(moving) if move.hand else moving, move.R, move.t, pixel_size)


def align_maps(
    moving: Float[Tensor, "D D D"],
    fixed: Float[Tensor, "D D D"],
    pixel_size: float,
    hands: bool = True,
) -> Alignment:
    """Rigid transformation (and hand) that aligns one map with another of the same box and pixel size.

    A 15-degree grid of rotations times shifts up to 0.15 D is searched on shells 1 .. 8, the best are refined there
    and on shells up to 20 by Gauss-Newton steps on rotation and shift with analytic derivatives. Shells are weighted
    by the inverse root of their power, in the last steps by their signal-to-noise ratio from the FSC of the two maps;
    the start and hand with the highest mutual information of the two maps are chosen. Noise outside the molecule
    reduces the accuracy: mask the maps first.

    Raises:
        ValueError: for maps that are not cubes of one side, or empty.
    """
    if moving.ndim != 3 or moving.shape != fixed.shape or len(set(moving.shape)) != 1:
        raise ValueError(f"alignment needs two cubes of one side; found {tuple(moving.shape)} and {tuple(fixed.shape)}")
    if not (moving.any() and fixed.any()):
        raise ValueError("alignment of an empty map: all its values are 0")
    box = moving.shape[-1]
    coarse, fine = (min(r, (box - 1) // 2 - 1) for r in (COARSE_RADIUS, FINE_RADIUS))
    sampler = FourierSampler.create(moving, fine)
    target = fft3(fixed.float())
    match = _Match.create(sampler, target, coarse, box)
    starts = [_search(match, conjugate) for conjugate in ((False, True) if hands else (False,))]
    found = []
    for hand, (R, t) in enumerate(starts):
        R, t, score = _refine(match, R, t, bool(hand), steps=8)
        for i in _distinct(R, score)[:3]:
            found.append((float(score[i]), bool(hand), R[i : i + 1], t[i : i + 1]))
    found.sort(key=lambda f: -f[0])
    polished = []
    full = _Match.create(sampler, target, fine, box)
    for _, hand, R, t in found[:4]:
        R, t = _polished(full, R, t, hand)
        polished.append((full.information(R, t, hand), hand, R, t))
    _, hand, R, t = max(polished, key=lambda f: f[0])
    return _aligned(full, R, t, hand, pixel_size, fine)


def refine_alignment(
    moving: Float[Tensor, "D D D"],
    fixed: Float[Tensor, "D D D"],
    pixel_size: float,
    R: Float[Tensor, "3 3"],
    radius: int = FINE_RADIUS,
) -> Alignment:
    """The alignment near a rotation that is known to a few degrees; the shift is found, from none, as well.

    Steps as in `align_maps`: on shells 1 .. 8, then up to `radius` with weights from the FSC of the two maps.
    """
    box = moving.shape[-1]
    coarse, fine = (min(r, (box - 1) // 2 - 1) for r in (min(COARSE_RADIUS, radius), radius))
    sampler, target = FourierSampler.create(moving, fine), fft3(fixed.float())
    R, t = R[None].to(target.real), torch.zeros(1, 3, device=target.device)
    R, t, _ = _refine(_Match.create(sampler, target, coarse, box), R, t, False, steps=8)
    full = _Match.create(sampler, target, fine, box)
    R, t = _polished(full, R, t, False)
    return _aligned(full, R, t, False, pixel_size, fine)


@dataclass(frozen=True, slots=True)
class _Match:
    """Coefficients Y of the fixed map at half-sphere frequencies q, their weights, and the map to be aligned."""

    sampler: FourierSampler
    q: Tensor
    observed: Tensor
    weight: Tensor
    shell: Tensor
    box: int

    @staticmethod
    def create(sampler: FourierSampler, target: Tensor, radius: int, box: int) -> _Match:
        q = half_sphere(radius, target.device)
        x, y, z = (q.long() + box // 2).unbind(-1)
        observed = target[z, y, x]
        shell = q.norm(dim=-1).round().long()
        power = _shell_mean(observed.abs().square(), shell) * _shell_mean(sampler.at(q).abs().square(), shell)
        # flattened halfway: low shells alone are too smooth to tell rotations apart, high ones alone are noise
        weight = 1 / (power**0.25 + 1e-12 * float(power.max()) ** 0.25)
        return _Match(sampler=sampler, q=q, observed=observed, weight=weight[shell], shell=shell, box=box)

    def plain(self) -> _Match:
        return _Match(
            sampler=self.sampler,
            q=self.q,
            observed=self.observed,
            weight=torch.ones_like(self.weight),
            shell=self.shell,
            box=self.box,
        )

    def fsc(self, R: Tensor, t: Tensor, hand: bool) -> tuple[Tensor, Tensor, Tensor]:
        """FSC of the moved with the fixed map, number of coefficients and geometric mean of the powers, by shell."""
        X = self.model(R, t, hand)[0][0]
        cross = _shell_mean((X.conj() * self.observed).real, self.shell)
        power, other = (_shell_mean(v.abs().square(), self.shell) for v in (self.observed, X))
        mean = (power * other).sqrt().clamp(min=1e-30)
        return (cross / mean).clamp(-0.98, 0.98), torch.bincount(self.shell), mean

    def weighted_by_fsc(self, R: Tensor, t: Tensor, hand: bool) -> _Match:
        """Weights FSC / (1 - FSC) / power: least squares then weights coefficients by signal-to-noise ratio.

        Shells whose FSC is within two standard deviations of noise get no weight.
        """
        fsc, count, power = self.fsc(R, t, hand)
        fsc = torch.where(fsc > 2 / (2 * count.clamp(min=1)).sqrt(), fsc, 0.0)
        if not fsc.any():
            return self
        weight = fsc / (1 - fsc) / power
        return _Match(
            sampler=self.sampler,
            q=self.q,
            observed=self.observed,
            weight=weight[self.shell],
            shell=self.shell,
            box=self.box,
        )

    def information(self, R: Tensor, t: Tensor, hand: bool) -> float:
        """Mutual information in nats of the moved and the fixed map as Gaussians: their likelihood ratio."""
        fsc, count, _ = self.fsc(R, t, hand)
        return float(-0.5 * (2 * count * torch.log1p(-fsc.clamp(min=0).square())).sum() / 2)

    def model(self, R: Tensor, t: Tensor, hand: bool) -> tuple[Tensor, Tensor]:
        """X = F(R^T q) e^{-2 pi i q.t / D} [B, P] of the moving map (F* for its mirror image), and the ramp."""
        X = self.sampler.at(torch.einsum("bji,pj->bpi", R, self.q))
        ramp = _ramp(self.q, t, self.box)
        return (X.conj() if hand else X) * ramp, ramp

    def score(self, X: Tensor, _: Tensor) -> Tensor:
        """Weighted correlation [B] with the fixed map."""
        w, Y = self.weight, self.observed
        norm = ((w * X.abs().square()).sum(-1) * (w * Y.abs().square()).sum()).sqrt()
        return (w * (X.conj() * Y).real).sum(-1) / norm.clamp(min=1e-30)


def _shell_mean(values: Tensor, shell: Tensor) -> Tensor:
    count = torch.bincount(shell).clamp(min=1)
    return torch.zeros(len(count), dtype=values.dtype, device=values.device).index_add_(0, shell, values) / count


def _ramp(q: Tensor, t: Tensor, box: int) -> Tensor:
    phase = (-2 * math.pi / box) * t @ q.T
    return torch.complex(torch.cos(phase), torch.sin(phase))


def _search(match: _Match, hand: bool, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """Best rotations of the grid with their best shifts (voxels): [K, 3, 3], [K, 3]."""
    device = match.q.device
    R = rotation_grid(GRID_NSIDE).float().to(device)
    # steps of a third of the shortest wavelength in the search
    step = match.box / (3.0 * int(match.shell.max()))
    count = math.ceil(LARGEST_SHIFT * match.box / step)
    axis = torch.arange(-count, count + 1, device=device) * step
    shifts = torch.cartesian_prod(axis, axis, axis)
    # Re sum conj(F e^{-i a}) Y w = Re sum conj(F) (e^{+i a} Y w): shift the fixed map
    fixed = torch.view_as_real(match.observed * match.weight * _ramp(match.q, -shifts, match.box)).flatten(1).T
    best, where = [], []
    for part in R.split(chunk):
        F = match.sampler.at(torch.einsum("bji,pj->bpi", part, match.q))
        F = F.conj().resolve_conj() if hand else F
        norm = (match.weight * F.abs().square()).sum(-1).sqrt()
        value, index = (torch.view_as_real(F).flatten(1) @ fixed).max(-1)
        best.append(value / norm.clamp(min=1e-30))
        where.append(index)
    score, index = torch.cat(best), torch.cat(where)
    keep = score.topk(min(CANDIDATES, len(score))).indices
    return R[keep], shifts[index[keep]]


def _refine(match: _Match, R: Tensor, t: Tensor, hand: bool, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Levenberg-Marquardt on rotation and shift of B candidates; a step is kept where the correlation grows."""
    damping = torch.full((len(R),), 1e-2, device=R.device)
    score = match.score(*match.model(R, t, hand))
    for _ in range(steps):
        J, residual = _jacobian(match, R, t, hand)
        A = torch.einsum("p,bpi,bpj->bij", match.weight + 0j, J.conj(), J).real
        b = torch.einsum("p,bpi,bp->bi", match.weight + 0j, J.conj(), residual).real
        diagonal = A.diagonal(dim1=-2, dim2=-1)
        A = A + torch.diag_embed(damping[:, None] * diagonal + 1e-12 * diagonal.amax(-1, keepdim=True) + 1e-30)
        step = torch.linalg.solve(A, b)
        new_R, new_t = exponential(step[:, :3]) @ R, t + step[:, 3:]
        new_score = match.score(*match.model(new_R, new_t, hand))
        better = new_score > score
        R = torch.where(better[:, None, None], new_R, R)
        t = torch.where(better[:, None], new_t, t)
        score = torch.where(better, new_score, score)
        damping = torch.where(better, damping / 5, damping * 10)
    return R, t, score


def _polished(match: _Match, R: Tensor, t: Tensor, hand: bool) -> tuple[Tensor, Tensor]:
    """A candidate refined with weights from the FSC of the two maps, which are renewed once."""
    for _ in range(2):
        R, t, _ = _refine(match.weighted_by_fsc(R, t, hand), R, t, hand, steps=4)
    return R, t


def _aligned(match: _Match, R: Tensor, t: Tensor, hand: bool, pixel_size: float, radius: int) -> Alignment:
    correlation = float(match.plain().score(*match.model(R, t, hand))[0])
    return Alignment(nearest_rotation(R[0].double()), t[0].double() * pixel_size, hand, correlation, radius)


def _jacobian(match: _Match, R: Tensor, t: Tensor, hand: bool) -> tuple[Tensor, Tensor]:
    """d(a X)/d(omega, t) [B, P, 6] for R <- exp[omega] R, and Y - a X at the best scale a."""
    F, slope = match.sampler.at_with_gradient(torch.einsum("bji,pj->bpi", R, match.q))
    F, slope = (F.conj(), slope.conj()) if hand else (F, slope)
    ramp = _ramp(match.q, t, match.box)
    X = F * ramp
    w, Y = match.weight, match.observed
    scale = (w * (X.conj() * Y).real).sum(-1) / (w * X.abs().square()).sum(-1).clamp(min=1e-30)
    # dq = -R^T (omega x k), so dX = -omega . (k x R grad F)
    turned = torch.einsum("bij,bpj->bpi", R + 0j, slope) * ramp[..., None]
    rotation = -torch.linalg.cross(match.q.expand(turned.shape) + 0j, turned)
    shift = (-2j * math.pi / match.box) * match.q * X[..., None]
    return torch.cat([rotation, shift], -1) * scale[:, None, None], Y - scale[:, None] * X


def _distinct(R: Tensor, score: Tensor, apart_degrees: float = 5.0) -> list[int]:
    """Indices in the order of score, leaving out those within a few degrees of a better one."""
    kept: list[int] = []
    for i in score.argsort(descending=True).tolist():
        if all(float(geodesic_degrees(R[i], R[j])) > apart_degrees for j in kept):
            kept.append(i)
    return kept
