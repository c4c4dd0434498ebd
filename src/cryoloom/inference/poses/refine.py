"""Local refinement: Levenberg-Marquardt on rotation and shift of every candidate, and the Laplace posterior.

R <- R exp[omega], t <- t + dt; the Gauss-Newton matrix at the optimum is the pose's inverse covariance, given the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.images import Images
from cryoloom.physics.rotations import exponential, geodesic_degrees_modulo

MAX_ROTATION = 0.15  # radian: largest step, beyond which the linearisation fails at the highest frequencies
SAME_DEGREES = 4.0  # optima closer than this count as one
CONVERGED = 0.02  # predicted gain in nats below which a candidate has converged


class PoseObjective(Protocol):
    """Log-likelihood that local refinement maximises."""

    def __call__(self, image: Tensor, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Score [C], gradient [C, 5] and Gauss-Newton matrix [C, 5, 5] of C poses with respect to (omega, dt),
        including the prior on shifts, and the power [C] of the prediction."""
        ...


@dataclass(frozen=True, slots=True)
class Refined:
    """Refined poses.

    Attributes:
        posterior: refined candidates with their covariances.
        score: log p(Y | pose, V) - log p(Y | no particle) of each image's best candidate, [B], including the prior on
            shifts; power / 2 +- sqrt(power) at the correct pose and map.
        power: power sum w |X|^2 of the prediction at that candidate, [B].
        log_mass: log of the integral of exp(score) over rotation vectors and shifts, [B], by Laplace's method; see
            `log_evidence`.
    """

    posterior: PosePosterior
    score: Float[Tensor, " B"]
    power: Float[Tensor, " B"]
    log_mass: Float[Tensor, " B"]

    def log_evidence(self, sigma_angstrom: float) -> Float[Tensor, " B"]:
        """log p(Y | V) - log p(Y | no particle), nats: a mean over all rotations and the Gaussian prior on shifts, as
        far as the candidates hold it.

        A mean is at most the best value, which Laplace's method overshoots where the posterior is nearly flat.
        """
        mean = self.log_mass - math.log(8 * math.pi**2) - math.log(2 * math.pi * sigma_angstrom**2)
        return torch.minimum(mean, self.score)

    @property
    def misfit(self) -> Float[Tensor, " B"]:
        """Standard deviations by which the best score lies below the score expected of a correct pose."""
        return misfit_sigmas(self.score, self.power)


def misfit_sigmas(score: Float[Tensor, " B"], power: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Standard deviations by which scores lie below those expected of correct poses, power / 2 +- sqrt(power)."""
    return (0.5 * power - score) / power.clamp(min=1.0).sqrt()


def better_half_spread(misfit: Float[Tensor, " B"]) -> float:
    """Standard deviation of misfits (`misfit_sigmas`) from those below the median: median less 15.9 % quantile.

    1 where one map explains all images. Images that show no particle fit worse and hardly change it; images of other
    molecules fit better and worse than expected.
    """
    low, middle = np.quantile(misfit.double().numpy(), [0.1587, 0.5])
    return float(middle - low)


@dataclass(slots=True)
class _Climb:
    """Current state of all candidates during refinement, flat over (image, candidate) pairs."""

    image: Tensor
    R: Tensor
    t: Tensor
    score: Tensor
    gradient: Tensor
    hessian: Tensor
    power: Tensor
    damping: Tensor


@dataclass(frozen=True, slots=True)
class OneMap:
    """Objective of images of one volume, given as a half grid."""

    half_grid: Tensor
    images: Images
    sigma_angstrom: float

    def __call__(self, image: Tensor, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `PoseObjective`."""
        found = dispatch.normal_equations(self.half_grid, self.images, image, R, t)
        return (*with_shift_prior(found[0], found[1], found[2], t, self.sigma_angstrom), found[3])


def with_shift_prior(
    score: Tensor, gradient: Tensor, hessian: Tensor, t: Tensor, sigma_angstrom: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Adds the Gaussian prior on shifts to score, gradient and matrix (the latter two in place)."""
    precision = 1.0 / sigma_angstrom**2
    score = score - 0.5 * precision * t.square().sum(1)
    gradient[:, 3:] -= precision * t
    hessian[:, 3, 3] += precision
    hessian[:, 4, 4] += precision
    return score, gradient, hessian


def _scaled(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix scaled to unit diagonal, and the scale: radians and angstroms differ by orders of magnitude."""
    diagonal = torch.diagonal(hessian, dim1=1, dim2=2).clamp(min=1e-12)
    scale = diagonal.rsqrt()
    return hessian * scale[:, :, None] * scale[:, None, :], scale


def _step(climb: _Climb) -> tuple[Tensor, Tensor]:
    """Damped step [C, 5] and the gain in nats predicted by the quadratic model."""
    matrix, scale = _scaled(climb.hessian)
    damped = matrix + climb.damping[:, None, None] * torch.eye(5, device=matrix.device)
    step = torch.linalg.solve(damped, (climb.gradient * scale)[..., None])[..., 0] * scale
    length = step[:, :3].norm(dim=1, keepdim=True)
    step = step * (MAX_ROTATION / length.clamp(min=MAX_ROTATION))
    gain = (climb.gradient * step).sum(1) - 0.5 * torch.einsum("ci,cij,cj->c", step, climb.hessian, step)
    return step, gain


def refine_poses(
    half_grid: Complex[Tensor, "M M H"],
    images: Images,
    start: PosePosterior,
    sigma_angstrom: float,
    iterations: int = 5,
    keep_nats: float = 12.0,
    group: Float[Tensor, "G 3 3"] | None = None,
    keep_weights: bool = False,
) -> Refined:
    """Refines poses of images against one volume; see `climb_poses`.

    Args:
        half_grid: half grid of the volume.
        images: B images on their disc of frequencies.
        sigma_angstrom: standard deviation of the Gaussian prior on shifts.
    """
    objective = OneMap(half_grid, images, sigma_angstrom)
    return climb_poses(objective, start, iterations, keep_nats, group=group, keep_weights=keep_weights)


def climb_poses(
    objective: PoseObjective,
    start: PosePosterior,
    iterations: int = 5,
    keep_nats: float = 12.0,
    group: Float[Tensor, "G 3 3"] | None = None,
    keep_weights: bool = False,
) -> Refined:
    """Refines every candidate of `start` and weights the optima by their Laplace evidence.

    Args:
        start: B x K candidates; those with log weight below -keep_nats are dropped (their slots are kept at -inf).
        group: symmetry group of the volume; symmetry-related optima count as one.
        keep_weights: keep the weights of `start`, where another map has given them.

    Returns:
        The optima of all candidates with covariances (radian, angstrom), and score and power of each image's best one.
    """
    K = start.log_weight.shape[1]
    alive = start.log_weight.reshape(-1) > -keep_nats
    flat = torch.nonzero(alive)[:, 0]
    image = (flat // K).contiguous()
    R, t = start.R.reshape(-1, 3, 3)[flat].contiguous(), start.t.reshape(-1, 2)[flat].contiguous()
    climb = _Climb(image, R, t, *objective(image, R, t), torch.full_like(t[:, 0], 1e-2))
    active = torch.arange(len(flat), device=flat.device)
    for _ in range(iterations):
        part = _Climb(*(getattr(climb, f)[active] for f in _Climb.__dataclass_fields__))
        step, gain = _step(part)
        moving = gain > CONVERGED
        if not moving.any():
            break
        active, step = active[moving], step[moving]
        part = _Climb(*(getattr(part, f)[moving] for f in _Climb.__dataclass_fields__))
        R = (part.R @ exponential(step[:, :3])).contiguous()
        t = (part.t + step[:, 3:]).contiguous()
        score, gradient, hessian, power = objective(part.image, R, t)
        better = score > part.score
        won = active[better]
        climb.R[won], climb.t[won], climb.score[won] = R[better], t[better], score[better]
        climb.gradient[won], climb.hessian[won], climb.power[won] = gradient[better], hessian[better], power[better]
        climb.damping[active] = torch.where(better, part.damping * 0.2, part.damping * 10.0)
    return _laplace(climb, flat, start, torch.eye(3)[None] if group is None else group, keep_weights)


def _without_repeats(R: Tensor, weight: Tensor, group: Tensor) -> Tensor:
    """Log weights, -inf for candidates that converged to the same optimum as one of larger weight."""
    order = weight.argsort(dim=1, descending=True, stable=True)
    row = torch.arange(len(R), device=R.device)[:, None]
    sorted_R, kept = R[row, order], weight[row, order]
    for k in range(1, R.shape[1]):
        angle = geodesic_degrees_modulo(sorted_R[:, :k], sorted_R[:, k : k + 1].expand(-1, k, -1, -1), group)
        repeat = ((angle < SAME_DEGREES) & kept[:, :k].isfinite()).any(1)
        kept[:, k] = torch.where(repeat, -torch.inf, kept[:, k])
    out = torch.empty_like(weight)
    out[row, order] = kept
    return out


def _laplace(climb: _Climb, flat: Tensor, start: PosePosterior, group: Tensor, keep_weights: bool) -> Refined:
    """Optima in the slots of their candidates, weighted by score + 1/2 log det covariance, or as at the start."""
    B, K = start.log_weight.shape
    matrix, scale = _scaled(climb.hessian)
    # keeps the covariance finite in directions without signal
    matrix = matrix + 1e-4 * torch.eye(5, device=matrix.device)
    factor = torch.linalg.cholesky(matrix)
    covariance = torch.cholesky_inverse(factor) * scale[:, :, None] * scale[:, None, :]
    log_det = scale.log().sum(1) - torch.diagonal(factor, dim1=1, dim2=2).log().sum(1)
    R, t = start.R.reshape(-1, 3, 3).clone(), start.t.reshape(-1, 2).clone()
    R[flat], t[flat] = climb.R, climb.t
    weight = torch.full((B * K,), -torch.inf, device=R.device)
    weight[flat] = climb.score + log_det
    full = torch.zeros(B * K, 5, 5, device=R.device)
    full[flat] = covariance
    R = R.reshape(B, K, 3, 3)
    weight = _without_repeats(R, weight.reshape(B, K), group)
    log_mass = weight.logsumexp(1) + 2.5 * math.log(2 * math.pi)
    if keep_weights:
        given = torch.full((B * K,), -torch.inf, device=R.device)
        given[flat] = start.log_weight.reshape(-1)[flat]
        weight = given.reshape(B, K)
    posterior = PosePosterior(R, t.reshape(B, K, 2), weight, covariance=full.reshape(B, K, 5, 5))
    best = weight.argmax(1) + K * torch.arange(B, device=R.device)
    score, power = weight.new_zeros(B * K), weight.new_zeros(B * K)
    score[flat], power[flat] = climb.score, climb.power
    return Refined(posterior.normalised(), score[best], power[best], log_mass)
