"""Point-group symmetry of a map: finding its axes and centre, and imposing it.

The axes of a group are those of `physics.rotations.symmetry_group`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.maps.align import apply_rigid
from cryoloom.maps.mask import PEAK_SHARE, low_pass, radius_grid, without_radial_mean
from cryoloom.maps.resample import FourierSampler, SplineVolume, half_sphere, voxel_points
from cryoloom.physics.fourier import resize_real
from cryoloom.physics.rotations import exponential, from_euler, nearest_rotation, symmetry_group, view_grid

SEARCH_RADIUS = 8
AXIS_NSIDE = 16
SPIN_STEP_DEGREES = 4.0
_CANDIDATES = 6


@dataclass(frozen=True, slots=True)
class SymmetryAxes:
    """Position of symmetry axes in a map: `apply_rigid(volume, R, t, pixel_size)` moves them to the standard axes.

    Attributes:
        symmetry: name of the group.
        R: float64 [3, 3]. t: angstrom (x, y, z), float64 [3]; for Cn without a component along the axis.
        score: mean correlation of the map with its copies under the group (identity left out), over shells
            1 .. `radius` with each shell's power flattened to its root; 1 for a map that has the symmetry.
        radius: Fourier pixels.
    """

    symmetry: str
    R: Tensor
    t: Tensor
    score: float
    radius: int


def find_axes(
    volume: Float[Tensor, "D D D"], symmetry: str, pixel_size: float, max_radius_shell: int = 10
) -> SymmetryAxes:
    """Axes and centre of a symmetry in a map of any orientation that is off centre by up to a tenth of the box.

    The axis of highest order is searched over directions (3.7 degrees apart), then the spin about it, on shells 1 .. 8;
    the best are refined with the centre by Gauss-Newton steps that fit all copies to their mean, up to shell
    `max_radius_shell`. Choose it near the map's resolution: noise beyond costs accuracy. Mask the map first.

    Raises:
        ValueError: for C1, a name that is not a point group, a map that is not a cube, or an empty one.
    """
    group = symmetry_group(symmetry)
    if len(group) == 1:
        raise ValueError(f"symmetry {symmetry!r} has no axes to find; expected Cn with n > 1, Dn, T, O or I")
    problem = _Problem.create(volume, max_radius_shell)
    low = problem.within(SEARCH_RADIUS)
    return _solve(
        problem,
        low,
        symmetry=symmetry,
        group=group,
        pixel_size=pixel_size,
        scored=_axis_scores(low, _highest(group)[0]),
    )


def score_on_axes(volume: Float[Tensor, "D D D"], symmetry: str, radius: int) -> float:
    """Mean correlation of a map with its copies under a group about the standard axes through D // 2.

    As `SymmetryAxes.score`, with the radial means left out: there, any map agrees with its copies.

    Raises:
        ValueError: as `find_axes`.
    """
    group = symmetry_group(symmetry)
    if len(group) == 1:
        raise ValueError(f"symmetry {symmetry!r} has no copies; expected Cn with n > 1, Dn, T, O or I")
    problem = _Problem.create(without_radial_mean(volume.float()), radius)
    elements = group.to(problem.q)
    return _score(_copies(problem, elements, torch.eye(3).to(problem.q), -problem.offset), problem.weight)


def impose(volume: Float[Tensor, "D D D"], symmetry: str) -> Float[Tensor, "D D D"]:
    """Mean of the map's copies under the group about the standard axes through D // 2, by cubic splines.

    Density should lie within the sphere inscribed in the box: values rotated in from outside the box count as 0.
    """
    group = symmetry_group(symmetry)
    if len(group) == 1:
        return volume.clone()
    order, axis = _highest(group)
    # average over a cyclic subgroup, then over its cosets: fewer rotations than over the whole group at once
    cyclic = exponential(axis * (2 * math.pi / order) * torch.arange(order, dtype=torch.float64)[:, None])
    points = voxel_points(volume.shape[-1], volume.dtype, volume.device)
    for elements in (cyclic, _cosets(group, cyclic)):
        spline = SplineVolume.create(volume)
        volume = torch.stack([spline.sample(points @ g.to(volume)) for g in elements]).mean(0)
    return volume


@dataclass(frozen=True, slots=True)
class _Problem:
    """Transform of the map about its centre of mass (`offset`, voxels), frequencies q and their weights."""

    sampler: FourierSampler
    q: Tensor
    weight: Tensor
    box: int
    offset: Tensor

    @staticmethod
    def create(volume: Tensor, radius: int) -> _Problem:
        if volume.ndim != 3 or len(set(volume.shape)) != 1:
            raise ValueError(f"symmetry of a map of shape {tuple(volume.shape)}; expected a cube [D, D, D]")
        if not volume.any():
            raise ValueError("symmetry of an empty map: all its values are 0")
        box = volume.shape[-1]
        radius = min(max(radius, SEARCH_RADIUS), (box - 1) // 2 - 1)
        volume = volume.float()
        offset = _centre_of_mass(volume, radius)
        sampler = FourierSampler.create(_shifted(volume, offset), radius)
        q = half_sphere(radius, volume.device)
        shell = q.norm(dim=-1).round().long()
        power = torch.zeros(radius + 1, device=q.device).index_add_(0, shell, sampler.at(q).abs().square())
        power = (power / torch.bincount(shell).clamp(min=1))[shell]
        return _Problem(sampler, q, 1 / power.clamp(min=1e-12 * float(power.max())).sqrt(), box, offset)

    def within(self, radius: int) -> _Problem:
        keep = int((self.q.square().sum(-1) <= radius**2).sum())
        return _Problem(self.sampler, self.q[:keep], self.weight[:keep], self.box, self.offset)


def on_axes(
    volume: Float[Tensor, "D D D"], pixel_size: float, symmetry: str, radius: int
) -> tuple[Float[Tensor, "D D D"], float | None]:
    """The map turned onto the standard axes of its symmetry, which is then imposed.

    Args:
        radius: highest shell used to find the axes, Fourier pixels.

    Returns:
        The map, and its mean correlation with its symmetry copies before imposing; in C1 the map as it is, and None.
    """
    if len(symmetry_group(symmetry)) == 1:
        return volume, None
    box = volume.shape[-1]
    # upsampled twofold: splines need a map that is smooth on its grid
    fine = resize_real(volume.cpu(), 2 * box, 3)
    axes = find_axes(fine, symmetry, pixel_size / 2, radius)
    turned = impose(apply_rigid(fine, axes.R.float(), axes.t.float(), pixel_size / 2), symmetry)
    return resize_real(turned, box, 3).to(volume), axes.score


def _centre_of_mass(volume: Tensor, radius: int) -> Tensor:
    """Centre of mass of the density above a share of the peak, in voxels (x, y, z) from D // 2."""
    box = volume.shape[-1]
    smooth = low_pass(volume, box / radius) * (radius_grid(box, volume.dtype, volume.device) < 0.47 * box)
    solid = (smooth - PEAK_SHARE * smooth.max()).clamp(min=0)
    points = voxel_points(box, volume.dtype, volume.device)
    return (solid[..., None] * points).sum((0, 1, 2)) / solid.sum().clamp(min=1e-30)


def _shifted(volume: Tensor, offset: Tensor) -> Tensor:
    """V(x + offset), by a phase ramp."""
    box = volume.shape[-1]
    f = torch.fft.fftfreq(box, device=volume.device)
    h = torch.fft.rfftfreq(box, device=volume.device)
    x, y, z = offset.tolist()
    phase = 2 * math.pi * (f[:, None, None] * z + f[:, None] * y + h * x)
    return torch.fft.irfftn(torch.fft.rfftn(volume) * torch.polar(torch.ones_like(phase), phase), s=volume.shape)


def _highest(group: Tensor) -> tuple[int, Tensor]:
    """Order and direction of the axis of highest order (z where it is among them)."""
    vector = roma.rotmat_to_rotvec(group[1:])
    angle = vector.norm(dim=-1)
    axis = vector / angle[:, None]
    least = float(angle.min())
    rows = torch.nonzero(angle < least + 1e-6).flatten()
    row = rows[axis[rows, 2].abs().argmax()]
    return round(2 * math.pi / least), axis[row]


def _cosets(group: Tensor, subgroup: Tensor) -> Tensor:
    """One element r of each coset r H."""
    kept: list[Tensor] = []
    for g in group:
        if all((r.T @ g - subgroup).abs().amax((-2, -1)).min() > 1e-6 for r in kept):
            kept.append(g)
    return torch.stack(kept)


def _onto(directions: Tensor, axis: Tensor) -> Tensor:
    """Rotations [V, 3, 3] that take each direction onto `axis` by the shortest way."""
    cross = torch.linalg.cross(directions, axis.expand_as(directions))
    sine, cosine = cross.norm(dim=-1, keepdim=True), (directions * axis).sum(-1, keepdim=True)
    other = torch.tensor([1.0, 0, 0], dtype=axis.dtype) if abs(float(axis[0])) < 0.6 else torch.eye(3).to(axis)[1]
    safe = torch.where(sine > 1e-8, cross / sine.clamp(min=1e-30), torch.linalg.cross(axis, other).expand_as(cross))
    safe = safe / safe.norm(dim=-1, keepdim=True)
    return exponential(safe * torch.atan2(sine, cosine))


def _axis_scores(problem: _Problem, order: int) -> tuple[Tensor, Tensor]:
    """Half of the sphere of directions [V, 3] and the mean correlation under rotations by 360 / order about each."""
    views = view_grid(AXIS_NSIDE)
    directions = from_euler(torch.cat([views, torch.zeros(len(views), 1, dtype=views.dtype)], -1))[:, :, 2]
    directions = directions[directions[:, 2] >= 0]
    own = problem.sampler.at(problem.q) * problem.weight
    scores = torch.zeros(len(directions), device=problem.q.device)
    # the rotation by -j steps is the inverse of that by j and has the same correlation
    for j in range(1, order // 2 + 1):
        turns = exponential(directions * (2 * math.pi * j / order)).to(problem.q)
        copies = [problem.sampler.at(torch.einsum("vij,pj->vpi", part, problem.q)) for part in turns.split(256)]
        values = torch.cat(copies)
        norm = (own.abs().square() / problem.weight).sum() * (problem.weight * values.abs().square()).sum(-1)
        share = 1 if 2 * j == order else 2
        scores += share * (values.conj() @ own).real / norm.sqrt().clamp(min=1e-30)
    return directions, scores / (order - 1)


def _solve(
    problem: _Problem,
    low: _Problem,
    symmetry: str,
    group: Tensor,
    pixel_size: float,
    scored: tuple[Tensor, Tensor],
) -> SymmetryAxes:
    starts = _starts(low, group, *scored)
    elements = group.to(problem.q)
    centre = torch.zeros(3, device=problem.q.device)
    few = elements[:: max(1, len(elements) // 12)]  # a dozen copies choose among the starts as well as all
    tried = [_refine(low, few, R, centre, steps=8) for R in starts.to(problem.q)]
    _, R, centre = max(tried, key=lambda f: f[0])
    score, R, centre = _refine(problem, elements, R, centre, steps=5)
    weighted = _weighted_by_agreement(problem, _copies(problem, elements, R, centre))
    _, R, centre = _refine(weighted, elements, R, centre, steps=5)
    score = _score(_copies(problem, elements, R, centre), problem.weight)
    R = nearest_rotation(R.double())
    t = -R @ (centre + problem.offset).double() * pixel_size
    if symmetry.strip().upper().startswith("C"):
        t[2] = 0.0
    return SymmetryAxes(symmetry.strip().upper(), R, t, score, round(float(problem.q.norm(dim=-1).max())))


def _starts(low: _Problem, group: Tensor, directions: Tensor, scores: Tensor) -> Tensor:
    """Rotations [K, 3, 3] worth refining: the best axes, each with its best spins."""
    order, axis = _highest(group)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(float((directions[i] @ directions[j]).abs()) < math.cos(math.radians(12)) for j in kept):
            kept.append(i)
        if len(kept) == _CANDIDATES:
            break
    if len(group) == order:
        return _onto(directions[kept], axis)
    count = math.ceil(360 / order / SPIN_STEP_DEGREES)
    spins = exponential(axis * (2 * math.pi / order / count) * torch.arange(count, dtype=torch.float64)[:, None])
    # elements that move the axis determine the spin; a few are enough
    others = group[(group @ axis - axis).norm(dim=-1) > 1e-6][:8].to(low.q)
    both = torch.cat([_onto(directions[kept], axis), _onto(-directions[kept], axis)])
    R = torch.einsum("sij,vjk->vsik", spins, both).reshape(-1, 3, 3).to(low.q)
    value = torch.cat([_mean_correlation(low, part, others) for part in R.split(32)])
    # the best spin for each axis, then the best axes
    best, where = value.reshape(len(both), count).max(-1)
    rows = best.argsort(descending=True)[:_CANDIDATES]
    return R.reshape(len(both), count, 3, 3)[rows, where[rows]].double()


def _mean_correlation(problem: _Problem, R: Tensor, elements: Tensor) -> Tensor:
    """Correlation of F(R^T q) with F(R^T g q), averaged over g, [B]."""
    w = problem.weight
    own = problem.sampler.at(torch.einsum("bji,pj->bpi", R, problem.q))
    total = torch.zeros(len(R), device=R.device)
    for g in elements:
        copy = problem.sampler.at(torch.einsum("bji,pj->bpi", R, problem.q @ g.T))
        norm = (w * own.abs().square()).sum(-1) * (w * copy.abs().square()).sum(-1)
        total += (w * (own.conj() * copy).real).sum(-1) / norm.sqrt().clamp(min=1e-30)
    return total / len(elements)


def _score(A: Tensor, weight: Tensor) -> float:
    """Mean correlation between pairs of copies A [G, P], from the energy of their mean."""
    energy = float((weight * A.mean(0).abs().square()).sum() / (weight * A.abs().square()).sum(-1).mean())
    return (energy * len(A) - 1) / (len(A) - 1)


def _copies(problem: _Problem, group: Tensor, R: Tensor, centre: Tensor) -> Tensor:
    """A_g = F(R^T g k) e^{2 pi i (R^T g k).c / D}, [G, P]: the copies of the map turned by R and centred."""
    q = torch.einsum("gij,pj->gpi", group, problem.q) @ R
    return problem.sampler.at(q) * torch.exp(2j * math.pi / problem.box * (q @ centre))


def _weighted_by_agreement(problem: _Problem, A: Tensor) -> _Problem:
    """The problem weighted by signal-to-noise ratio: r / (1 - r) / power, r the correlation of the copies by shell."""
    shell = problem.q.norm(dim=-1).round().long()

    def by_shell(values: Tensor) -> Tensor:
        return torch.zeros(int(shell.max()) + 1, device=values.device).index_add_(0, shell, values)

    power = by_shell(A.abs().square().mean(0)).clamp(min=1e-30)
    energy = by_shell(A.mean(0).abs().square()) / power
    r = ((energy * len(A) - 1) / (len(A) - 1)).clamp(0, 0.98)
    r = torch.where(r > 2 / (torch.bincount(shell) * 2 * (len(A) - 1)).clamp(min=1).sqrt(), r, 0.0)
    if not r.any():
        return problem
    weight = r / (1 - r) / power * torch.bincount(shell)
    return _Problem(problem.sampler, problem.q, weight[shell], problem.box, problem.offset)


def _refine(problem: _Problem, group: Tensor, R: Tensor, centre: Tensor, steps: int) -> tuple[float, Tensor, Tensor]:
    """Levenberg-Marquardt on rotation and centre, which fits all copies (see `_copies`) to their mean."""
    turned = torch.einsum("gij,pj->gpi", group, problem.q)
    ramp = 2j * math.pi / problem.box
    score = _score(_copies(problem, group, R, centre), problem.weight)
    damping = 1e-2
    for _ in range(steps):
        q = turned @ R
        F, slope = problem.sampler.at_with_gradient(q)
        phase = torch.exp(ramp * (q @ centre))
        A = F * phase
        slope = (slope + ramp * centre * F[..., None]) * phase[..., None]
        # dq = -R^T (omega x g k), so dA = -omega . (g k x R grad)
        rotation = -torch.linalg.cross(turned + 0j, slope @ (R.T + 0j))
        J = torch.cat([rotation, ramp * q * A[..., None]], -1)
        J, residual = (J - J.mean(0)).flatten(0, 1), (A.mean(0) - A).flatten()
        weighted = J.conj().T * problem.weight.repeat(len(group))
        H, b = (weighted @ J).real.double(), (weighted @ residual).real.double()
        # the spin and the height of Cn are free: the small absolute term holds them still
        scale = H.diagonal().reshape(2, 3).mean(-1).repeat_interleave(3)
        step = torch.linalg.solve(H + torch.diag(damping * H.diagonal() + 1e-4 * scale + 1e-30), b).to(R)
        new_R, new_centre = exponential(step[:3]) @ R, centre + step[3:]
        new = _score(_copies(problem, group, new_R, new_centre), problem.weight)
        if new > score:
            R, centre, score, damping = new_R, new_centre, new, damping / 5
        else:
            damping *= 10
    return score, R, centre
