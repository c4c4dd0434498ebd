"""Normal equations without some of their images."""

from __future__ import annotations

import pytest
import torch

from cryoloom.kernels import dispatch, gpu
from cryoloom.kernels.dispatch import Insertion
from cryoloom.kernels.half_grid import lines_within, shell_of
from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.backprojection import Packed, Statistics, accumulate, solve
from cryoloom.maps.left_out import Record, without_each
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import random_rotations

RADIUS, SIDE, COUNT, GROUPS = 6, 32, 30, 3


def test_each_group_is_taken_out_of_the_sums_of_all() -> None:
    generator = torch.Generator().manual_seed(4)
    disc = FourierDisc.create(16, 2.0, RADIUS)
    P = len(disc.weight)
    observed = torch.view_as_complex(torch.randn(COUNT, P, 2, generator=generator))
    images = Images(observed, torch.ones(COUNT, P), torch.ones(1, P), torch.zeros(COUNT, dtype=torch.int64), disc)
    R = random_rotations(COUNT, generator, torch.float32)
    samples = Samples(torch.arange(COUNT), R, torch.zeros(COUNT, 2), torch.ones(COUNT))
    group = torch.arange(COUNT) % GROUPS

    growing, records = Insertion(SIDE), []
    for g in range(GROUPS):
        if g:
            records.append(Record.of(Statistics(*growing.sums()), RADIUS))
        growing.add(images, samples.rows(torch.nonzero(group == g)[:, 0]))
    total = Statistics(*growing.sums())
    whole = accumulate(images, samples, SIDE)
    torch.testing.assert_close(total.num, whole.num, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total.den, whole.den, atol=1e-5, rtol=1e-5)

    ssnr = torch.full((RADIUS + 1,), 3.0)
    for g, found in enumerate(without_each(total, records)):
        rest = accumulate(images, samples.rows(torch.nonzero(group != g)[:, 0]), SIDE)
        expected, held = solve(rest, ssnr, RADIUS), solve(total, ssnr, RADIUS)
        error = float((solve(found, ssnr, RADIUS) - expected).norm() / expected.norm())
        assert error < 0.005, (g, error)  # rounded to eight bits: measured 0.002
        assert float((held - expected).norm() / expected.norm()) > 0.3  # the map that holds the group
        # where only the group's images are, nothing is left
        num, den = found.planes(slice(0, SIDE))
        alone = (rest.den == 0) & (total.den > 0) & (shell_of(SIDE) <= RADIUS)
        assert int(alone.sum()) > 20
        assert not num[alone].any()
        assert not den[alone].any()


def test_records_are_alike_on_both_devices() -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (20, 20, 12)
    num = torch.view_as_complex(torch.randn(*shape, 2, generator=generator))
    den = torch.rand(shape, generator=generator)
    lines = lines_within(20, 4, torch.device("cpu"))
    early, late = (dispatch.record(s * num, s * den, lines) for s in (0.3, 0.6))
    assert torch.equal(late, gpu.record(0.6 * num, 0.6 * den, lines))
    planes = num[5:9], den[5:9]
    for after, before in ((late, early), (None, early), (late, None)):
        found = dispatch.left_out(*planes, after, before, lines=lines, first=5)
        expected = gpu.left_out(*planes, after, before, lines=lines, first=5)
        torch.testing.assert_close(found[0], expected[0], atol=0, rtol=0)
        torch.testing.assert_close(found[1], expected[1], atol=0, rtol=0)


@pytest.mark.parametrize("radius", [3, 4])
def test_packed_sums_are_the_sums_up_to_their_radius(radius: int) -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (24, 24, 14)
    sums = Statistics(torch.view_as_complex(torch.randn(*shape, 2, generator=generator)), torch.rand(shape))
    packed = Packed.of(sums, radius)
    assert torch.equal(solve(packed, None, radius), solve(sums, None, radius))
    lines = lines_within(24, radius, torch.device("cpu"))
    assert torch.equal(packed.values, gpu.pack(sums.num, sums.den, lines))
    for found, expected in zip(packed.planes(slice(3, 9)), gpu.unpack(packed.values, lines, slice(3, 9)), strict=True):
        assert torch.equal(found, expected)
