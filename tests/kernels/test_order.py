"""The order of poses and points: neighbours in it lie close together, and nothing is lost."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from cryoloom.kernels import cpu
from cryoloom.kernels.order import BUNDLE, RUN, Rows, bundles, parts, view_order
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import exponential, random_rotations

SIDE, SCALE = 132, 2.0


def test_runs_fit_into_the_buffers_of_the_kernels():
    """The kernels have the number to themselves: their cache does not see a change in another file."""
    assert (RUN, BUNDLE) == (cpu.RUN, cpu.BUNDLE)


def planes_apart_degrees(R: torch.Tensor) -> torch.Tensor:
    """Angle between the planes of consecutive slices."""
    normal = R[:, :, 2]
    return torch.rad2deg(torch.arccos((normal[1:] * normal[:-1]).sum(1).abs().clamp(max=1)))


def test_consecutive_views_are_neighbours(generator):
    R = random_rotations(4000, generator)
    order = view_order(R)
    assert torch.equal(order.sort().values, torch.arange(4000))
    # 4,000 planes are 1.3 degrees apart; in any order, 57
    assert planes_apart_degrees(R[order]).median() < 3.0
    assert planes_apart_degrees(R).median() > 40.0


def test_neither_the_angle_in_the_plane_nor_the_side_that_is_seen_matters(generator):
    R = random_rotations(200, generator)
    turn = torch.zeros(200, 3, dtype=R.dtype)
    turn[:, 2] = torch.rand(200, generator=generator, dtype=R.dtype) * 6
    flipped = R @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=R.dtype))
    both = torch.cat([R @ exponential(turn), flipped])
    assert planes_apart_degrees(both[view_order(both)])[::2].max() < 0.5


def test_poses_that_are_alike_keep_their_order():
    assert torch.equal(view_order(torch.eye(3).expand(50, 3, 3)), torch.arange(50))


@pytest.mark.parametrize("inner", [None, 20])
def test_rows_hold_every_point_once_in_runs_along_x(inner):
    disc = FourierDisc.create(300, 1.0, 140)
    index = disc.index.numpy() if inner is None else disc.index[disc.count(inner) :].numpy()
    rows = Rows.of(index)
    assert np.array_equal(np.sort(rows.order), np.arange(len(index)))
    assert np.array_equal(rows.frequency, index[rows.order].T)
    assert np.array_equal(np.concatenate([np.arange(a, a + n) for a, n in rows.runs]), np.arange(len(index)))
    assert rows.runs[:, 1].max() == RUN
    for first, count in rows.runs:
        ix, iy = rows.frequency[:, first : first + count]
        assert (np.diff(ix) == 1).all()
        assert (iy == iy[0]).all()


@pytest.mark.parametrize("threads", [1, 2, 7, 16])
def test_the_parts_of_a_grid_hold_the_same_work(threads, generator):
    rows = Rows.of(FourierDisc.create(64, 1.0, 30).index.numpy())
    _, bounds = parts(random_rotations(3000, generator).numpy(), rows, SCALE, SIDE, threads)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, SIDE, threads + 1)
    assert (np.diff(bounds) >= 1).all()
    R = random_rotations(300, generator).numpy()
    where = SCALE * np.einsum("nij,jp->inp", R[:, :, :2], rows.frequency)
    z = np.where(where[0] < 0, -where[2], where[2]).ravel() + SIDE // 2
    work = np.histogram(z, bounds)[0] / z.size
    assert work.max() < 1.5 / threads


@pytest.mark.parametrize(("turn", "axis"), [((0.0, 0.0, 0.0), 1), ((np.pi / 2, 0.0, 0.0), 0)])
def test_slices_within_one_plane_are_divided_along_it(turn, axis):
    """All views are along z, or all along y."""
    R = exponential(torch.tensor(turn)).expand(100, 3, 3).numpy()
    rows = Rows.of(FourierDisc.create(64, 1.0, 30).index.numpy())
    found, bounds = parts(R, rows, SCALE, SIDE, 4)
    assert found == axis
    assert (np.diff(bounds) >= 5).all()


def test_bundles_keep_an_image_together_and_hold_every_sample_once(generator):
    counts = torch.tensor([1, 4, 20, 3])
    image = torch.repeat_interleave(torch.tensor([7, 2, 5, 2]), counts)
    R = random_rotations(4, generator, torch.float32).repeat_interleave(counts, 0)
    order, bounds = bundles(image, R)
    assert torch.equal(order.sort().values, torch.arange(len(image)))
    sizes = torch.diff(bounds)
    assert sorted(sizes.tolist()) == sorted([1, 4, BUNDLE, BUNDLE, 20 - 2 * BUNDLE, 3])
    for a, b in pairwise(bounds.tolist()):
        assert torch.equal(order[a:b], order[a] + torch.arange(b - a))
        assert len(set(image[order[a:b]].tolist())) == 1
    firsts = order[bounds[:-1]]
    assert torch.equal(view_order(R[firsts]), torch.arange(len(firsts)))


def test_samples_of_unlike_views_are_no_bundle(generator):
    """Such as those of an image's symmetry mates."""
    R = random_rotations(3, generator, torch.float32)
    assert torch.diff(bundles(torch.zeros(3, dtype=torch.int64), R)[1]).tolist() == [1, 1, 1]
    opposite = torch.stack([R[0], R[0] @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))])  # the same plane
    assert torch.diff(bundles(torch.zeros(2, dtype=torch.int64), opposite)[1]).tolist() == [2]
