"""Surviving coarse rotations and the posterior below them, against the dense softmax over the fine grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.grids import children
from cryoloom.kernels import cpu_posterior
from cryoloom.physics.half_turns import in_groups, unfolded

B, T, P = 7, 6, 30
COARSE, FINE = 1, 2  # nside: 72 and 576 rotations
M = 72 * FINE**3
THREADS = 2


def random_coarse(generator: torch.Generator, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores cross [4, B, T, m], norm [2, B, m], prior [B, T] on the coarse grid, in parts."""
    m = 72 * COARSE**3 // 4
    return (
        (0.5 * spread * torch.randn(4, B, T, m, generator=generator)).numpy(),
        torch.randn(2, B, m, generator=generator).numpy(),
        torch.randn(B, T, generator=generator).numpy(),
    )


def survivors(scores, window: float, cap: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    kept, count = np.empty((B, cap), np.int32), np.empty(B, np.int64)
    alive = np.empty((B, cap, T), np.bool_)
    cpu_posterior.surviving_rotations(
        *scores, window=window, cap=cap, threads=THREADS, kept=kept, count=count, alive=alive
    )
    return [kept[b, : count[b]] for b in range(B)], [alive[b, : count[b]] for b in range(B)]


def dense(scores) -> np.ndarray:
    cross, norm, prior = (torch.from_numpy(x).double() for x in scores)
    return (unfolded(cross) + in_groups(norm)[:, None] + prior[:, :, None]).numpy()


@pytest.mark.parametrize("window", [1.0, 4.0, 1e3])
def test_survivors_are_the_rotations_within_the_window(window, generator):
    scores = random_coarse(generator)
    kept, alive = survivors(scores, window, 72)
    score = dense(scores)
    for b in range(B):
        floor = score[b].max() - window
        expected = np.flatnonzero(score[b].max(0) > floor)
        assert kept[b].tolist() == expected.tolist()
        assert (alive[b] == (floor < score[b][:, kept[b]].T)).all()


@pytest.mark.parametrize("cap", [1, 5, 20])
def test_at_most_cap_rotations_survive_and_those_are_the_best(cap, generator):
    scores = random_coarse(generator)
    kept, alive = survivors(scores, 1e3, cap)
    score = dense(scores)
    for b in range(B):
        # the floor is found by bisection, which ends at nine tenths of the cap
        assert 0.9 * cap < len(kept[b]) <= cap
        best = np.argsort(-score[b].max(0))[: len(kept[b])]
        assert sorted(kept[b]) == sorted(best)
        assert alive[b].all()  # the window holds all shifts, however few rotations are kept


@dataclass(frozen=True)
class Fine:
    """Random data and slices on the fine grid, as `child_posterior` takes them."""

    X: np.ndarray
    power: np.ndarray
    S: np.ndarray
    S2: np.ndarray
    prior: np.ndarray

    def score(self) -> np.ndarray:
        """[B, T, M] in float64."""
        cross = self.X.astype(np.float64) @ self.S.astype(np.float64).T
        return cross - 0.5 * (self.power.astype(np.float64) @ self.S2.T)[:, None] + self.prior[:, None]


@pytest.fixture
def fine(generator) -> Fine:
    return Fine(
        (0.4 * torch.randn(B, T, 2 * P, generator=generator)).numpy(),
        (0.2 * torch.rand(B, P, generator=generator)).numpy(),
        torch.randn(M, 2 * P, generator=generator).numpy(),
        torch.rand(M, P, generator=generator).numpy(),
        torch.randn(T, generator=generator).numpy(),
    )


@dataclass(frozen=True)
class Result:
    picks: np.ndarray
    best: np.ndarray
    best_score: np.ndarray
    evidence: np.ndarray


def run(fine: Fine, allowed, kept, count, uniform, draws: int, best: int) -> Result:
    out = Result(
        np.empty((B, draws), np.int64),
        np.empty((B, best), np.int64),
        np.empty((B, best), np.float32),
        np.empty(B, np.float32),
    )
    cpu_posterior.child_posterior(
        X=fine.X,
        power=fine.power,
        S=fine.S,
        S2=fine.S2,
        prior=fine.prior,
        allowed=allowed,
        kept=kept,
        count=count,
        children=children(COARSE, FINE),
        uniform=uniform,
        threads=THREADS,
        picks=out.picks,
        best_key=out.best,
        best_score=out.best_score,
        log_evidence=out.evidence,
    )
    return out


def check(result: Result, score: np.ndarray, draws: int) -> None:
    """Against scores [B, T, M], -inf where an entry is out of the question."""
    flat = torch.from_numpy(score.reshape(B, -1))
    torch.testing.assert_close(torch.from_numpy(result.evidence).double(), flat.logsumexp(1), rtol=0, atol=1e-4)
    p = flat.softmax(1)
    picks = torch.from_numpy(result.picks)
    count = torch.zeros(B, T * M).scatter_add_(1, picks, torch.ones(B, draws))
    assert (count - draws * p).abs().max() < 1 + 1e-3
    assert count[p == 0].sum() == 0
    # the best shift of each of the best rotations
    value, where = torch.from_numpy(score).max(1)
    top, rotation = value.topk(result.best.shape[1], dim=1)
    assert torch.equal(torch.from_numpy(result.best), where.gather(1, rotation) * M + rotation)
    torch.testing.assert_close(torch.from_numpy(result.best_score).double(), top, rtol=0, atol=1e-4)


def test_below_every_coarse_rotation_it_is_the_softmax_of_the_whole_fine_grid(fine, generator):
    n = 72 * COARSE**3
    kept = np.tile(np.arange(n, dtype=np.int32), (B, 1))
    uniform = torch.rand(B, generator=generator).numpy()
    result = run(fine, np.ones((B, n, T), np.bool_), kept=kept, count=np.full(B, n), uniform=uniform, draws=200, best=4)
    check(result, fine.score(), 200)


def test_with_a_huge_window_both_steps_are_the_softmax_of_the_whole_fine_grid(fine, generator):
    n = 72 * COARSE**3
    kept, count = np.empty((B, n), np.int32), np.empty(B, np.int64)
    alive = np.empty((B, n, T), np.bool_)
    cpu_posterior.surviving_rotations(
        *random_coarse(generator), window=1e4, cap=n, threads=THREADS, kept=kept, count=count, alive=alive
    )
    result = run(
        fine, alive, kept=kept, count=count, uniform=torch.rand(B, generator=generator).numpy(), draws=200, best=4
    )
    check(result, fine.score(), 200)


def test_only_children_of_the_kept_at_the_shifts_of_their_parents_take_part(fine, generator):
    cap = 9
    kept = torch.stack([torch.randperm(72, generator=generator)[:cap] for _ in range(B)]).int().numpy()
    count = torch.randint(2, cap + 1, (B,), generator=generator).numpy()
    allowed = (torch.rand(B, cap, T, generator=generator) < 0.4).numpy()
    allowed[..., 0] = True
    table = children(COARSE, FINE)
    score = np.full((B, T, M), -np.inf)
    for b in range(B):
        for parent, shifts in zip(kept[b, : count[b]], allowed[b], strict=False):
            below = table[parent]
            entries = np.ix_(np.flatnonzero(shifts), below[below >= 0])
            score[b][entries] = fine.score()[b][entries]
    result = run(
        fine, allowed, kept=kept, count=count, uniform=torch.rand(B, generator=generator).numpy(), draws=200, best=4
    )
    check(result, score, 200)
