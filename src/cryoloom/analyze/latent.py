"""Principal axes of the latent coordinates of a set of images, and the uncertainty of the coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from cryoloom.inference.conformations.posterior import LatentPosterior

FEWEST = 3  # minimum number of images


@dataclass(frozen=True, slots=True)
class PrincipalAxes:
    """Principal axes of the latent coordinates of N images, in order of their share; C = min(Z, N - 1).

    Attributes:
        mean: [Z]; axes: [C, Z], orthonormal rows; in each, the largest entry is positive.
        variance: [C], variance of the images along each axis; share: [C], its share of the total variance, which sums
            to 1 (0 where there is none).
        coordinates: [N, C], principal coordinates of the images.
    """

    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    share: np.ndarray
    coordinates: np.ndarray

    def project(self, points: Float[np.ndarray, "M Z"]) -> Float[np.ndarray, "M C"]:
        """Principal coordinates of latent points."""
        return (points - self.mean) @ self.axes.T

    def latent(self, coordinates: Float[np.ndarray, "M C"]) -> Float[np.ndarray, "M Z"]:
        """Latent points of principal coordinates: the inverse of `project` within the span of the axes."""
        return self.mean + coordinates @ self.axes

    def covariance(self, covariance: Float[np.ndarray, "N Z Z"], components: int) -> Float[np.ndarray, "N c c"]:
        """Covariances along the first `components` axes."""
        some = self.axes[:components]
        return np.einsum("ai,nij,bj->nab", some, covariance, some, optimize=True)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Uncertainty of the latent coordinates of each image.

    Attributes:
        relative: [N], expected (r.m.s.) distance of the true coordinates from the given ones, in units of the
            population's s.d.: 0 is exact, about 1 is no information.
        reliability: share of the population's variance that the given coordinates show, in the direction along which
            images are distinguished best: 1 is exact, 0 is no information.
    """

    relative: np.ndarray
    reliability: float


def check_latent(z: np.ndarray, covariance: np.ndarray | None = None) -> None:
    """Raises:
    ValueError: for coordinates that are not [N, Z] of finite numbers with N >= 3, or covariances not [N, Z, Z].
    """
    if z.ndim != 2 or z.shape[1] == 0:
        raise ValueError(f"latent coordinates of shape {z.shape}; expected one row per image, [N, Z]")
    if len(z) < FEWEST:
        raise ValueError(f"latent coordinates of {len(z)} images; expected at least {FEWEST}")
    if not np.isfinite(z).all():
        row = int(np.flatnonzero(~np.isfinite(z).all(1))[0])
        raise ValueError(f"latent coordinates of row {row + 1} are not finite: the run that wrote them went wrong")
    wanted = (*z.shape, z.shape[1])
    if covariance is not None and covariance.shape != wanted:
        raise ValueError(f"latent covariances of shape {covariance.shape}; expected {wanted}, one matrix per image")
    if covariance is not None and not np.isfinite(covariance).all():
        row = int(np.flatnonzero(~np.isfinite(covariance).all((1, 2)))[0])
        raise ValueError(f"latent covariance of row {row + 1} is not finite: the run that wrote it went wrong")


def principal_axes(z: Float[np.ndarray, "N Z"]) -> PrincipalAxes:
    """Principal component analysis of latent coordinates, in float64.

    Raises:
        ValueError: see `check_latent`.
    """
    check_latent(z)
    values = z.astype(np.float64)
    mean = values.mean(0)
    centred = values - mean
    count = min(z.shape[1], len(z) - 1)
    # the covariance is Z x Z and small: cheaper than the SVD of all images, and memory does not grow with them
    variance, vectors = np.linalg.eigh(centred.T @ centred / (len(z) - 1))
    variance, axes = variance[::-1][:count].clip(min=0), vectors.T[::-1][:count]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    axes = np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0))
    total = float(variance.sum())
    share = variance / total if total > 0 else np.zeros(count)
    return PrincipalAxes(mean, axes, variance, share, centred @ axes.T)


def uncertainty(z: Float[np.ndarray, "N Z"], covariance: Float[np.ndarray, "N Z Z"]) -> Uncertainty:
    """Posterior widths in units of the population's s.d.

    The population's variance is that of the posterior means plus the mean posterior variance (law of total variance),
    so that uninformative images, whose posterior is the prior, get about 1. Directions are weighted by their
    reliability: coordinates that a network does not use do not affect the others.

    Raises:
        ValueError: see `check_latent`.
    """
    check_latent(z, covariance)
    posterior = LatentPosterior(torch.tensor(z), torch.tensor(covariance), torch.ones(len(z)))
    if float(posterior.mean.var(0).sum() + posterior.covariance.abs().sum()) == 0:
        return Uncertainty(np.zeros(len(z)), 1.0)
    reliability, axes = posterior.told_apart()
    weight = reliability if float(reliability.sum()) > 0 else torch.ones_like(reliability)
    own = torch.einsum("di,nij,dj->nd", axes, posterior.covariance.double(), axes).clamp(min=0)
    relative = ((own @ weight) / weight.sum()).sqrt()
    return Uncertainty(relative.numpy(), float(reliability[0]))
