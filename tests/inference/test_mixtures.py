"""Classes from evidence: shares, even shares, needless classes, and the unknown body as their alternative."""

from __future__ import annotations

import numpy as np
import torch

from cryoloom.inference.mixtures.generic import CONTRASTS, WINDOW, UnknownBody, slice_power
from cryoloom.inference.mixtures.shares import beyond_unknown, class_shares, even_offsets, loss_without, needless
from cryoloom.inference.poses.grids import cached_rotation_grid
from cryoloom.inference.poses.search import slice_reference
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images
from cryoloom.physics.frequencies import FourierDisc


def evidence_of(labels: np.ndarray, classes: int, gap: float, seed: int = 1) -> torch.Tensor:
    """Evidence of images that fit their class by `gap` nats more than the others, with some scatter."""
    rng = np.random.default_rng(seed)
    L = rng.normal(50.0, 3.0, (len(labels), classes))
    L[np.arange(len(labels)), labels] += gap
    return torch.from_numpy(L).float()


def test_shares_are_those_of_the_images():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    evidence = evidence_of(labels, 3, 30.0)
    generic = torch.full((1000,), 10.0)
    generic[:50] = 200.0  # some images of the first class are something else
    found = class_shares(evidence, generic)
    assert torch.allclose(found.shares, torch.tensor([0.55, 0.3, 0.1, 0.05]), atol=0.01)
    assert (found.best[50:].numpy() == labels[50:]).all()
    assert (found.best[:50] == 3).all()
    assert torch.allclose(found.posterior.sum(1), torch.ones(1000), atol=1e-5)


def test_a_doubtful_image_is_shared_out_by_the_shares():
    """Where the evidence says nothing, the posterior is the shares of the classes."""
    labels = np.repeat([0, 1], [900, 100])
    evidence = evidence_of(labels, 2, 40.0)
    evidence[0] = 50.0
    found = class_shares(evidence, torch.zeros(1000))
    assert abs(float(found.posterior[0, 0]) - 0.9) < 0.01


def test_offsets_make_shares_even_at_any_temperature():
    evidence = evidence_of(np.zeros(500, int), 4, 8.0)
    for temperature in (1.0, 4.0):
        share = torch.softmax(evidence / temperature + even_offsets(evidence, temperature), 1).mean(0)
        assert torch.allclose(share, torch.full((4,), 0.25), atol=0.01)


def test_of_two_classes_of_one_molecule_one_is_dropped():
    labels = np.repeat([0, 1], [500, 500])
    evidence = evidence_of(labels, 2, 40.0)
    twin = evidence[:, :1] + torch.randn(1000, 1, generator=torch.Generator().manual_seed(2))
    three, generic = torch.cat([evidence, twin], 1), torch.zeros(1000)
    (dropped,) = needless(three, generic, 0.1)
    assert dropped in (0, 2)
    assert needless(evidence, generic, 0.1) == ()
    assert needless(three, generic, 0.1, among=[1]) == ()  # the only one that may be dropped is needed


def test_a_class_without_images_is_needless_and_one_is_always_left():
    evidence = torch.tensor([[50.0, 10.0], [60.0, 20.0]])
    assert loss_without(evidence, torch.zeros(2), 1) == (0.0, 0)
    assert len(needless(evidence, torch.full((2,), 100.0), 0.5)) == 1


def test_the_loss_counts_what_the_next_best_explains():
    evidence = torch.tensor([[100.0, 80.0], [100.0, 90.0], [100.0, 0.0]])
    generic = torch.tensor([95.0, 0.0, 0.0])
    share, count = loss_without(evidence, generic, 0)
    assert count == 3
    assert abs(share - (5.0 + 10.0 + 100.0) / 300.0) < 1e-6
    assert abs(loss_without(evidence, generic, 0, median=True)[0] - 0.1) < 1e-6


def images_of(observed: torch.Tensor, ctf: torch.Tensor, variance: torch.Tensor, disc: FourierDisc) -> Images:
    return Images(observed, ctf, variance[None], torch.zeros(len(observed), dtype=torch.int64), disc)


def test_the_unknown_body_is_a_gaussian_process_within_the_particle():
    """Against images of such bodies drawn in real space: their covariance gives the evidence by dense matrices."""
    box, pixel_size, diameter, rng = 24, 4.0, 48.0, np.random.default_rng(3)
    disc = FourierDisc.create(box, pixel_size).prefix(5)
    k, P = disc.k.numpy(), len(disc.weight)
    # the transform of white noise within the window, finely sampled: its covariance is that of the body
    fine = np.arange(-WINDOW * diameter / 2, WINDOW * diameter / 2, 1.0) + 0.5
    gx, gy = (g.ravel() for g in np.meshgrid(fine, fine, indexing="xy"))
    inside = gx**2 + gy**2 <= (WINDOW * diameter / 2) ** 2
    F = np.exp(-2j * np.pi * (np.outer(k[:, 0], gx[inside]) + np.outer(k[:, 1], gy[inside]))) / np.sqrt(inside.sum())
    tau = np.sqrt(2.0) * np.ones(P)
    G = tau[:, None] * F
    ctf, variance = rng.uniform(0.3, 1, P), rng.uniform(0.5, 2, P)
    observed = rng.normal(size=P) + 1j * rng.normal(size=P)
    own = (k[:, 0] > 0) | ((k[:, 0] == 0) & (k[:, 1] > 0))
    stacked = np.concatenate([(ctf[:, None] * G)[own].real, (ctf[:, None] * G)[own].imag])
    y = np.concatenate([observed[own].real, observed[own].imag])
    noise = np.diag(np.tile(variance[own] / 2, 2))
    each = []
    for contrast in CONTRASTS:
        full = noise + contrast * stacked @ stacked.T
        log_body = -0.5 * y @ np.linalg.solve(full, y) - 0.5 * np.linalg.slogdet(full)[1]
        log_none = -0.5 * y @ np.linalg.solve(noise, y) - 0.5 * np.linalg.slogdet(noise)[1]
        each.append(log_body - log_none)
    expected = np.log(np.mean(np.exp(each)))
    arrays = ((observed[None], torch.complex64), (ctf[None], torch.float32), (variance, torch.float32))
    images = images_of(*(torch.from_numpy(a).to(kind) for a, kind in arrays), disc)
    found = UnknownBody(disc, diameter).evidence(images, torch.from_numpy(tau**2).float())
    assert abs(float(found) - expected) < 0.02 * abs(expected) + 0.05


def test_the_power_of_slices_is_a_mean_over_classes_by_shell():
    disc, grid = FourierDisc.create(16, 4.0).prefix(5), cached_rotation_grid(2)
    generator = torch.Generator().manual_seed(1)
    volumes = [torch.randn(14, 14, 14, generator=generator) * scale for scale in (1.0, 2.0)]
    references = [slice_reference(volume_to_half(v), grid, disc) for v in volumes]
    power = slice_power(references, torch.tensor([0.75, 0.25]))
    shell = (disc.k.norm(dim=1) * 64.0).round().int()
    assert all(len(torch.unique(power[shell == s])) == 1 for s in range(6))
    mean = 0.75 * references[0].power.mean(0) + 0.25 * references[1].power.mean(0)
    assert abs(float(power[shell == 3][0] / mean[shell == 3].mean()) - 1) < 0.02


def test_classes_that_fit_their_images_no_better_than_an_unknown_body_are_told():
    evidence = torch.tensor([[50.0, 10.0, 0.0], [60.0, 20.0, 0.0], [0.0, 30.0, 0.0], [5.0, 31.0, 0.0]])
    generic = torch.tensor([0.0, 70.0, 33.0, 22.0])
    # they lose 40 of 110, and 6 of 61; the last has no image
    assert beyond_unknown(evidence, generic, 0.15) == (0,)
    assert beyond_unknown(evidence, generic, 0.05) == (0, 1)
    # noise alone, which fits a map badly and an unknown body worse
    assert beyond_unknown(evidence - 70.0, generic - 200.0, 0.05) == ()


def test_images_of_a_class_count_whether_they_fit_it_best_or_not():
    """A map of 100 images of a molecule that another map shows fits half of them better, by their noise."""
    noise = 5.0 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(3))
    evidence, generic = 50.0 + noise, torch.zeros(1000)
    members = torch.where(torch.arange(1000) < 100, 1, 0)
    assert needless(evidence, generic, 0.05) == ()
    assert needless(evidence, generic, 0.05, members=members) in ((0,), (1,))
    evidence[members == 1, 1] += 20.0
    evidence[members == 0, 0] += 20.0
    evidence[:3, 1] = evidence[-3:, 0] = -torch.inf  # not computed, since it is known to be low
    assert needless(evidence, generic, 0.05, median=True, members=members) == ()
