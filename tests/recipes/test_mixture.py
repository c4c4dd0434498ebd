"""Several molecules from random starts: how many are found, and sorting of images by their maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cryoloom.inference.mixtures.shares import class_shares
from cryoloom.maps.io import DensityMap
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.recipes.methods.mixture import MixtureSettings
from cryoloom.recipes.mixture import MixtureRecipe, MixtureState
from cryoloom.recipes.sort import KnownPoses, Sorted, SortRecipe, SortState
from cryoloom.runs.pack import unpack
from recipes.scene import BOX, PIXEL_SIZE, Scene, carried_out, copied

SMALL = MixtureSettings(
    levels=(3.5, 4.0, 5.0, 5.0, 5.0),
    nside=(2, 2, 3, 3, 3),
    steps=(14, 10, 6, 6, 4),
    batch=60,
    judged=60,
    first_guess=4,
    least_loss=(0.0, 0.06, 0.1, 0.0, 0.08),
    one_left_loss=0.03,
    lasting_loss=0.06,
)


def molecules() -> tuple[DensityMap, DensityMap]:
    """A ball and a rod."""
    clouds = []
    for seed, stretch in ((4, (0.7, 0.7, 0.7)), (11, (1.7, 0.4, 0.4))):
        cloud = GaussianCloud.random(24, 24.0, 6.0, torch.Generator().manual_seed(seed))
        clouds.append(replace(cloud, centres=cloud.centres * torch.tensor(stretch, dtype=cloud.centres.dtype)))
    one, two = (DensityMap(cloud.density(BOX, PIXEL_SIZE).float(), PIXEL_SIZE) for cloud in clouds)
    return one, two


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("two"), molecules(), 900, snr=0.5)


def recipe_of(scene: Scene, classes: int | None = None, **changes: Any) -> MixtureRecipe:
    return MixtureRecipe(scene.feed, replace(SMALL, **changes), 1, classes)


def sorter_of(scene: Scene, maps: list[torch.Tensor], **changes: Any) -> SortRecipe:
    arguments = {
        "half": np.arange(len(scene.feed)) % 2,
        "noise": scene.noise,
        "sigma_angstrom": PIXEL_SIZE,
        "name": "sort",
        "radius": 6,
        "fine": False,
    }
    return SortRecipe(scene.feed, SMALL, [(m, m) for m in maps], **(arguments | changes))


@pytest.fixture(scope="module")
def done(scene: Scene) -> tuple[MixtureRecipe, list[MixtureState]]:
    recipe = recipe_of(scene)
    return recipe, carried_out(recipe)[0]


def labels_of(scene: Scene, found: Sorted) -> np.ndarray:
    best = found.shares.best.numpy()
    return np.where(best == found.evidence.shape[1], -1, best)


def agreement(labels: np.ndarray, state: np.ndarray) -> float:
    """Share of the images in the right one of two classes, whatever their order."""
    return max(float((labels + 1 == state).mean()), float((2 - labels == state).mean()))


def test_two_molecules_are_found_among_more_maps(scene, done):
    recipe, states = done
    found = recipe.result(states[-1])
    assert found.begun == SMALL.first_guess
    assert len(found.volumes) == 2
    assert abs(sum(found.shares) - 1) < 1e-6
    result = carried_out(sorter_of(scene, list(found.volumes), radius=found.radius))
    labels = labels_of(scene, sorter_of(scene, list(found.volumes), radius=found.radius).result(result[0][-1]))
    assert agreement(labels, scene.state) > 0.95


def test_a_run_resumed_at_any_step_is_the_same(scene, done):
    recipe, states = done
    for index in (3, 25):
        again = unpack(MixtureState, copied(states[index]))
        for _ in range(2):
            again, _ = recipe.step(again)
        expected = copied(states[index + 2])
        assert all(np.array_equal(value, expected[name]) for name, value in copied(again).items())


def test_images_that_judge_are_not_learnt_from(scene):
    recipe = recipe_of(scene)
    held = recipe.held_out(SMALL.first_guess)
    assert len(held) == len(scene.feed) // 4
    assert not set(held) & set(recipe.pool(SMALL.first_guess))


def test_where_hardly_a_map_is_needless_the_search_begins_anew_with_twice_as_many(scene):
    recipe = recipe_of(scene, first_guess=2)
    states, said = carried_out(recipe)
    assert states[0].begun == 2
    assert states[-1].begun == 4
    assert len(states[-1].classes) == 2
    assert any(info.message and "begins anew with 4 maps" in info.message for info in said)


def test_of_one_molecule_one_map_is_left(tmp_path):
    alone = Scene(tmp_path / "one", molecules()[:1], 500, snr=0.5)
    recipe = recipe_of(alone, one_left_loss=0.1)
    states, _ = carried_out(recipe)
    assert len(recipe.result(states[-1]).volumes) == 1
    early = states[round(SMALL.one_left_at * SMALL.steps[0])]
    assert len(early.classes) == 1  # long before the end of the first level
    # where two molecules are known to be there, that is not assumed
    stated = recipe_of(alone, classes=2, one_left_loss=0.1)
    assert len(carried_out(stated)[0][early.step].classes) == SMALL.with_surplus(2)


def test_the_maps_as_they_are_when_it_is_ended_early(scene):
    recipe = recipe_of(scene, classes=2)
    state, _ = recipe.step(recipe.init())
    ended = recipe.end_early(state)
    assert recipe.finished(ended)
    assert len(recipe.result(ended).volumes) == SMALL.with_surplus(2)


@pytest.mark.parametrize("level", [0, 2, 3])
def test_it_may_be_ended_at_the_end_of_a_level(scene, done, level):
    recipe, states = done
    state = next(s for s in states if s.done == sum(SMALL.steps[: level + 1]))
    ended = recipe.end_early(state)
    assert len(recipe.result(ended).volumes) == len(state.classes) + len(state.shelved)


@pytest.mark.parametrize("fine", [False, True])
def test_images_are_sorted_by_the_true_maps(scene, fine):
    recipe = sorter_of(scene, scene.maps, fine=fine)
    states, _ = carried_out(recipe)
    found = recipe.result(states[-1])
    assert (labels_of(scene, found) + 1 == scene.state).mean() > 0.98
    again = unpack(SortState, copied(states[1]))
    following, _ = recipe.step(again)
    assert torch.equal(following.evidence, states[2].evidence)


def test_images_of_a_molecule_without_a_map_belong_to_none(scene):
    recipe = sorter_of(scene, scene.maps[:1], fine=True)
    found = recipe.result(carried_out(recipe)[0][-1])
    labels = labels_of(scene, found)
    assert (labels[scene.state == 1] == 0).mean() > 0.98
    assert (labels[scene.state == 2] == -1).mean() > 0.5


def test_half_sets_are_compared_with_their_own_maps(scene):
    """Evidence of either half set is that of a run with its map alone."""
    one, two = scene.maps
    half = np.arange(len(scene.feed)) % 2
    arguments = (scene.feed, SMALL)
    common = {
        "half": half,
        "noise": scene.noise,
        "sigma_angstrom": PIXEL_SIZE,
        "name": "sort",
        "radius": 6,
        "fine": False,
    }
    mixed = SortRecipe(*arguments, [(one, two), (two, one)], **common)
    found = mixed.result(carried_out(mixed)[0][-1])
    plain = sorter_of(scene, scene.maps)
    expected = plain.result(carried_out(plain)[0][-1])
    assert torch.allclose(found.evidence[half == 0], expected.evidence[half == 0], rtol=1e-4)
    assert torch.allclose(found.evidence[half == 1], expected.evidence[half == 1].flip(1), rtol=1e-4)


def test_sorting_that_is_ended_early_uses_what_it_has(scene):
    recipe = sorter_of(scene, scene.maps)
    state, _ = recipe.step(recipe.init())
    half_way, _ = recipe.step(state)
    for ended in (recipe.end_early(state), recipe.end_early(half_way)):
        assert recipe.finished(ended)
        assert torch.equal(ended.evidence, state.low)  # that of two radii can't be compared
        shares = class_shares(ended.evidence, ended.generic)
        assert (shares.best.numpy() + 1 == scene.state).mean() > 0.9


def test_images_of_known_pose_are_not_searched(scene):
    """Poses of half of the images are known, of one class; at the true poses their evidence is as high."""
    rows = np.flatnonzero(scene.state == 1)[::2]
    known = KnownPoses(rows, scene.poses.rows(torch.from_numpy(rows)))
    recipe = sorter_of(scene, scene.maps, fine=True, known=(known,))
    plain = sorter_of(scene, scene.maps, fine=True)
    found, searched = (r.result(carried_out(r)[0][-1]).evidence for r in (recipe, plain))
    others = np.setdiff1d(np.arange(len(scene.feed)), rows)
    assert torch.equal(found[others], searched[others])
    assert torch.equal(found[:, 1], searched[:, 1])
    difference = found[rows, 0] - searched[rows, 0]
    assert not torch.equal(found[rows, 0], searched[rows, 0])
    assert difference.abs().median() < 0.1 * searched[rows, 0].median()


def test_images_of_an_unknown_body_are_not_compared_with_maps_of_none(scene):
    recipe = sorter_of(scene, scene.maps, fine=True, sinks=1)
    plain = sorter_of(scene, scene.maps, fine=True)
    found, all_of_them = (r.result(carried_out(r)[0][-1]) for r in (recipe, plain))
    clear = found.generic > found.evidence[:, 0] + 10
    assert clear.any()
    assert torch.isinf(found.evidence[clear, 1]).all()
    assert torch.equal(found.evidence[~clear], all_of_them.evidence[~clear])
    # where nothing but such maps is left, all are compared
    nothing = sorter_of(scene, scene.maps, fine=True, sinks=2)
    assert torch.equal(nothing.result(carried_out(nothing)[0][-1]).evidence, all_of_them.evidence)


def test_images_are_compared_once_with_maps_of_no_molecule(scene, monkeypatch):
    plain = sorter_of(scene, scene.maps, fine=True, sinks=1)
    states, _ = carried_out(plain)
    expected = plain.result(states[-1])
    again = sorter_of(scene, scene.maps, fine=True, sinks=1, before=expected.of([1]))
    state = again.init()
    for _ in range(2):  # the match at low radius, and the class
        state, _ = again.step(state)
    monkeypatch.setattr(SortRecipe, "_fine", None)  # nothing is left to be compared
    state, _ = again.step(state)
    assert again.finished(state)
    assert torch.equal(state.low, expected.low)
    assert torch.equal(state.evidence, expected.evidence)
    assert [cost > 0 for cost in again.expected_costs(again.init())] == [True, *(m not in again.done for m in range(2))]
    # evidence at another radius is not used
    other = sorter_of(scene, scene.maps, fine=True, sinks=1, before=replace(expected.of([1]), radius=5))
    assert torch.isinf(other.init().evidence).all()


def test_maps_that_fit_no_better_than_an_unknown_body_do_not_begin_the_search_anew(done, monkeypatch):
    recipe, states = done
    four = replace(states[0], begun=4)
    matched = recipe._judged(four, 0)
    evidence = 30.0 * torch.eye(4)
    for generic, enough in (([0.0, 0.0, 0.0, 0.0], False), ([0.0, 0.0, 40.0, 40.0], True)):
        found = replace(matched, evidence=evidence, generic=torch.tensor(generic))
        monkeypatch.setattr(recipe, "_judged", lambda *_, found=found: found)
        assert recipe._enough(four, 3) == enough


@pytest.mark.parametrize(
    ("none_may_do", "junk", "ends"), [(True, False, False), (True, True, True), (False, True, False)]
)
def test_a_search_that_may_find_nothing_ends_where_all_maps_show_junk(
    scene, done, monkeypatch, none_may_do, junk, ends
):
    _, states = done
    recipe, steps = MixtureRecipe(scene.feed, SMALL, 1, 2, none_may_do=none_may_do), sum(SMALL.steps[:3])
    before = next(state for state in states if state.done == steps - 1)
    if junk:
        judged = recipe._judged
        monkeypatch.setattr(recipe, "_judged", lambda *args: replace(m := judged(*args), generic=m.generic + 1e4))
    after, info = recipe.step(before)
    assert after.complete == ends
    assert (len(recipe.result(after).volumes) == 0) == ends
    assert ("no map" in (info.message or "")) == ends


@pytest.mark.parametrize("wrong", [{"steps": (3, 2)}, {"rounds": 0}, {"further_iterations": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        replace(SMALL, **wrong)
