"""The evidence's lower bound against closed forms: a family of volumes that is linear in z."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from cryoloom.inference.conformations.elbo import chances, evidence_bound, predicted_images, some_coefficients
from cryoloom.inference.conformations.posterior import DiagonalGaussian, LatentPosterior
from cryoloom.kernels.images import Images
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.rotations import random_rotations
from cryoloom.volumes.interface import ConformationVolume

BOX, PIXEL_SIZE, Z, B = 10, 4.0, 2, 3


class Linear(ConformationVolume):
    """V(k, z) = V_0(k) + sum_j z_j V_j(k), each a sum of two plane waves with real weights."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(BOX, PIXEL_SIZE, Z)
        self.places = 6 * torch.randn(Z + 1, 2, 3, generator=generator, dtype=torch.float64)

    def components(self, k: Tensor) -> Tensor:
        """[B, P, Z + 1]."""
        return torch.exp(-2j * math.pi * torch.einsum("bpi,jai->bpja", k, self.places)).sum(-1)

    def slices(self, k: Tensor, z: Tensor) -> Tensor:
        c = self.components(k)
        return c[..., 0] + torch.einsum("bpj,bj->bp", c[..., 1:], z.to(c.dtype))


@pytest.fixture
def volume(generator) -> Linear:
    return Linear(generator)


@pytest.fixture
def scene(generator, volume):
    """Images of random conformations with noise, and their poses; float64."""
    disc = FourierDisc.create(BOX, PIXEL_SIZE, 4, dtype=torch.float64)
    P = len(disc.weight)
    R, t = random_rotations(B, generator), torch.randn(B, 2, generator=generator, dtype=torch.float64)
    ctf = torch.rand(B, P, generator=generator, dtype=torch.float64) * 2 - 1
    variance = 1 + torch.rand(2, P, generator=generator, dtype=torch.float64)
    group = torch.tensor([0, 1, 0])
    blank = Images(torch.zeros(B, P, dtype=torch.complex128), ctf, variance, group, disc)
    clean = predicted_images(volume, blank, R, t, torch.randn(B, Z, generator=generator, dtype=torch.float64))
    noise = torch.complex(*torch.randn(2, B, P, generator=generator, dtype=torch.float64)) / math.sqrt(2)
    return Images(clean + noise, ctf, variance, group, disc), R, t


def design(volume: Linear, images: Images, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Observed [B, n] = offset + A [B, n, Z] z + noise of unit variance, in real numbers: sqrt(h / s2) (Re, Im)."""
    k = torch.einsum("bij,pj->bpi", R[..., :2], images.disc.k)
    unit = (images.disc.weight / images.variance[images.group]).sqrt()
    parts = (images.ctf * shift_ramp(images.disc.k, t) * unit)[..., None] * volume.components(k)
    data = images.observed * unit - parts[..., 0]
    both = lambda v: torch.cat([v.real, v.imag], 1)  # noqa: E731
    return both(data), both(parts[..., 1:])


def test_with_the_exact_posterior_the_bound_is_the_log_evidence(volume, scene, generator):
    """Y ~ N(0, A A^T + 1) in real numbers. The posterior is diagonal where A^T A is: q is given along its axes."""
    images, R, t = scene
    data, A = design(volume, images, R, t)
    for b in range(B):
        one = Images(
            images.observed[b : b + 1], images.ctf[b : b + 1], images.variance, images.group[b : b + 1], images.disc
        )
        _, axes = torch.linalg.eigh(A[b].T @ A[b])
        turned = Turned(volume, axes)
        Ab = A[b] @ axes
        precision = Ab.T @ Ab + torch.eye(Z, dtype=torch.float64)
        mean = torch.linalg.solve(precision, Ab.T @ data[b])
        q = DiagonalGaussian(mean[None], -torch.diagonal(precision).log()[None])
        n = len(data[b])
        evidence = MultivariateNormal(
            torch.zeros(n, dtype=torch.float64), A[b] @ A[b].T + torch.eye(n, dtype=torch.float64)
        ).log_prob(data[b]) + 0.5 * n * math.log(2 * math.pi)
        assert expected_bound(turned, one, R[b : b + 1], t[b : b + 1], q) == pytest.approx(float(evidence), rel=1e-10)
        worse = DiagonalGaussian(q.mean + 0.3, q.log_variance + 0.2)
        off = Independent(Normal(worse.mean[0], (0.5 * worse.log_variance[0]).exp()), 1)
        exact = Independent(Normal(q.mean[0], (0.5 * q.log_variance[0]).exp()), 1)
        gap = float(kl_divergence(off, exact))
        assert gap > 0.1
        found = expected_bound(turned, one, R[b : b + 1], t[b : b + 1], worse)
        assert found == pytest.approx(float(evidence) - gap, rel=1e-10)


class Turned(ConformationVolume):
    """The same family in other latent coordinates."""

    def __init__(self, inner: Linear, axes: Tensor) -> None:
        super().__init__(BOX, PIXEL_SIZE, Z)
        self.inner, self.axes = inner, axes

    def slices(self, k: Tensor, z: Tensor) -> Tensor:
        return self.inner.slices(k, z @ self.axes.T)


def expected_bound(volume: ConformationVolume, images: Images, R: Tensor, t: Tensor, q: DiagonalGaussian) -> float:
    """Its mean over the normal numbers: exact by the points +-sqrt(Z) e_j, as the integrand is quadratic in them."""
    points = math.sqrt(Z) * torch.cat([torch.eye(Z), -torch.eye(Z)]).double()
    losses = [evidence_bound(volume, images, R=R, t=t, q=q, normal=p[None]).loss(1.0) for p in points]
    return -float(torch.stack(losses).mean())


def test_the_divergence_is_the_known_one(generator):
    q = DiagonalGaussian(*torch.randn(2, 5, 4, generator=generator))
    ours = Independent(Normal(q.mean, (0.5 * q.log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros(5, 4), torch.ones(5, 4)), 1)
    torch.testing.assert_close(q.divergence(), kl_divergence(ours, prior))
    assert isinstance(q.posterior(), LatentPosterior)
    torch.testing.assert_close(torch.diagonal(q.posterior().covariance, dim1=1, dim2=2), q.log_variance.exp())


def test_samples_have_the_moments_of_q(generator):
    q = DiagonalGaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, -1.0]]))
    z = q.sample(torch.randn(20000, 2, generator=generator))
    torch.testing.assert_close(z.mean(0), q.mean[0], atol=0.04, rtol=0)
    torch.testing.assert_close(z.var(0), q.log_variance[0].exp(), atol=0.05, rtol=0)


def test_beta_weighs_the_divergence_alone(volume, scene, generator):
    images, R, t = scene
    q = DiagonalGaussian(*torch.randn(2, B, Z, generator=generator, dtype=torch.float64))
    bound = evidence_bound(volume, images, R=R, t=t, q=q, normal=torch.zeros(B, Z, dtype=torch.float64))
    torch.testing.assert_close(bound.loss(0.0), -bound.log_likelihood)
    torch.testing.assert_close(bound.loss(3.0) - bound.loss(1.0), 2 * q.divergence())


def test_some_coefficients_stand_for_all(volume, scene, generator):
    """The mean over draws is the sum over the whole disc."""
    images, R, t = scene
    q = DiagonalGaussian(*torch.zeros(2, B, Z, dtype=torch.float64))
    normal = torch.zeros(B, Z, dtype=torch.float64)
    chance = chances(torch.exp(-images.disc.radii), 9)

    def fit(chance: Tensor) -> Tensor:
        chosen = some_coefficients(images, chance, generator)
        return evidence_bound(volume, chosen, R=R, t=t, q=q, normal=normal).log_likelihood

    whole = evidence_bound(volume, images, R=R, t=t, q=q, normal=normal).log_likelihood
    draws = torch.stack([fit(chance) for _ in range(600)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - whole).abs() < 4 * error).all()
    assert (error < 0.03 * whole.abs()).all()
    torch.testing.assert_close(fit(torch.ones_like(chance)), whole)


def test_strong_coefficients_are_drawn_more_often(generator):
    amplitude = torch.exp(-torch.arange(60) / 6.0)
    chance = chances(amplitude, 20)
    assert float(chance.sum()) == pytest.approx(20, abs=1e-3)
    assert (chance[0] == 1) & (chance[-1] < 0.3) & (chance[-1] > 0.1)
    assert (chance.diff() <= 0).all()
    assert (chances(amplitude, 60) == 1).all()
    disc = FourierDisc.create(BOX, PIXEL_SIZE, 4)
    P = len(disc.weight)
    images = Images(torch.zeros(1, P), torch.ones(1, P), torch.ones(1, P), torch.zeros(1).long(), disc)
    some = chances(disc.radii.max() - disc.radii, 11)
    drawn = [some_coefficients(images, some, generator).disc for _ in range(2000)]
    assert {len(d.weight) for d in drawn} <= {11, 12}
    often = torch.zeros(P)
    for d in drawn:
        often[(d.index[:, None] == disc.index).all(-1).any(0)] += 1 / len(drawn)
    torch.testing.assert_close(often, some, atol=0.05, rtol=0)
