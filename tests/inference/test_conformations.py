"""Latents, contrasts and classes against closed forms and dense Gaussians."""

from __future__ import annotations

import pytest
import torch

from cryoloom.inference.conformations.classes import fit_classes
from cryoloom.inference.conformations.linear import Products, contrast_prior, infer_latents, infer_mixture, products
from cryoloom.inference.conformations.posterior import ClassPosterior, LatentPosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.rotations import random_rotations
from kernels.scene import make_scene

N, P, Z = 6, 40, 3


def linear_images(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, Products]:
    """Whitened slices S [N, 1 + Z, P] and observations y [N, P] as real vectors, and their products."""
    S = torch.randn(N, 1 + Z, P, generator=generator).double()
    y = torch.randn(N, P, generator=generator).double() + S[:, 0]
    return S, y, Products(S @ S.mT, torch.einsum("nqp,np->nq", S, y))


def dense_log_evidence(S: torch.Tensor, y: torch.Tensor, a: float) -> torch.Tensor:
    """log p(y | a) - log p(y | no particle), from the full covariance of y."""
    covariance = torch.eye(P).double() + a**2 * S[:, 1:].mT @ S[:, 1:]
    with_particle = torch.distributions.MultivariateNormal(a * S[:, 0], covariance).log_prob(y)
    without = torch.distributions.MultivariateNormal(torch.zeros(P).double(), torch.eye(P).double()).log_prob(y)
    return with_particle - without


def test_evidence_and_moments_are_those_of_the_dense_gaussian():
    S, y, found = linear_images(torch.Generator().manual_seed(1))
    inferred = infer_latents(found, *contrast_prior(0.0))
    torch.testing.assert_close(inferred.log_evidence, dense_log_evidence(S, y, 1.0))
    covariance = torch.linalg.inv(torch.eye(Z).double() + S[:, 1:] @ S[:, 1:].mT)
    mean = torch.einsum("nij,nj->ni", covariance, torch.einsum("nqp,np->nq", S[:, 1:], y - S[:, 0]))
    torch.testing.assert_close(inferred.latents.mean, mean.float())
    torch.testing.assert_close(inferred.latents.covariance, covariance.float())
    assert torch.equal(inferred.latents.contrast, torch.ones(N))
    x = torch.cat([torch.ones(N, 1).double(), mean], 1)
    second = x[:, :, None] * x[:, None]
    second[:, 1:, 1:] += covariance
    i, j = torch.triu_indices(1 + Z, 1 + Z)
    torch.testing.assert_close(inferred.first, x.float())
    torch.testing.assert_close(inferred.second, second[:, i, j].float())


def test_contrast_is_summed_over_its_prior():
    S, y, found = linear_images(torch.Generator().manual_seed(2))
    a, log_prior = torch.tensor([0.0, 0.6, 1.3]).double(), torch.tensor([0.2, 0.5, 0.3]).double().log()
    each = torch.stack([dense_log_evidence(S, y, float(x)) for x in a], 1) + log_prior
    inferred = infer_latents(found, a, log_prior)
    torch.testing.assert_close(inferred.log_evidence, torch.logsumexp(each, 1))
    weight = torch.softmax(each, 1)
    torch.testing.assert_close(inferred.latents.contrast, (weight * a).sum(1).float())
    torch.testing.assert_close(inferred.second[:, 0], (weight * a**2).sum(1).float())


def test_an_image_without_particle_has_no_contrast_and_no_place():
    """Junk keeps the prior of z: it is not sold as a conformation."""
    generator = torch.Generator().manual_seed(3)
    S = 3 * torch.randn(N, 1 + Z, P, generator=generator).double()
    y = torch.randn(N, P, generator=generator).double()
    inferred = infer_latents(Products(S @ S.mT, torch.einsum("nqp,np->nq", S, y)), *contrast_prior(0.15))
    assert inferred.latents.contrast.max() < 0.5
    assert inferred.latents.covariance.diagonal(dim1=1, dim2=2).min() > 0.02


def test_fewer_components_are_the_first_ones():
    S, y, found = linear_images(torch.Generator().manual_seed(4))
    short = infer_latents(found.truncated(1), *contrast_prior(0.0))
    torch.testing.assert_close(short.log_evidence, dense_log_evidence(S[:, :2], y, 1.0))
    none = infer_latents(found.truncated(0), *contrast_prior(0.0))
    torch.testing.assert_close(none.log_evidence, dense_log_evidence(S[:, :1], y, 1.0))
    assert none.latents.mean.shape == (N, 0)


def test_products_are_those_of_the_predicted_images():
    scene = make_scene(20, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(6)
    B = len(scene.images.observed)
    other = volume_to_half(torch.randn(20, 20, 20, generator=generator))
    R, t = random_rotations(B, generator).float(), torch.randn(B, 2, generator=generator)
    images: Images = scene.images
    found = products([scene.grid, other], images, R, t)
    predicted = torch.stack([dispatch.slices(g, R, images.disc) for g in (scene.grid, other)], 1)
    predicted = predicted * images.ctf[:, None] * shift_ramp(images.disc.k, t)[:, None]
    w = images.disc.weight / images.variance[images.group]
    gram = torch.einsum("bp,bip,bjp->bij", w.to(predicted), predicted, predicted.conj()).real
    cross = torch.einsum("bp,bip,bp->bi", w.to(predicted), predicted.conj(), images.observed).real
    torch.testing.assert_close(found.gram.float(), gram, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.cross.float(), cross, rtol=1e-3, atol=1e-2)


def test_classes_are_found_with_their_shares_from_uncertain_latents():
    """Posteriors under N(0, I) of points at three places: shrunk, and each with its own precision."""
    generator = torch.Generator().manual_seed(7)
    count = 3000
    centres = torch.tensor([[1.5, 0.0], [-0.8, 1.0], [-0.5, -1.8]])
    truth = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), count, replacement=True, generator=generator)
    root = torch.randn(count, 2, 2, generator=generator) + 3.5 * torch.eye(2)
    precision = root @ root.mT
    noise = torch.linalg.solve(root.mT, torch.randn(count, 2, 1, generator=generator))[..., 0]
    covariance = torch.linalg.inv(precision + torch.eye(2))
    mean = torch.einsum("nij,njk,nk->ni", covariance, precision, centres[truth] + noise)
    found = fit_classes(LatentPosterior(mean, covariance, torch.ones(count)), 3, torch.Generator().manual_seed(1))
    assert (found.posterior.best() == truth).float().mean() > 0.95
    torch.testing.assert_close(found.centres, centres, atol=0.06, rtol=0)
    torch.testing.assert_close(found.shares, truth.bincount().float() / count, atol=0.02, rtol=0)
    assert (found.shares.diff() <= 0).all()
    torch.testing.assert_close(found.posterior.shares(), found.shares, atol=1e-3, rtol=0)


def test_one_class_is_no_classification():
    latents = LatentPosterior(torch.zeros(5, 2), torch.eye(2).expand(5, 2, 2), torch.ones(5))
    with pytest.raises(ValueError, match="2 or more"):
        fit_classes(latents, 1, torch.Generator())


def test_class_weights_are_normalised():
    posterior = ClassPosterior(torch.log_softmax(torch.tensor([[0.0, 2.0], [3.0, 0.0]]), 1))
    assert posterior.best().tolist() == [1, 0]
    assert float(posterior.shares().sum()) == pytest.approx(1)


def test_a_mixture_of_points_is_weighed_by_the_likelihood_of_each():
    S, y, found = linear_images(torch.Generator().manual_seed(8))
    points = torch.randn(4, Z, generator=torch.Generator().manual_seed(9))
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1])
    a, log_prior = torch.tensor([0.5, 1.0]).double(), torch.tensor([0.3, 0.7]).double().log()
    x = torch.cat([torch.ones(4, 1), points], 1).double()
    candidates = a[None, :, None] * x[:, None]  # [K, A, Q]
    predicted = torch.einsum("kaq,nqp->nkap", candidates, S)
    log_p = -0.5 * (y[:, None, None] - predicted).square().sum(-1) + log_prior + shares.double().log()[:, None]
    w = torch.softmax(log_p.flatten(1), 1).reshape(log_p.shape)
    i, j = torch.triu_indices(1 + Z, 1 + Z)
    first, second = infer_mixture(found, points, shares, a, log_prior)
    torch.testing.assert_close(first, torch.einsum("nka,kaq->nq", w, candidates).float())
    outer = candidates[..., i] * candidates[..., j]
    torch.testing.assert_close(second, torch.einsum("nka,kat->nt", w, outer).float())


def test_directions_are_told_apart_by_their_reliability():
    """One coordinate seen with noise of variance 1/4, one not in use: 1 / (1 + 1/4), and nothing, also when turned."""
    generator = torch.Generator().manual_seed(8)
    n, v = 20_000, 0.25
    seen = (torch.randn(n, generator=generator) + v**0.5 * torch.randn(n, generator=generator)) / (1 + v)
    turn = torch.linalg.qr(torch.randn(2, 2, generator=generator))[0]
    mean = torch.stack([torch.zeros(n), seen], 1) @ turn.T
    covariance = (turn @ torch.diag(torch.tensor([1.0, v / (1 + v)])) @ turn.T).expand(n, 2, 2)
    reliability, axes = LatentPosterior(mean, covariance, torch.ones(n)).told_apart()
    assert reliability[0] == pytest.approx(1 / (1 + v), rel=0.02)
    assert reliability[1] < 1e-3
    assert abs(float(axes[0] @ turn[:, 1].double())) == pytest.approx(1, rel=0.02)
