"""Matching against slices: the likelihood it computes, the poses it finds, and its pruning."""

from __future__ import annotations

import math

import pytest
import torch

from cryoloom.inference.poses import search
from cryoloom.inference.poses.grids import cached_rotation_grid, shift_grid, shift_step_angstrom
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.search import distinct_candidates, match, match_fine, shift_prior, slice_reference
from cryoloom.kernels import dispatch
from cryoloom.kernels.images import GridPosterior, Images
from cryoloom.physics.rotations import geodesic_degrees, random_rotations, symmetry_group
from inference.scene import BOX, PIXEL_SIZE, Phantom

B = 50  # more than are matched at once


def shifts_for(radius: float, steps: int = 2) -> torch.Tensor:
    step = shift_step_angstrom(BOX, PIXEL_SIZE, radius)
    return shift_grid(step, steps * step)


@pytest.fixture(scope="module")
def coarse(phantom):
    return slice_reference(phantom.grid, cached_rotation_grid(4), phantom.disc.prefix(6))


@pytest.fixture(scope="module")
def fine(phantom):
    return slice_reference(phantom.grid, cached_rotation_grid(8), phantom.disc.prefix(10))


@pytest.fixture(scope="module")
def tiny(phantom):
    """576 rotations: few enough to compute each likelihood on its own."""
    return slice_reference(phantom.grid, cached_rotation_grid(2), phantom.disc.prefix(5))


def random_poses(count: int, shifts: torch.Tensor, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations anywhere, shifts on the grid."""
    R = random_rotations(count, generator).float()
    return R, shifts[torch.randint(len(shifts), (count,), generator=generator)].contiguous()


def nearest_on(grid_R: torch.Tensor, R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index of, and degrees to, the grid's nearest rotation."""
    nearest = torch.einsum("mij,bij->bm", grid_R, R).argmax(1)
    return nearest, geodesic_degrees(grid_R[nearest], R)


def test_evidence_and_best_are_those_of_the_likelihood(phantom, tiny, generator):
    """Every entry of the grid by the kernel that refines poses, image by image."""
    shifts = shifts_for(5)
    R, t = random_poses(5, shifts, generator)
    images = phantom.images(R, t, 0.1, generator)
    prior = shift_prior(shifts, 20.0)
    found = match(images, tiny, shifts=shifts, prior=prior, uniform=torch.rand(5, generator=generator), draws=3, best=6)
    M, T = len(tiny.grid.R), len(shifts)
    all_R, all_t = tiny.grid.R.repeat(T, 1, 1), shifts.repeat_interleave(M, 0)
    part = images.prefix(5)
    for b in range(5):
        image = torch.full((T * M,), b)
        score = dispatch.normal_equations(phantom.grid, part, image, all_R, all_t)[0].double()
        score = score + prior.repeat_interleave(M)
        assert float(found.log_evidence[b]) == pytest.approx(float(score.logsumexp(0)), abs=2e-3)
        value, key = score.topk(6)
        torch.testing.assert_close(found.best_score[b].double(), value, rtol=0, atol=2e-3)
        assert found.best[b, 0] == key[0]


def test_likelihood_ratio_of_the_best_entry_is_its_score(phantom, coarse, generator):
    shifts = shifts_for(6)
    R, t = random_poses(B, shifts, generator)
    images = phantom.images(R, t, 0.1, generator)
    found = match(images, coarse, shifts=shifts, prior=torch.zeros(len(shifts)), uniform=torch.zeros(B), draws=1)
    M = len(coarse.grid.R)
    key = found.best[:, 0]
    poses = coarse.grid.R[key % M], shifts[key // M]
    ratio = dispatch.normal_equations(phantom.grid, images.prefix(6), torch.arange(B), *poses)[0]
    torch.testing.assert_close(ratio, found.best_score[:, 0], rtol=1e-4, atol=1e-2)


def test_noise_free_images_on_the_grid_are_found_exactly(phantom, coarse, generator):
    shifts = shifts_for(6)
    M = len(coarse.grid.R)
    key = torch.randint(len(shifts) * M, (B,), generator=generator)
    images = phantom.images(coarse.grid.R[key % M], shifts[key // M], 0.5)
    found = match(
        images,
        coarse,
        shifts=shifts,
        prior=shift_prior(shifts, 1e3),
        uniform=torch.rand(B, generator=generator),
        draws=4,
        best=2,
    )
    assert torch.equal(found.best[:, 0], key)


def test_noise_free_images_between_the_grid_find_its_nearest_rotation(phantom, fine, generator):
    """Nearest by likelihood, which for a few images is a rotation hardly farther than the nearest by angle."""
    shifts = shifts_for(10)
    R, t = random_poses(B, shifts, generator)
    found = match(
        phantom.images(R, t, 0.5), fine, shifts=shifts, prior=shift_prior(shifts, 1e3), uniform=torch.zeros(B), draws=1
    )
    rotation = found.best[:, 0] % len(fine.grid.R)
    nearest, distance = nearest_on(fine.grid.R, R)
    error = geodesic_degrees(fine.grid.R[rotation], R)
    # measured: 0.9 of them, error / distance 1.03
    assert (rotation == nearest).float().mean() > 0.75
    assert error.mean() < 1.15 * distance.mean()
    assert error.max() < fine.grid.spacing_degrees
    assert torch.equal(shifts[found.best[:, 0] // len(fine.grid.R)], t)


def test_draws_follow_the_posterior(phantom, tiny, generator):
    """Among many draws an entry of the best has the share that its score promises."""
    shifts = shifts_for(5)
    R, t = random_poses(B, shifts, generator)
    images = phantom.images(R, t, 0.01, generator)
    found = match(
        images,
        tiny,
        shifts=shifts,
        prior=shift_prior(shifts, 20.0),
        uniform=torch.rand(B, generator=generator),
        draws=1000,
        best=4,
    )
    share = (found.picks[:, None] == found.best[..., None]).float().mean(2)
    expected = (found.best_score - found.log_evidence[:, None]).exp()
    assert (share - expected).abs().max() < 2.5e-3
    assert ((expected > 0.01) & (expected < 0.9)).float().mean() > 0.3  # a posterior worth the name


def test_images_do_not_depend_on_each_other(phantom, coarse, generator):
    shifts = shifts_for(6)
    R, t = random_poses(B, shifts, generator)
    images = phantom.images(R, t, 0.1, generator)
    prior, uniform = shift_prior(shifts, 20.0), torch.rand(B, generator=generator)
    together = match(images, coarse, shifts=shifts, prior=prior, uniform=uniform, draws=4, best=3)
    rows = torch.tensor([49, 3, 41])
    few = Images(images.observed[rows], images.ctf[rows], images.variance, images.group[rows], images.disc)
    alone = match(few, coarse, shifts=shifts, prior=prior, uniform=uniform[rows], draws=4, best=3)
    assert torch.equal(alone.best, together.best[rows])
    torch.testing.assert_close(alone.log_evidence, together.log_evidence[rows], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("coarse_shifts", "fine_shifts"),
    [
        (shifts_for(3, 1), shifts_for(5, 1)),
        (shift_grid(4.0, 12.0), shift_grid(2.0, 12.0)),
    ],
)
def test_without_pruning_match_fine_is_match(coarse_shifts, fine_shifts, phantom, tiny, generator):
    """A window that keeps every coarse rotation and every shift."""
    coarse = slice_reference(phantom.grid, cached_rotation_grid(1), phantom.disc.prefix(3))
    R, t = random_poses(B, fine_shifts, generator)
    images = phantom.images(R, t, 0.05, generator)
    uniform = torch.rand(B, generator=generator)
    pruned = match_fine(
        images,
        coarse,
        fine=tiny,
        coarse_shifts=coarse_shifts,
        fine_shifts=fine_shifts,
        sigma_angstrom=20.0,
        uniform=uniform,
        draws=1,
        best=3,
        window=1e6,
        cap=72,
    )
    whole = match(
        images, tiny, shifts=fine_shifts, prior=shift_prior(fine_shifts, 20.0), uniform=uniform, draws=1, best=3
    )
    assert torch.equal(pruned.best[:, 0], whole.best[:, 0])
    torch.testing.assert_close(pruned.best_score[:, 0], whole.best_score[:, 0], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(pruned.log_evidence, whole.log_evidence, rtol=1e-5, atol=1e-3)


def test_pruning_loses_no_noisy_particle(phantom, coarse, fine, generator):
    coarse_shifts, fine_shifts = shifts_for(6), shifts_for(10, 3)
    R, t = random_poses(B, fine_shifts, generator)
    images = phantom.images(R, t, 0.15, generator)
    uniform = torch.rand(B, generator=generator)
    pruned = match_fine(
        images,
        coarse,
        fine=fine,
        coarse_shifts=coarse_shifts,
        fine_shifts=fine_shifts,
        sigma_angstrom=20.0,
        uniform=uniform,
        draws=4,
        best=3,
    )
    whole = match(
        images, fine, shifts=fine_shifts, prior=shift_prior(fine_shifts, 20.0), uniform=uniform, draws=4, best=3
    )
    M = len(fine.grid.R)
    error = {
        name: geodesic_degrees(fine.grid.R[found.best[:, 0] % M], R) for name, found in (("p", pruned), ("w", whole))
    }
    placed = error["w"] < 10
    assert placed.float().mean() > 0.7
    assert (error["p"][placed] < 10).float().mean() > 0.95
    assert (pruned.log_evidence <= whole.log_evidence + 1e-2).all()


@pytest.mark.parametrize("symmetry", ["C1", "C3"])
def test_threads_find_what_one_finds(symmetry, phantom, generator, monkeypatch):
    """Chunks of 7 images, the last of another size, and several blocks of them."""
    group = symmetry_group(symmetry).float()
    coarse, fine = (
        slice_reference(phantom.grid, cached_rotation_grid(nside), phantom.disc.prefix(r), group)
        for nside, r in ((1, 3), (2, 5))
    )
    shifts = shifts_for(5)
    R, t = random_poses(B, shifts, generator)
    images, uniform = phantom.images(R, t, 0.05, generator), torch.rand(B, generator=generator)
    monkeypatch.setattr(search, "CPU_SCORES", 7 * len(shifts) * len(fine.grid.R))
    monkeypatch.setattr(search, "SHIFTED", 14 * len(shifts) * len(fine.disc.weight))
    monkeypatch.setattr(search, "CHUNK", 4)

    def found(threads: int) -> tuple[GridPosterior, GridPosterior]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            whole = match(
                images, fine, shifts=shifts, prior=shift_prior(shifts, 20.0), uniform=uniform, draws=4, best=3
            )
            few = shifts_for(3, 1)
            pruned = match_fine(
                images,
                coarse,
                fine=fine,
                coarse_shifts=few,
                fine_shifts=shifts,
                sigma_angstrom=20.0,
                uniform=uniform,
                draws=4,
                best=3,
            )
        finally:
            torch.set_num_threads(before)
        return whole, pruned

    for one, three in zip(found(1), found(3), strict=True):
        for name in ("picks", "best", "best_score", "log_evidence"):
            assert torch.equal(getattr(one, name), getattr(three, name)), name


def test_seeds_decide_the_draws(phantom, tiny, generator):
    shifts = shifts_for(5)
    R, t = random_poses(B, shifts, generator)
    images = phantom.images(R, t, 0.01, generator)
    prior = shift_prior(shifts, 20.0)
    uniform = torch.rand(B, generator=generator)
    first, second = (
        match(images, tiny, shifts=shifts, prior=prior, uniform=uniform, draws=4, best=1).picks for _ in range(2)
    )
    other = match(
        images, tiny, shifts=shifts, prior=prior, uniform=torch.rand(B, generator=generator), draws=4, best=1
    ).picks
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_shift_prior_is_gaussian():
    prior = shift_prior(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 5.0)
    assert prior.tolist() == [0.0, -0.5]


def keyed(best: list[list[int]], score: list[list[float]]) -> GridPosterior:
    keys, scores = torch.tensor(best), torch.tensor(score)
    return GridPosterior(keys[:, :1], keys, scores, torch.zeros(len(best)))


def test_distinct_candidates_skip_the_neighbours_of_better_ones():
    grid = cached_rotation_grid(2)
    shifts = shifts_for(5)
    angle = geodesic_degrees(grid.R, grid.R[0].expand_as(grid.R))
    near = int(torch.where(angle > 0, angle, torch.inf).argmin())
    far = int(angle.argmax())
    M = len(grid.R)
    found = keyed([[3 * M, near, far, 2 * M + far]], [[9.0, 8.0, 7.0, 6.0]])
    chosen = distinct_candidates(found, grid, shifts, 2, float(angle[near]) + 1)
    assert torch.equal(chosen.R[0], grid.R[[0, far]])
    assert torch.equal(chosen.t[0], shifts[[3, 0]])
    assert math.isclose(float(chosen.log_weight[0, 0] - chosen.log_weight[0, 1]), 2.0, abs_tol=1e-5)
    torch.testing.assert_close(chosen.log_weight.exp().sum(1), torch.ones(1))


def test_slots_without_a_distinct_candidate_are_unused():
    grid, shifts = cached_rotation_grid(2), shifts_for(5)
    found = keyed([[5, -1, -1], [7, 9, 300]], [[4.0, -math.inf, -math.inf], [3.0, 2.0, 1.0]])
    chosen = distinct_candidates(found, grid, shifts, 3, 1.0)
    assert isinstance(chosen, PosePosterior)
    assert (chosen.log_weight[0] == -torch.inf).tolist() == [False, True, True]
    assert chosen.log_weight[1].isfinite().all()


def test_reference_holds_the_slices_of_the_volume(phantom: Phantom, tiny):
    exact = phantom.cloud.transform(torch.einsum("mij,pj->mpi", tiny.grid.R[:, :, :2].double(), tiny.disc.k.double()))
    slices = torch.view_as_complex(tiny.slices.reshape(*tiny.power.shape, 2).contiguous())
    # trilinear interpolation at padding 2: measured 0.021. Zero frequency, a grid point, is read without any, and the
    # window's correction leaves it 5 % too large.
    assert (slices - exact)[:, 1:].norm() / exact[:, 1:].norm() < 0.025
    torch.testing.assert_close(tiny.power, slices.abs().square())
