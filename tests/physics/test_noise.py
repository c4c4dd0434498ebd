"""Noise: sampled spectra, the likelihood's normalisation, whitening by shell."""

import math

import pytest
import torch

from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.noise import ResidualPower, log_likelihood, sample_noise, shell_means, spread_shells

BOXES = [24, 25]


def coloured(disc: FourierDisc) -> torch.Tensor:
    """A spectrum that falls eightfold from the centre to the rim, one value per shell."""
    shell = torch.arange(int(disc.shells.max()) + 1, dtype=disc.k.dtype)
    return 100 * torch.exp(-2 * shell / shell.max())


@pytest.mark.parametrize("box", BOXES)
def test_sampled_noise_has_the_spectrum(box, generator):
    disc = FourierDisc.create(box, 1.0, dtype=torch.float64)
    spectrum = coloured(disc)
    images = sample_noise(spectrum, 2000, box, generator)
    assert images.shape == (2000, box, box)
    measured = shell_means(disc.transform(images).abs().square(), disc).mean(0)
    # E|n(k)|^2 = spectrum; the smallest shells hold 1 and 4 independent real numbers an image
    independent = shell_means(torch.ones(len(disc.k), dtype=torch.float64), disc).new_zeros(len(spectrum))
    independent.index_add_(0, disc.shells, disc.weight)
    error = (measured / spectrum - 1).abs() / (2 / (independent * 2000)).sqrt()
    assert error.max() < 4  # standard errors


def test_white_noise_has_variance_s2_over_box_squared(generator):
    """s2 = s^2 D^2, with s the standard deviation of a pixel."""
    box, s = 16, 3.0
    images = sample_noise(torch.full((1,), s**2 * box**2, dtype=torch.float64), 500, box, generator)
    assert float(images.std()) == pytest.approx(s, rel=0.01)


def test_noise_follows_the_generator():
    spectrum = torch.ones(4)
    one, two = (sample_noise(spectrum, 2, 8, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == torch.float32


@pytest.mark.parametrize("box", BOXES)
def test_likelihood_at_the_truth_is_chi_squared(box, generator):
    """-2 log L is chi^2 with one degree of freedom per real number: mean N, variance 2 N.

    A missing half, a missing Hermitian weight or a variance meant per component each breaks the mean.
    """
    count = 2000
    disc = FourierDisc.create(box, 1.0, 9, dtype=torch.float64)
    spectrum = coloured(disc)
    noise = disc.transform(sample_noise(spectrum, count, box, generator))
    truth = torch.randn(len(disc.k), generator=generator, dtype=torch.complex128)
    chi2 = -2 * log_likelihood(
        truth + noise, truth.expand_as(noise), spread_shells(spectrum, disc).expand(count, -1), disc.weight
    )
    freedom = float(disc.weight.sum())  # frequencies of the full plane = independent real numbers
    assert abs(float(chi2.mean()) - freedom) < 4 * math.sqrt(2 * freedom / count)
    assert float(chi2.var()) == pytest.approx(2 * freedom, rel=0.1)


@pytest.mark.parametrize("box", BOXES)
def test_likelihood_gives_honest_uncertainties(box, generator):
    """The curvature of log L in an image's amplitude is the inverse variance of its best estimate."""
    count = 2000
    disc = FourierDisc.create(box, 1.0, 9, dtype=torch.float64)
    spectrum = coloured(disc)
    variance = spread_shells(spectrum, disc).expand(count, -1)
    signal = disc.transform(torch.randn(box, box, generator=generator, dtype=torch.float64))
    observed = signal + disc.transform(sample_noise(spectrum, count, box, generator))
    amplitude = torch.ones(count, 1, dtype=torch.float64, requires_grad=True)
    value = log_likelihood(observed, amplitude * signal, variance, disc.weight)
    (slope,) = torch.autograd.grad(value.sum(), amplitude, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), amplitude)
    z = (slope / -curvature * (-curvature).sqrt()).detach()  # a quadratic: one Newton step is exact
    assert abs(float(z.mean())) < 4 / math.sqrt(count)
    assert float(z.var()) == pytest.approx(1, abs=0.1)  # 2 if the half were forgotten


def test_log_likelihood_by_hand():
    observed = torch.tensor([1 + 2j, 3 + 0j, 0 + 0j], dtype=torch.complex128)
    predicted = torch.tensor([0 + 0j, 3 + 1j, 2 + 0j], dtype=torch.complex128)
    variance = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    assert float(log_likelihood(observed, predicted, variance, weight)) == pytest.approx(-0.5 * (5 + 1 + 2))


@pytest.mark.parametrize("box", BOXES)
def test_shell_means_are_full_plane_averages(box, generator):
    disc = FourierDisc.create(box, 1.0, 8, dtype=torch.float64)
    power = disc.transform(torch.randn(3, box, box, generator=generator, dtype=torch.float64)).abs().square()
    found = shell_means(power, disc)
    full = disc.scatter(power.to(torch.complex128)).real
    axis = torch.arange(box) - box // 2
    radius = (axis[:, None] ** 2 + axis**2).double().sqrt()
    for shell in range(9):
        ring = (radius.round() == shell) & (radius <= 8)
        torch.testing.assert_close(found[:, shell], full[:, ring].mean(-1))


def test_spread_is_the_inverse_of_the_mean_and_holds_the_last_value():
    disc = FourierDisc.create(20, 1.0, dtype=torch.float64)
    spectrum = torch.rand(2, 10, dtype=torch.float64)
    torch.testing.assert_close(shell_means(spread_shells(spectrum, disc), disc), spectrum)
    short = spread_shells(spectrum[:, :4], disc)
    assert (short[:, disc.shells >= 3] == spectrum[:, 3:4]).all()


def test_spectra_move_towards_the_power_of_residuals():
    disc = FourierDisc.create(16, 2.0, 5)
    group = torch.tensor([1, 1, 1])
    found = ResidualPower.of_coefficients(disc.shells.float().expand(3, -1), group, disc, groups=2)
    noise = torch.full((2, 9), 10.0)
    learnt = (found + found).learnt(noise, 0.25)
    torch.testing.assert_close(learnt[1, :6], 7.5 + 0.25 * torch.arange(6.0))
    assert (learnt[0] == 10).all()  # no image of that group
    assert (learnt[1, 6:] == 10).all()  # beyond the disc


def test_spectra_move_by_a_rate_of_each_group():
    residual = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 8.0]])
    found = ResidualPower.of_shells(residual, torch.tensor([0, 0, 2]), groups=3)
    learnt = found.learnt(torch.full((3, 2), 4.0), torch.tensor([[0.5], [0.5], [0.25]]))
    torch.testing.assert_close(learnt, torch.tensor([[3.0, 3.5], [4.0, 4.0], [5.0, 5.0]]))
