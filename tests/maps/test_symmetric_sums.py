"""Exchanging grid axes must give the sums of inserting every image at every symmetry mate."""

from __future__ import annotations

import pytest
import torch

from cryoloom.kernels import dispatch
from cryoloom.kernels.dispatch import Insertion
from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.symmetric_sums import SymmetricSums
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import random_rotations, symmetry_group

RADIUS, COUNT = 7, 6


def _inserted(R: torch.Tensor, side: int, copies: int = 1, seed: int = 4, to: Insertion | None = None) -> Insertion:
    """Sums of random images, each at `copies` successive rows of R; of `to` and these, where that is given."""
    generator = torch.Generator().manual_seed(seed)
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
    inserted = Insertion(side) if to is None else to
    inserted.add(images, Samples(image, R.contiguous(), t, torch.full((len(R),), 1 / copies)))
    return inserted


def _close(found: Insertion, expected: Insertion) -> None:
    for a, b in zip(found.sums(), expected.sums(), strict=True):
        assert float((a - b).abs().max()) < 2e-5 * float(b.abs().max())


@pytest.fixture(params=["numba", "torch"])
def kernels(request, monkeypatch) -> str:
    """What a CPU does, and what a GPU does."""
    if request.param == "torch":
        monkeypatch.setattr(dispatch, "on_gpu", lambda at: True)
    return request.param


@pytest.mark.parametrize("side", [32, 35])
@pytest.mark.parametrize("symmetry", ["C1", "C2", "C3", "C4", "C6", "D2", "D3", "D4", "D7", "T", "O", "I"])
def test_sums_are_those_of_inserting_all_mates(symmetry: str, side: int, kernels: str) -> None:
    """num and den: float32 rounding only."""
    group = symmetry_group(symmetry).float()
    R = random_rotations(COUNT, torch.Generator().manual_seed(3), torch.float32)
    every = torch.einsum("gij,cjk->cgik", group, R).reshape(-1, 3, 3)
    expected = _inserted(every, side, len(group))
    sums = SymmetricSums.of(group)
    n = len(sums.mates)
    samples = sums.at_mates(Samples(torch.arange(COUNT), R, torch.zeros(COUNT, 2), torch.ones(COUNT)))
    assert float(samples.weight.sum()) == pytest.approx(COUNT)
    found = _inserted(samples.R, side, n)
    statistics = sums.imposed(found)
    for a, b in zip((statistics.num, statistics.den), expected.sums(), strict=True):
        assert float((a - b).abs().max()) < 2e-5 * float(b.abs().max())


@pytest.mark.parametrize("symmetry", ["C2", "O"])
def test_more_images_may_be_added_to_a_mean(symmetry: str, kernels: str) -> None:
    """The mean of a mean and of what was added is that of everything."""
    sums = SymmetricSums.of(symmetry_group(symmetry).float())
    R = random_rotations(2 * COUNT, torch.Generator().manual_seed(3), torch.float32)
    apart, together = Insertion(32), Insertion(32)
    for seed, rotations in enumerate(R.split(COUNT)):
        sums.imposed(_inserted(rotations, 32, seed=seed, to=apart))
        _inserted(rotations, 32, seed=seed, to=together)
    sums.imposed(together)
    _close(apart, together)


@pytest.mark.parametrize("threads", [2, 5, 50])
def test_a_mean_does_not_depend_on_the_number_of_threads(threads: int, monkeypatch) -> None:
    sums = SymmetricSums.of(symmetry_group("O").float())
    R = random_rotations(COUNT, torch.Generator().manual_seed(3), torch.float32)
    found = []
    for number in (1, threads):
        monkeypatch.setattr(dispatch, "kernel_threads", lambda points=None, n=number: n)
        found.append(sums.imposed(_inserted(R, 32)))
    assert torch.equal(found[0].num, found[1].num)
    assert torch.equal(found[0].den, found[1].den)


@pytest.mark.parametrize(
    ("symmetry", "mates"), [("C1", 1), ("C2", 1), ("C3", 3), ("D7", 7), ("T", 1), ("O", 1), ("I", 5)]
)
def test_few_mates_need_an_insertion(symmetry: str, mates: int) -> None:
    """Elements that exchange axes need none."""
    group = symmetry_group(symmetry).float()
    sums = SymmetricSums.of(group)
    assert len(sums.mates) == mates
    assert len(sums.exchanges) * mates == len(group)
