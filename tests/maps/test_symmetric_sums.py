"""Exchanging grid axes must give the sums of inserting every image at every symmetry mate."""

from __future__ import annotations

import pytest
import torch

from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.backprojection import Statistics, accumulate
from cryoloom.maps.symmetric_sums import SymmetricSums
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import random_rotations, symmetry_group

RADIUS, COUNT = 7, 6


def _inserted(R: torch.Tensor, side: int, copies: int = 1) -> Statistics:
    """Sums of random images, each at `copies` successive rows of R."""
    generator = torch.Generator().manual_seed(4)
    disc = FourierDisc.create(16, 2.0, RADIUS)
    P = len(disc.weight)
    observed = torch.randn(COUNT, P, 2, generator=generator)
    images = Images(
        torch.view_as_complex(observed),
        torch.rand(COUNT, P, generator=generator) + 0.2,
        torch.ones(1, P),
        torch.zeros(COUNT, dtype=torch.int64),
        disc,
    )
    image = torch.arange(COUNT).repeat_interleave(copies)
    t = torch.randn(COUNT, 2, generator=generator).repeat_interleave(copies, 0).contiguous()
    return accumulate(images, Samples(image, R.contiguous(), t, torch.full((len(R),), 1 / copies)), side)


@pytest.mark.parametrize("side", [32, 35])
@pytest.mark.parametrize("symmetry", ["C1", "C2", "C3", "C4", "C6", "D2", "D3", "D4", "D7", "T", "O", "I"])
def test_sums_are_those_of_inserting_all_mates(symmetry: str, side: int) -> None:
    """num and den within the disc: float32 rounding only."""
    group = symmetry_group(symmetry).float()
    R = random_rotations(COUNT, torch.Generator().manual_seed(3), torch.float32)
    every = torch.einsum("gij,cjk->cgik", group, R).reshape(-1, 3, 3)
    expected = _inserted(every, side, len(group))
    sums = SymmetricSums.of(group)
    n = len(sums.mates)
    samples = sums.at_mates(Samples(torch.arange(COUNT), R, torch.zeros(COUNT, 2), torch.ones(COUNT)))
    assert float(samples.weight.sum()) == pytest.approx(COUNT)
    found = sums.imposed(_inserted(samples.R, side, n))
    for a, b in ((found.num, expected.num), (found.den, expected.den)):
        assert float((a - b).abs().max()) < 2e-5 * float(b.abs().max())


@pytest.mark.parametrize(
    ("symmetry", "mates"), [("C1", 1), ("C2", 1), ("C3", 3), ("D7", 7), ("T", 1), ("O", 1), ("I", 5)]
)
def test_few_mates_need_an_insertion(symmetry: str, mates: int) -> None:
    """Elements that exchange axes need none, and the chain is shorter than the group."""
    group = symmetry_group(symmetry).float()
    sums = SymmetricSums.of(group)
    assert len(sums.mates) == mates
    exchanges = 1
    for step in sums.steps:
        exchanges *= len(step)
    assert exchanges * mates == len(group)
    assert sum(len(step) - 1 for step in sums.steps) <= 6
