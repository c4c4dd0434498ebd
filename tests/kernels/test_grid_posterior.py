"""The posterior over a grid against the dense softmax."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from cryoloom.physics.half_turns import in_groups, unfolded

B, T, M = 6, 5, 300


def random_scores(generator: torch.Generator, spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    return scores_of(B, T, M, spread, generator)


def scores_of(b: int, t: int, m: int, spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The four parts of the cross term, each with half of its spread; both norms; log prior."""
    cross = 0.5 * spread * torch.randn(4, b, t, m // 4, generator=generator)
    return cross, torch.randn(2, b, m // 4, generator=generator), torch.randn(b, t, generator=generator)


def dense(cross: Tensor, norm: Tensor, prior: Tensor) -> Tensor:
    """All scores in float64, [B, T * M]: keys are t * M + m."""
    return (unfolded(cross.double()) + in_groups(norm)[:, None] + prior[:, :, None]).flatten(1)


def kept_probabilities(score: Tensor, window: float) -> Tensor:
    """Softmax over the entries within the window."""
    kept = score > score.max(1, keepdim=True).values - window
    return torch.where(kept, score, -torch.inf).softmax(1)


@pytest.mark.parametrize("window", [2.5, 15.0, 1e4])
def test_evidence_is_the_log_sum_of_the_kept_entries(window, kernels, generator):
    scores = random_scores(generator)
    found = kernels.grid_posterior(*scores, torch.rand(B, generator=generator), 4, 3, window)
    score = dense(*scores)
    kept = torch.where(score > score.max(1, keepdim=True).values - window, score, -torch.inf)
    torch.testing.assert_close(found.log_evidence.double(), kept.logsumexp(1), rtol=0, atol=1e-5)


def test_the_default_window_costs_the_evidence_nothing(kernels, generator):
    scores = random_scores(generator)
    found = kernels.grid_posterior(*scores, torch.rand(B, generator=generator), 4, 3)
    torch.testing.assert_close(found.log_evidence.double(), dense(*scores).logsumexp(1), rtol=0, atol=1e-3)


def test_best_entries_are_the_largest_scores_in_order(kernels, generator):
    scores = random_scores(generator)
    found = kernels.grid_posterior(*scores, torch.rand(B, generator=generator), 4, 7)
    value, key = dense(*scores).topk(7, dim=1)
    assert torch.equal(found.best, key)
    torch.testing.assert_close(found.best_score.double(), value, rtol=1e-6, atol=1e-6)


def test_slots_beyond_the_kept_entries_are_marked(kernels, generator):
    scores = random_scores(generator)
    # of the four rotations of a group, the second: half turned about z
    scores[0][:, :, 2, 33] += 50 * torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None]
    found = kernels.grid_posterior(*scores, torch.rand(B, generator=generator), 4, 3)
    key = 2 * M + M // 4 + 33
    assert found.best[:, 0].tolist() == [key] * B
    assert (found.best[:, 1:] == -1).all()
    assert (found.best_score[:, 1:] == -torch.inf).all()
    assert (found.picks == key).all()


def test_more_best_entries_than_there_are(kernels, generator):
    scores = random_scores(generator)
    few = scores[0][:, :, :1, :1].contiguous(), scores[1][:, :, :1].contiguous(), scores[2][:, :1].contiguous()
    found = kernels.grid_posterior(*few, torch.rand(B, generator=generator), 3, 9)
    assert found.best.shape == (B, 9)
    assert (found.best[:, :4].sort(1).values == torch.arange(4)).all()
    assert (found.best[:, 4:] == -1).all()


@pytest.mark.parametrize("window", [3.0, 15.0])
@pytest.mark.parametrize("draws", [1, 8, 500])
def test_systematic_draws_share_out_the_posterior(draws, window, kernels, generator):
    """Each entry is drawn floor(S p) or ceil(S p) times, but for one where the cumulative sums are rounded."""
    scores = random_scores(generator)
    found = kernels.grid_posterior(*scores, torch.rand(B, generator=generator), draws, 1, window)
    assert found.picks.shape == (B, draws)
    p = kept_probabilities(dense(*scores), window)
    count = torch.zeros(B, T * M).scatter_add_(1, found.picks, torch.ones(B, draws))
    assert (count - draws * p).abs().max() < 1 + 1e-4
    assert count[p == 0].sum() == 0
    assert (found.picks.diff(dim=1) >= 0).all()


def test_single_draws_are_distributed_as_the_posterior(kernels, generator):
    """Images alike but for their uniforms: independent draws, by chi-squared over bins of rotations and shifts."""
    n = 20_000
    cross, norm, prior = scores_of(1, 3, 40, 1.5, generator)
    copies = (
        cross.expand(-1, n, -1, -1).contiguous(),
        norm.expand(-1, n, -1).contiguous(),
        prior.expand(n, -1).contiguous(),
    )
    found = kernels.grid_posterior(*copies, torch.rand(n, generator=generator), 1, 1)
    expected = n * kept_probabilities(dense(cross, norm, prior), 15.0)[0]
    observed = torch.bincount(found.picks[:, 0], minlength=120).double()
    often = expected > 10
    pooled = torch.cat([observed[often], observed[~often].sum()[None]])
    against = torch.cat([expected[often], expected[~often].sum()[None]])
    assert chisquare(pooled.numpy(), (against * (n / against.sum())).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(1, 4), (1, 1024), (3, 1020), (2, 1500)])
def test_grids_of_any_size(shape, kernels, generator):
    """Sizes about the blocks into which the sums are divided; the uniform's ends among the draws."""
    t, m = shape
    cross, norm, prior = scores_of(B, t, m, 2.0, generator)
    uniform = torch.tensor([0.0, 1 - 2**-24, 0.5, 0.1, 0.9, 0.3])
    found = kernels.grid_posterior(cross, norm, prior, uniform, draws=50, best=1)
    p = kept_probabilities(dense(cross, norm, prior), 15.0)
    count = torch.zeros(B, t * m).scatter_add_(1, found.picks, torch.ones(B, 50))
    assert (count - 50 * p).abs().max() < 1 + 1e-4
    assert count[p == 0].sum() == 0


def test_both_implementations_draw_the_same(both, generator):
    scores = random_scores(generator)
    uniform = torch.rand(B, generator=generator)
    a = both.numba.grid_posterior(*scores, uniform, 100, 4)
    b = both.torch.grid_posterior(*scores, uniform, 100, 4)
    # a draw that falls on the boundary of two entries may go either way
    assert (a.picks != b.picks).sum() <= 2
    assert torch.equal(a.best, b.best)
    torch.testing.assert_close(a.log_evidence, b.log_evidence)
