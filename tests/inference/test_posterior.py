"""The weighted candidates themselves."""

import pytest
import torch

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.physics.rotations import random_rotations


@pytest.fixture
def some(generator) -> PosePosterior:
    """B = 4, K = 5; one slot of each image is unused."""
    weight = torch.randn(4, 5, generator=generator)
    weight[torch.arange(4), torch.tensor([0, 2, 4, 1])] = -torch.inf
    return PosePosterior(
        random_rotations(20, generator).reshape(4, 5, 3, 3),
        torch.randn(4, 5, 2, generator=generator),
        weight,
        torch.eye(5).expand(4, 5, 5, 5) * torch.arange(20.0).reshape(4, 5, 1, 1),
    ).normalised()


def test_normalised_weights_sum_to_one_and_keep_their_ratios(some):
    torch.testing.assert_close(some.log_weight.exp().sum(1), torch.ones(4))
    heavier = PosePosterior(some.R, some.t, some.log_weight + 3.0)
    torch.testing.assert_close(heavier.normalised().log_weight, some.log_weight)


def test_unused_slots_stay_unused(some):
    assert (some.log_weight == -torch.inf).sum(1).tolist() == [1, 1, 1, 1]


def test_best_is_the_heaviest(some):
    R, t = some.best()
    for b in range(4):
        k = int(some.log_weight[b].argmax())
        assert torch.equal(R[b], some.R[b, k])
        assert torch.equal(t[b], some.t[b, k])


def test_top_takes_everything_of_a_candidate_along(some):
    top = some.top(3)
    assert (top.log_weight.diff(dim=1) <= 0).all()
    torch.testing.assert_close(top.log_weight.exp().sum(1), torch.ones(4))
    for b in range(4):
        order = some.log_weight[b].argsort(descending=True)[:3]
        assert torch.equal(top.R[b], some.R[b, order])
        assert torch.equal(top.t[b], some.t[b, order])
        assert torch.equal(top.covariance[b], some.covariance[b, order])


def test_top_of_more_than_there_are_is_all(some):
    assert some.top(99).log_weight.shape == (4, 5)


def test_certain_poses_have_one_candidate_of_weight_one(generator):
    R, t = random_rotations(3, generator), torch.randn(3, 2, generator=generator, dtype=torch.float64)
    known = PosePosterior.certain(R, t)
    assert len(known) == 3
    assert known.log_weight.tolist() == [[0.0]] * 3
    assert known.log_weight.dtype == torch.float64
    best_R, best_t = known.best()
    assert torch.equal(best_R, R)
    assert torch.equal(best_t, t)
