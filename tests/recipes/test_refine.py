"""Refinement: half sets apart, doubtful images searched again, given poses left alone, exact resumption."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.folds import FOLDS
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.start import PoseStart, StartAgreement
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import shell_of
from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.backprojection import Statistics, accumulate
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import exponential, geodesic_degrees, random_rotations, symmetry_group
from cryoloom.recipes import refine
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.recipes.refine import ALL_SEARCHED, RefineRecipe, RefineState
from cryoloom.runs.pack import unpack
from cryoloom.runs.progress import StepInfo
from inference.scene import turned
from recipes.scene import PIXEL_SIZE, Scene, copied, correlation, three_states, two_states

COUNT = 300
START = 5  # Fourier pixels of the map that refinement begins with
SMALL = RefineSettings(candidates=2, coarse_level=5.0, fine_levels=(6.0, 7.0))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Images of one shape."""
    return Scene(tmp_path_factory.mktemp("one"), three_states()[:1], COUNT)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Images of two shapes."""
    return Scene(tmp_path_factory.mktemp("two"), two_states(), COUNT)


def low(volume: torch.Tensor) -> torch.Tensor:
    return rebox(volume, 2 * (START + 2)).contiguous()


def halves(scene: Scene) -> np.ndarray:
    return np.arange(len(scene.feed)) % 2


def recipe_of(scene: Scene, *, feed: ImageFeed | None = None, **changes: Any) -> RefineRecipe:
    """From the mean of the true maps at low resolution; `changes` are arguments of the recipe or of its settings."""
    settings = {name: changes.pop(name) for name in tuple(changes) if hasattr(SMALL, name)}
    symmetry, volume = changes.pop("symmetry", "C1"), changes.pop("start", low(scene.mean))
    given = {"half": halves(scene)} | changes
    maps = volume if isinstance(volume, tuple) else (volume, volume)
    start = PoseStart(maps, scene.noise, PIXEL_SIZE, **given)
    return RefineRecipe(feed or scene.feed, replace(SMALL, **settings), 1, start, symmetry)


def carried_out(recipe: RefineRecipe) -> tuple[RefineState, list[StepInfo]]:
    state, said = recipe.init(), []
    while not recipe.finished(state):
        state, info = recipe.step(state)
        said.append(info)
    return state, said


def errors(state: RefineState, scene: Scene) -> torch.Tensor:
    """Degrees from the true pose, [N]."""
    return geodesic_degrees(state.poses.best()[0], scene.poses.best()[0])


@pytest.fixture(scope="module")
def refined(scene) -> tuple[RefineRecipe, RefineState, list[StepInfo]]:
    recipe = recipe_of(scene)
    return recipe, *carried_out(recipe)


def test_poses_and_map_are_found_from_a_coarse_map(refined, scene):
    _, state, _ = refined
    error = errors(state, scene)
    # measured: 3.7 degrees, 88 %; the rest lies where the coarse map looks alike from two sides
    assert error.median() < 4.5
    assert (error < 10).float().mean() > 0.8
    for reference in state.references:
        box = reference.shape[-1]
        assert correlation(reference, rebox(scene.mean, box)) > 0.9
    # the stated uncertainty of an image's rotation is that of its error
    stated = torch.rad2deg(torch.diagonal(state.covariance[:, :3, :3], dim1=1, dim2=2).sum(1).sqrt())
    assert 0.3 < (error.square() / stated.square()).median() < 2


def test_the_kernels_of_the_gpu_refine_alike(refined, scene, monkeypatch):
    """All that refinement asks of the kernels, carried out by those of the GPU on tensors of the CPU."""
    _, state, said = refined
    monkeypatch.setattr(dispatch, "on_gpu", lambda at: True)
    found, lines = carried_out(recipe_of(scene))
    assert len(lines) == len(said)
    # a GPU's searches prune nothing, so that some candidates differ: measured 0.26 and 0.64 degrees (90 %), 0.99996
    apart = geodesic_degrees(found.poses.best()[0], state.poses.best()[0])
    assert apart.median() < 0.5
    assert apart.quantile(0.9) < 1.5
    for here, there in zip(found.references, state.references, strict=True):
        assert correlation(here, there) > 0.9995


def test_images_in_doubt_between_mates_that_are_all_known_are_not_searched_again(scene):
    recipe, g = recipe_of(scene, candidates=4, fine_levels=(6.0, 7.0, 8.0)), torch.Generator().manual_seed(3)
    R = random_rotations(COUNT, g)
    mates = (symmetry_group("C3")[:, None] @ R).transpose(0, 1)
    poses = PosePosterior(
        torch.cat([mates, mates[:, :1]], 1).float(),
        torch.zeros(COUNT, 4, 2),
        torch.tensor([0.4, 0.3, 0.3, 0.0]).log().expand(COUNT, 4).clone(),
    )
    state = replace(
        recipe.init(),
        iteration=3,
        searches=ALL_SEARCHED,
        poses=poses,
        covariance=1e-4 * torch.eye(5).expand(COUNT, 5, 5),
        score=torch.full((COUNT,), 50.0),
        power=torch.full((COUNT,), 100.0),
    )
    assert not recipe._in_doubt(state).any()
    assert recipe._in_doubt(replace(state, searches=ALL_SEARCHED - 1)).all()
    # those that lack a mate, and those that fit badly, are searched
    weight = poses.log_weight.clone()
    weight[:50, 2] = -torch.inf
    score = state.score.clone()
    score[-20:] = 0
    some = replace(state, poses=PosePosterior(poses.R, poses.t, weight).normalised(), score=score)
    assert np.flatnonzero(recipe._in_doubt(some)).tolist() == [*range(50), *range(COUNT - 20, COUNT)]
    # unrelated poses: all of them
    other = poses.R.clone()
    other[:, 1:] = random_rotations(3 * COUNT, g).float().view(COUNT, 3, 3, 3)
    assert recipe._in_doubt(replace(state, poses=PosePosterior(other, poses.t, poses.log_weight))).mean() > 0.95


def test_images_are_compared_no_farther_than_stated(scene):
    recipe = recipe_of(scene, largest_radius=START - 1)
    state, _ = recipe.step(recipe.init())
    assert state.radius == START - 1
    assert Band.of_box(len(state.references[0])).radius <= START - 1
    assert recipe._beyond_start(state.score) <= 1.5 * (START - 1)


def test_the_radius_follows_the_resolution(refined, scene):
    recipe, state, said = refined
    metrics = [dict(info.metrics) for info in said]
    assert metrics[0]["radius"] == START
    for before, after in pairwise(metrics):
        assert after["radius"] <= min(recipe.limit, before["shell"] + 3.5, 1.5 * before["radius"] + 0.5)
    assert metrics[-1]["radius"] == recipe.limit  # these images carry signal to their rim
    side = scene.feed.box * PIXEL_SIZE
    # what is said is corrected for the mask: never finer than the radius suggests, and not much coarser
    for info, m in zip(said, metrics, strict=True):
        assert info.resolution_angstrom is not None
        assert side / m["shell"] <= info.resolution_angstrom < 1.15 * side / m["shell"]
    assert [info.step for info in said] == list(range(1, state.iteration + 1))


def test_it_ends_when_nothing_is_gained(refined):
    recipe, state, said = refined
    s = recipe.settings
    assert state.settled
    assert s.least_iterations <= len(said) < s.most_iterations
    assert recipe.finished(replace(state, iteration=s.least_iterations))
    assert not recipe.finished(replace(state, iteration=s.least_iterations - 1))
    unsettled = replace(state, settled=False)
    assert not recipe.finished(replace(unsettled, iteration=s.most_iterations - 1))
    # iterations with the map of all images come on top
    assert recipe.finished(replace(unsettled, iteration=s.most_iterations + state.joined))
    assert not recipe.finished(replace(state, joint=(state.references[0],)))


def test_a_map_that_gets_worse_is_not_settled(refined):
    recipe, state, _ = refined
    still = replace(state, joint=())
    assert recipe.step(still)[0].settled
    assert not recipe.step(replace(still, shell=state.shell + 2))[0].settled


def test_it_ends_where_there_is_no_hope(scene, tmp_path):
    noise = Scene(tmp_path, three_states()[:1], COUNT, snr=1e-5)
    _, said = carried_out(recipe_of(scene, feed=noise.feed, most_iterations=12))
    # on noise, rounding (so the number of threads) decides when the halves cease to agree by chance: 3 to 7
    assert SMALL.least_iterations <= len(said) < 12
    recipe = recipe_of(scene)
    stalled = replace(recipe.init(), stalled=True, iteration=SMALL.least_iterations)
    assert recipe.finished(stalled)
    assert not recipe.result(stalled).settled


def test_every_image_is_searched_at_first_and_few_at_last(refined):
    _, state, said = refined
    searched = [dict(info.metrics)["searched"] for info in said]
    assert searched[0] == 1
    assert searched[-1] < 0.25
    assert state.searches == sum(share > 0 for share in searched)


class Spoilt(ImageFeed):
    """A feed in which the images of one half are noise."""

    def __init__(self, feed: ImageFeed, rows: np.ndarray) -> None:
        super().__init__(feed.source, feed.device)
        self.rows = rows

    def images(self, rows: np.ndarray, radius: float, noise: torch.Tensor) -> Images:
        images = super().images(rows, radius, noise)
        spoilt = torch.from_numpy(np.isin(rows, self.rows))[:, None]
        observed = torch.where(spoilt, images.observed.flip(1), images.observed)
        return replace(images, observed=observed.contiguous())


def stepped_once(recipe: RefineRecipe) -> tuple[RefineState, tuple[Statistics, ...]]:
    """The state after one iteration, and the normal equations of the half maps within their radius."""
    after, kept = recipe._after, []

    def watching(before, found, sums, *others):
        kept.extend(Statistics(*half.total.planes(slice(0, half.total.side))) for half in sums)
        return after(before, found, sums, *others)

    recipe._after = watching
    return recipe.step(recipe.init())[0], tuple(kept)


def test_a_half_never_sees_the_images_or_the_map_of_the_other(scene):
    """Images and map of the second half replaced by nonsense: the first half ends with the same bits."""
    half = halves(scene)
    nonsense = Spoilt(scene.feed, np.flatnonzero(half == 1))
    whole = recipe_of(scene)
    spoilt = recipe_of(scene, feed=nonsense, start=(low(scene.mean), low(scene.mean).flip(0).contiguous()))
    states, sums = zip(*(stepped_once(recipe) for recipe in (whole, spoilt)), strict=True)
    mine = torch.from_numpy(half == 0)
    one, two = states
    for name in ("R", "t", "log_weight"):
        values = [getattr(state.poses, name) for state in states]
        assert torch.equal(values[0][mine], values[1][mine]), name
        assert not torch.equal(values[0][~mine], values[1][~mine]), name
    assert torch.equal(one.score[mine], two.score[mine])
    assert torch.equal(sums[0][0].num, sums[1][0].num)
    assert torch.equal(sums[0][0].den, sums[1][0].den)
    assert not torch.equal(sums[0][1].num, sums[1][1].num)


def test_a_difference_between_the_halves_stays_in_its_half(two):
    """Each half holds the images of one shape alone."""
    recipe = recipe_of(two, half=two.state - 1, poses=two.poses, most_iterations=2)
    state, _ = carried_out(recipe)
    box = state.references[0].shape[-1]
    true = rebox(two.maps[1] - two.maps[0], box)
    assert correlation(state.references[1] - state.references[0], true) > 0.8
    assert np.array_equal(state.half, two.state - 1)


def test_half_sets_are_drawn_anew_for_each_seed_and_are_equal(scene):
    one, same = (recipe_of(scene, half=None).init().half for _ in range(2))
    assert np.array_equal(one, same)
    assert np.bincount(one).tolist() == [COUNT // 2, COUNT // 2]
    other = recipe_of(scene, half=None)
    other.seed = 2
    assert not np.array_equal(one, other.init().half)


@pytest.fixture(scope="module")
def misplaced(scene) -> tuple[RefineRecipe, RefineState, np.ndarray]:
    """A state in which every third image has a wrong pose, and every second of these is known to be doubtful."""
    recipe = recipe_of(scene, start=rebox(scene.mean, 22).contiguous(), fine_levels=(7.0, 8.0, 9.0))
    start = recipe.init()
    wrong = np.arange(0, COUNT, 3)
    R = start.poses.R.clone()
    R[:, 0] = scene.poses.best()[0]
    R[wrong, 0] = random_rotations(len(wrong), torch.Generator().manual_seed(5)).float()
    t = start.poses.t.clone()
    t[:, 0] = scene.poses.best()[1]
    weight = torch.full((COUNT, SMALL.candidates), -torch.inf)
    weight[:, 0] = 0.0
    # a right pose has half the power as its score; what lies 3 s.d. and more below is doubted
    power = torch.full((COUNT,), 400.0)
    score = 0.5 * power
    doubted = wrong[::2]
    score[doubted] -= 3.5 * 20
    poses = PosePosterior(R, t, weight)
    return (
        recipe,
        replace(start, iteration=2, searches=ALL_SEARCHED, poses=poses, score=score, power=power, fsc=torch.ones(11)),
        doubted,
    )


def test_doubtful_images_are_searched_again_and_certain_ones_are_not(misplaced, scene):
    recipe, state, doubted = misplaced
    after, info = recipe.step(state)
    error = errors(after, scene)
    wrong = np.setdiff1d(np.arange(0, COUNT, 3), doubted)
    right = np.setdiff1d(np.arange(COUNT), np.arange(0, COUNT, 3))
    assert dict(info.metrics)["searched"] == pytest.approx(len(doubted) / COUNT)
    assert (error[doubted] < 10).float().mean() > 0.9
    assert (error[wrong] < 20).float().mean() < 0.3  # nobody looked for them: a climb does not come that far
    assert (error[right] < 10).float().mean() > 0.95
    assert after.searches == state.searches + 1


def test_two_likely_poses_are_a_doubt_and_a_distant_second_is_none(misplaced, scene):
    recipe, state, _ = misplaced
    certain = replace(state, score=0.5 * state.power)
    near, far = certain.poses.log_weight.clone(), certain.poses.log_weight.clone()
    near[:30, 1], far[:30, 1] = -1.0, -20.0
    same, elsewhere = state.poses.R.clone(), state.poses.R.clone()
    same[:, 1] = same[:, 0]
    elsewhere[:, 1] = elsewhere[:, 0] @ exponential(torch.tensor([0.0, 0.7, 0.0]))
    # a second candidate that is the same pose as the first is no doubt, however likely
    for R, weight, share in ((elsewhere, near, 30 / COUNT), (elsewhere, far, 0.0), (same, near, 0.0)):
        poses = PosePosterior(R, state.poses.t, weight).normalised()
        _, info = recipe.step(replace(certain, poses=poses))
        assert dict(info.metrics)["searched"] == pytest.approx(share)


def test_where_many_are_doubtful_all_are_searched_in_the_first_searches(misplaced):
    recipe, state, _ = misplaced
    many = state.score.clone()
    many[: COUNT // 2] = 0.0
    early, late = (replace(state, score=many, searches=n) for n in (1, ALL_SEARCHED))
    assert dict(recipe.step(early)[1].metrics)["searched"] == 1
    assert 0.5 <= dict(recipe.step(late)[1].metrics)["searched"] < 0.7


def test_searches_come_to_an_end(misplaced):
    recipe, state, _ = misplaced
    last = replace(state, searches=len(recipe.settings.fine_levels) + 2)
    assert dict(recipe.step(last)[1].metrics)["searched"] == 0


def test_what_gains_little_after_the_usual_searches_is_no_particle(misplaced):
    """A misfit that gains most of what a correct pose would is sought once more than what is in doubt; junk is not."""
    recipe, state, doubted = misplaced
    usual = len(recipe.settings.fine_levels)
    for searches in (usual, usual + 1):
        late = replace(state, searches=searches)
        assert dict(recipe.step(late)[1].metrics)["searched"] == pytest.approx(len(doubted) / COUNT)
        little = late.score.clone()
        little[doubted] = 0.3 * 0.5 * late.power[doubted]
        assert dict(recipe.step(replace(late, score=little))[1].metrics)["searched"] == 0
    weight = late.poses.log_weight.clone()
    weight[:30, 1] = -1.0
    R = state.poses.R.clone()
    R[:, 1] = R[:, 0] @ exponential(torch.tensor([0.0, 0.7, 0.0]))
    poses = PosePosterior(R, state.poses.t, weight).normalised()
    fits = 0.5 * state.power
    for searches, score, share in ((usual, fits, 30 / COUNT), (usual + 1, fits, 0.0), (usual, 0.3 * fits, 0.0)):
        unsure = replace(late, poses=poses, score=score, searches=searches)
        assert dict(recipe.step(unsure)[1].metrics)["searched"] == pytest.approx(share)


def test_given_poses_are_inserted_as_they_are(scene):
    settings = {"climb_steps": 0, "most_iterations": 1, "least_iterations": 1}
    state, said = carried_out(recipe_of(scene, poses=scene.poses, **settings))
    recipe = recipe_of(scene, poses=scene.poses, **settings)
    sums = stepped_once(recipe)[1]
    R, t = scene.poses.best()
    assert torch.equal(state.poses.R[:, 0], R)
    assert torch.equal(state.poses.t[:, 0], t)
    assert (state.poses.log_weight[:, 0].exp() > 0.999).all()
    assert dict(said[0].metrics)["searched"] == 0
    for h, found in enumerate(sums):
        rows = np.flatnonzero(halves(scene) == h)
        images = scene.feed.images(rows, recipe.limit, scene.noise)
        samples = Samples(torch.arange(len(rows)), R[rows].contiguous(), t[rows].contiguous(), torch.ones(len(rows)))
        whole = accumulate(images, samples, found.side)
        inside = shell_of(found.side) <= recipe.limit
        expected = Statistics(whole.num * inside, whole.den * inside)
        found = Statistics(found.num * inside, found.den * inside)
        torch.testing.assert_close(found.num, expected.num, rtol=1e-4, atol=1e-4 * float(expected.num.abs().max()))
        torch.testing.assert_close(found.den, expected.den, rtol=1e-4, atol=1e-4 * float(expected.den.max()))


def test_given_poses_climb_to_the_truth_without_a_search(scene, generator):
    off = PosePosterior.certain(turned(scene.poses.best()[0], 10.0, generator), scene.poses.best()[1])
    state, said = carried_out(recipe_of(scene, poses=off, start=rebox(scene.mean, 20), most_iterations=2))
    assert dict(said[0].metrics)["searched"] == 0
    assert errors(state, scene).median() < 4.2  # measured 3.4, from 10


def test_maps_of_given_poses_do_not_spread_and_found_ones_do(scene):
    """Inserted over the width of the posterior, a map from few images is smoother than from the candidates alone."""
    given = recipe_of(scene, poses=scene.poses)
    assert not given.init().spread
    assert recipe_of(scene).init().spread
    spread = recipe_of(scene, poses=scene.poses, spread=True)
    (sharp, fine), (blurred, smooth) = (stepped_once(recipe) for recipe in (given, spread))
    assert torch.equal(sharp.poses.R, blurred.poses.R)
    assert not torch.equal(fine[0].num, smooth[0].num)
    assert sharp.posterior.covariance is None
    assert blurred.posterior.covariance is not None


def test_the_map_has_the_symmetry_that_is_given(scene):
    """Normal equations of a C4 run are those of every image at each of its four poses."""
    recipe = recipe_of(scene, poses=scene.poses, symmetry="C4", climb_steps=0, most_iterations=1)
    state, sums = stepped_once(recipe)
    R, t = scene.poses.best()
    group = symmetry_group("C4").float()
    rows = np.flatnonzero(halves(scene) == 0)
    images = scene.feed.images(rows, recipe.limit, scene.noise)
    parts = [
        accumulate(
            images,
            Samples(
                torch.arange(len(rows)),
                (g @ R[rows]).contiguous(),
                t[rows].contiguous(),
                torch.full((len(rows),), 0.25),
            ),
            sums[0].side,
        )
        for g in group
    ]
    expected = sum(part.num for part in parts)
    largest = float(expected.abs().max())
    seen = (expected.abs() > 0.01 * largest) & (shell_of(sums[0].side) <= recipe.limit)
    ratio = sums[0].num[seen] / expected[seen]
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-2, atol=1e-2)
    for reference in state.references:
        even = reference[1:, 1:, 1:]  # the planes that a quarter turn about the centre keeps in the box
        assert correlation(even, even.rot90(1, (1, 2))) > 0.999
    alone = recipe_of(scene, poses=scene.poses, climb_steps=0)
    unlike = alone.step(alone.init())[0].references[0][1:, 1:, 1:]
    assert correlation(unlike, unlike.rot90(1, (1, 2))) < 0.9


def test_a_fresh_recipe_goes_on_exactly_from_arrays(scene):
    first = recipe_of(scene, most_iterations=3)
    middle, _ = first.step(first.init())
    saved = copied(middle)
    expected, _ = first.step(middle)
    assert all(np.array_equal(value, saved[name]) for name, value in copied(middle).items())
    second = recipe_of(scene, most_iterations=3)
    found, _ = second.step(unpack(RefineState, saved))
    one, other = copied(expected), copied(found)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.array_equal(value, other[name]), name


def test_a_first_state_survives_its_arrays(scene):
    recipe = recipe_of(scene)
    start = recipe.init()
    again = unpack(RefineState, copied(start))
    assert (again.iteration, again.radius, again.searches, again.settled) == (0, START, 0, False)
    assert torch.equal(again.references[1], start.references[1])
    assert recipe.end_early(start) is start


def lonely(folder: Path, folds: int, monkeypatch: pytest.MonkeyPatch) -> RefineState:
    """Pure noise, weighed twice at random poses that stay as they are, its maps hardly filtered."""
    monkeypatch.setattr(refine, "folds_of", lambda *_: folds)
    monkeypatch.setattr(refine, "ssnr_of_half", lambda fsc: torch.full_like(fsc, 10.0))
    monkeypatch.setattr(RefineRecipe, "_climb_radius", lambda *_: 8)
    scene = Scene(folder, three_states()[:1], 80, snr=1e-9)
    random = PosePosterior.certain(random_rotations(80, torch.Generator().manual_seed(1)).float(), torch.zeros(80, 2))
    recipe = recipe_of(scene, poses=random, half=halves(scene), most_iterations=2, least_iterations=2, climb_steps=0)
    return carried_out(recipe)[0]


def test_images_do_not_fit_their_own_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a map of few images each fits itself; in a map without its fold there is nothing that it could fit."""
    alone = float(lonely(tmp_path / "alone", 1, monkeypatch).score.mean())
    folded = lonely(tmp_path / "folded", FOLDS, monkeypatch)
    assert len(folded.without) == 2 * FOLDS
    assert alone > 1.0
    assert float(folded.score.mean()) < -1.0  # a map of noise makes images less likely than none


def test_maps_without_a_fold_make_up_the_map_of_the_half_set(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refine, "folds_of", lambda *_: FOLDS)
    recipe = recipe_of(scene)
    state, _ = recipe.step(recipe.init())
    for half in (0, 1):
        parts = [state.reference(half, fold) for fold in range(FOLDS)]
        assert correlation(torch.stack(parts).mean(0), state.references[half]) > 0.95
        assert all(not torch.equal(part, state.references[half]) for part in parts)
    copy = unpack(RefineState, copied(state))
    assert torch.equal(copy.without[-1], state.without[-1])


def test_folds_are_kept_once_there_are_maps_without_them(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    """Else, where the radius falls, all images were compared with the map without the first fold alone."""
    monkeypatch.setattr(refine, "folds_of", lambda *_: FOLDS)
    recipe = recipe_of(scene)
    state, _ = recipe.step(recipe.init())
    monkeypatch.setattr(refine, "folds_of", lambda *_: 1)
    state, _ = recipe.step(state)
    assert len(state.without) == 2 * FOLDS


@pytest.mark.parametrize(("likeness", "nats", "times"), [
    (0.95, 10.0, refine.TIGHT_CONFIRMED),
    (0.85, 60.0, refine.TIGHT),  # a wrong map may gain as much
    (None, 60.0, refine.TIGHT),  # a single start
    ("given", 60.0, refine.TIGHT_CONFIRMED),
    ("given", 14.0, refine.TIGHT),  # the gain of noise
])  # fmt: skip
def test_half_maps_must_agree_less_far_beyond_a_confirmed_start(scene: Scene, likeness, nats: float, times: float):
    recipe = recipe_of(scene)
    agreement = None if likeness == "given" else StartAgreement(2, 2, likeness, 20.0)
    recipe.start = replace(recipe.start, agreement=agreement)
    assert recipe._beyond_start(torch.full((4,), nats)) == times * recipe.start.radius


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Images of one shape in much noise."""
    return Scene(tmp_path_factory.mktemp("noisy"), three_states()[:1], COUNT, snr=0.05)


def test_poses_are_less_sure_on_the_map_that_does_not_hold_their_noise(scene: Scene, noisy: Scene):
    one = torch.eye(3)[None]
    for images, sure in ((scene, True), (noisy, False)):
        recipe = recipe_of(images)
        state, _ = carried_out(recipe)
        result = recipe.result(state)
        own, stated = (float(w.mean()) for w in (result.mode_weight(one), result.stated_weight(one)))
        right = float((geodesic_degrees(state.poses.R[:, 0], images.poses.R[:, 0]) < 25).float().mean())
        if sure:
            assert min(own, stated) > 0.97
            continue
        # measured: 0.18 of the images right, 0.93 of the posterior in their modes, 0.81 on the other half's map
        assert right < 0.4
        assert stated < own - 0.08


def test_what_was_not_weighed_elsewhere_is_stated_as_it_is(scene: Scene):
    for recipe in (recipe_of(scene, climb_steps=0), recipe_of(scene, poses=scene.poses)):
        state, _ = recipe.step(recipe.init())
        result = recipe.result(state)
        assert result.elsewhere is None
        assert torch.equal(result.stated_weight(torch.eye(3)[None]), result.mode_weight(torch.eye(3)[None]))


def test_half_sets_of_given_poses_share_no_start(scene: Scene):
    """Maps of given poses reach as far as the data allow: half maps that agree as far need not agree beyond."""
    recipe = recipe_of(scene, poses=scene.poses)
    assert recipe._beyond_start(torch.full((4,), 10.0)) < recipe.start.radius


def agreed(recipe: RefineRecipe, state: RefineState, shell: float = 15.0) -> RefineState:
    """A state after an iteration that settled refinement, with two likely candidates for every fourth image."""
    R, weight = state.poses.R.clone(), state.poses.log_weight.clone()
    R[::4, 1] = R[::4, 0] @ exponential(torch.tensor([0.0, 0.7, 0.0]))
    weight[::4, 1] = weight[::4, 0] - 0.1
    return replace(state, settled=True, shell=shell, poses=PosePosterior(R, state.poses.t, weight).normalised())


def test_doubts_are_settled_by_the_map_of_all_images_once_the_half_sets_agree(misplaced):
    recipe, state, _ = misplaced
    state = replace(state, shell=15.0)
    assert recipe._joins(agreed(recipe, state), True)
    assert recipe._joins(replace(agreed(recipe, state), joined=1), True)
    assert not recipe._joins(agreed(recipe, state), False)
    for other in (
        agreed(recipe, state, shell=recipe._beyond_start(state.score) - 0.1),
        replace(agreed(recipe, state), searches=None),  # given poses
        replace(agreed(recipe, state), joined=refine.MOST_JOINED),
        state,  # no image in doubt
    ):
        assert not recipe._joins(other, True)


def test_the_map_of_all_images_is_used_while_it_makes_poses_certain(misplaced):
    recipe, state, _ = misplaced
    doubtful = replace(agreed(recipe, state), joined=1)
    assert recipe._decides_more(doubtful, state, refine.JUMPED)
    assert not recipe._decides_more(doubtful, state, 0.5 * refine.JUMPED)
    assert not recipe._decides_more(doubtful, doubtful, refine.JUMPED)
    # the first time new candidates come in
    assert recipe._decides_more(replace(state, joined=0), doubtful, refine.JUMPED)


def test_refinement_has_not_settled_where_the_map_of_all_images_was_used_up(misplaced, monkeypatch):
    recipe, state, _ = misplaced
    monkeypatch.setattr(RefineRecipe, "_decides_more", lambda *_: True)
    state = replace(agreed(recipe, state), iteration=9, score=0.5 * state.power)
    last = replace(state, joint=(rebox(state.references[0], 22),), joined=refine.MOST_JOINED - 1)
    after, _ = recipe.step(last)
    assert not after.settled
    assert recipe.finished(after)


def test_shells_are_searched_at_the_highest_level_from_the_first(scene: Scene):
    """At low resolution a polyhedral particle tells no poses apart."""
    levels = (3.0, 4.0, 6.0)
    free, shell = (recipe_of(scene, symmetry=name, fine_levels=levels) for name in ("D2", "O"))
    for recipe, expected in ((free, levels[0]), (shell, levels[-1])):
        state = replace(recipe.init(), radius=9)
        assert recipe._search_radius(state) == scene.feed.radius_of(expected)


def test_refinement_that_moves_again_is_no_longer_settled(misplaced):
    """Before the least number of iterations; only with the map of all images does it stay settled."""
    recipe, state, _ = misplaced
    moving = replace(agreed(recipe, state), shell=0.0, score=0.5 * state.power)
    assert not recipe.step(moving)[0].settled


def test_refinement_goes_on_with_the_map_of_all_images(misplaced):
    recipe, state, _ = misplaced
    state = replace(agreed(recipe, state), iteration=9, score=0.5 * state.power)
    joint = (rebox(state.references[0], 22),)
    assert not recipe.finished(replace(state, joint=joint))
    after, info = recipe.step(replace(state, joint=joint))
    assert after.joined == 1
    assert after.settled
    assert dict(info.metrics)["searched"] == pytest.approx(0.25)


def test_folds_have_maps_of_all_images_without_them(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refine, "folds_of", lambda *_: FOLDS)
    monkeypatch.setattr(RefineRecipe, "_joins", lambda *_: True)
    recipe = recipe_of(scene)
    state, _ = recipe.step(recipe.init())
    assert len(state.joint) == 2 * FOLDS
    assert torch.equal(state.joint_reference(1, 2), state.joint[FOLDS + 2].float())
    whole = torch.stack(state.joint).float().mean(0)
    for half in (0, 1):
        assert correlation(whole, state.references[half]) > 0.9
    monkeypatch.setattr(refine, "folds_of", lambda *_: 1)
    state, _ = recipe_of(scene).step(recipe.init())
    assert len(state.joint) == 1
    for half in (0, 1):
        assert torch.equal(state.joint_reference(half, 0), state.joint[0].float())
    assert recipe.init().joint_reference(0, 0) is None


def test_large_sets_have_no_folds(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refine, "folds_of", lambda *_: 1)
    recipe = recipe_of(scene)
    state, _ = recipe.step(recipe.init())
    assert state.without == ()
    assert state.reference(1, 3) is state.references[1]


def test_refinement_goes_on_from_a_state_and_searches_images_without_a_pose(refined, scene):
    recipe, state, _ = refined
    new = np.zeros(COUNT, bool)
    new[::7] = True
    log_weight = state.poses.log_weight.clone()
    log_weight[torch.from_numpy(new)] = -torch.inf
    R = state.poses.R.clone()
    R[torch.from_numpy(new)] = torch.eye(3)
    poses = PosePosterior(R, state.poses.t, log_weight)
    begun = replace(state, poses=poses, settled=False, stalled=False, joint=())
    few = replace(SMALL, most_iterations=2)  # fewer than are done already
    after = RefineRecipe(scene.feed, few, 1, recipe.start, begun=begun)
    assert not after.finished(after.init())
    following, info = after.step(after.init())
    assert info.step == 1
    assert dict(info.metrics)["searched"] >= new.mean()
    assert not after.finished(following)
    found = errors(following, scene)
    assert found[torch.from_numpy(new)].median() < 5.0
    assert found[torch.from_numpy(~new)].median() < 4.5
    last, onward = after.step(following)
    assert dict(onward.metrics)["searched"] < new.mean()
    assert after.finished(replace(last, joint=()))
