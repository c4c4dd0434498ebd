"""Normal equations of maps, changed."""

from __future__ import annotations

import pytest
import torch

from cryoloom.kernels import dispatch, gpu
from cryoloom.kernels.half_grid import half_to_volume, shell_of, volume_to_half
from cryoloom.maps.backprojection import FLOOR, Statistics, Together, negated_about_spheres, solve, within
from cryoloom.maps.band import Band
from cryoloom.maps.mask import radius_grid
from cryoloom.recipes.random_starts import without_radial_mean

BOX, RADIUS = 24, 10


def blurred_shell(generator: torch.Generator) -> torch.Tensor:
    """A shell with lumps, no finer than the band limit."""
    radius = radius_grid(BOX, torch.float32, torch.device("cpu"))
    lumps = torch.fft.irfftn(
        torch.fft.rfftn(torch.randn(BOX, BOX, BOX, generator=generator))
        * torch.exp(-40 * torch.stack(torch.meshgrid(*3 * [torch.fft.fftfreq(BOX)], indexing="ij")).square().sum(0))[
            ..., : BOX // 2 + 1
        ],
        s=(BOX,) * 3,
    )
    return torch.exp(-0.5 * ((radius - 7) / 1.5) ** 2) * (1 + 3 * lumps / lumps.std())


def test_what_differs_from_the_mean_over_spheres_is_negated(generator):
    volume = blurred_shell(generator)
    half = volume_to_half(volume)
    den = torch.full(half.shape, 3.0)
    sums = Statistics(den * half, den)
    before, after = (solve(s, None, RADIUS) for s in (sums, negated_about_spheres(sums)))
    rest = without_radial_mean(before)
    expected = before - 2 * rest
    inside = radius_grid(BOX, torch.float32, torch.device("cpu")) < 11
    assert float((after - expected)[inside].norm() / rest[inside].norm()) < 0.15  # of two ways to interpolate


def random_sums(side: int, generator: torch.Generator) -> Statistics:
    """Normal equations with weights between 0 and 5, a third of them 0 as where no image has been."""
    shape = (side, side, side // 2 + 2)
    num = torch.view_as_complex(torch.randn(*shape, 2, generator=generator))
    den = 5 * torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) > 1 / 3)
    return Statistics(num * den, den)


@pytest.mark.parametrize("ssnr", [None, torch.tensor([50.0, 40.0, 20.0, 5.0, 1.0])])
@pytest.mark.parametrize(("side", "radius"), [(32, 6), (34, 7), (30, 5.5)])
def test_solve_divides_by_the_weights_and_what_the_filter_adds(ssnr, side, radius, generator):
    sums = random_sums(side, generator)
    distance = shell_of(side)
    shells = distance.round().long()
    shells = shells.clamp(max=int(radius))  # the rim beyond the last whole shell is weighed as that one
    means = torch.stack(
        [sums.den[(shells == s) & (distance < int(radius) + 0.49)].mean() for s in range(int(radius) + 1)]
    )
    added = FLOOR * means if ssnr is None else means / torch.cat([ssnr, ssnr[-1:].expand(len(means) - len(ssnr))])
    quotient = sums.num / (sums.den + added[shells] + 1e-9 * means.max())
    expected = half_to_volume(torch.where(distance <= radius + 0.5, quotient, 0))
    torch.testing.assert_close(solve(sums, ssnr, radius), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_sets_together_are_their_sum(generator):
    one, two, three = (random_sums(24, generator) for _ in range(3))
    both = Statistics(one.num + two.num + three.num, one.den + two.den + three.den)
    assert torch.equal(solve(Together((one, two, three)), None, 4), solve(both, None, 4))


def test_planes_are_worked_on_alike_on_both_devices(generator):
    sums, first, radius = random_sums(26, generator), 5, 4
    num, den = sums.planes(slice(first, 22))
    reach, prior = 2 * (radius + 0.5), torch.rand(radius + 3, generator=generator) + 0.1
    total, count = dispatch.shell_sums(den, first, 2, reach, radius + 3)
    expected, points = gpu.shell_sums(den, first, 2, reach, radius + 3)
    torch.testing.assert_close(total, expected)
    assert torch.equal(count, points)
    found = dispatch.quotients(num, den, first, 2, prior=prior, reach=reach)
    torch.testing.assert_close(found, gpu.quotients(num, den, first, 2, prior=prior, reach=reach))


def test_a_smaller_grid_is_read_from_the_larger_one(generator):
    sums, ssnr = random_sums(Band(9).side, generator), torch.full((6,), 4.0)
    small = within(sums, 5)
    assert small.side == Band(5).side
    assert torch.equal(solve(small, ssnr, 5), solve(sums.resized(small.side), ssnr, 5))
    assert within(sums, 9) is sums
