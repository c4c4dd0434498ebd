"""Normal equations of maps, changed."""

from __future__ import annotations

import torch

from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.backprojection import Statistics, negated_about_spheres, solve
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
