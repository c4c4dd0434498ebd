"""Further random starts beside a refined map: which map they confirm, when they end, exact resumption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.frames import HALF_TURN
from cryoloom.maps.align import mirrored
from cryoloom.maps.io import DensityMap
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import random_rotations
from cryoloom.recipes.abinit import AbInitRecipe, AbInitSettings
from cryoloom.recipes.confirm import ConfirmRecipe, ConfirmState
from cryoloom.recipes.methods.method import PoseJob
from cryoloom.recipes.methods.search import confirm
from cryoloom.recipes.methods.settings import MethodSettings
from cryoloom.runs.pack import unpack
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.session import Session
from recipes.scene import BOX, PIXEL_SIZE, Scene, carried_out, copied, three_states

SETTINGS = AbInitSettings(
    least_used=300,
    share=0.75,
    held_out=60,
    fine_level=6.0,
    fine_batch=60,
    fine_least_steps=20,
    fine_most_steps=60,
    finish_steps=20,
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("one"), three_states()[:1], 400)


def recipe_of(scene: Scene, volume: torch.Tensor, R: torch.Tensor, **changes: Any) -> ConfirmRecipe:
    return ConfirmRecipe(AbInitRecipe(scene.feed, replace(SETTINGS, **changes), 1), volume, R)


@pytest.fixture(scope="module")
def confirmed(scene) -> tuple[ConfirmRecipe, list[ConfirmState], list[StepInfo]]:
    recipe = recipe_of(scene, scene.maps[0], scene.poses.R[:, 0])
    return recipe, *carried_out(recipe)


@pytest.fixture(scope="module")
def another(generator_of_module: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The map of another cloud, and poses that have nothing to do with the images."""
    cloud = GaussianCloud.random(12, 24.0, 6.0, torch.Generator().manual_seed(3))
    map_ = DensityMap(cloud.density(BOX, PIXEL_SIZE).float(), PIXEL_SIZE)
    return map_.data, random_rotations(400, generator_of_module)


@pytest.fixture(scope="module")
def generator_of_module() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_a_start_confirms_the_right_map_and_no_more_are_made(confirmed):
    recipe, states, said = confirmed
    found = recipe.result(states[-1])
    assert max(found) == found[-1]
    assert found[-1] >= recipe.agreement
    assert all(x < recipe.agreement for x in found[:-1])
    assert said[-1].message == f"further start {len(found)}: similarity to the refined map {found[-1]:.2f}"
    assert dict(said[-1].metrics)["likeness"] == found[-1]
    assert [info.step for info in said] == list(range(1, len(said) + 1))


def test_the_mirror_image_is_confirmed_as_well(scene, confirmed):
    _, states, _ = confirmed
    recipe = recipe_of(scene, mirrored(scene.maps[0]), scene.poses.R[:, 0] @ HALF_TURN)
    state = replace(states[-1], likeness=(), complete=False)
    assert recipe._likeness(state.current) == pytest.approx(states[-1].likeness[-1], abs=0.02)


def test_another_map_is_confirmed_by_none_of_as_many_as_are_allowed(scene, another):
    recipe = recipe_of(scene, *another, further_starts=2, fine_most_steps=20)
    states, said = carried_out(recipe)
    found = recipe.result(states[-1])
    assert len(found) == 2
    assert max(found) < recipe.agreement
    assert sum(info.message is not None for info in said) == 2


def test_a_start_that_is_alike_in_part_goes_on_in_large_batches(scene, confirmed):
    """With an agreement that cannot be reached, every start does; with a part that cannot, none."""
    right = scene.maps[0], scene.poses.R[:, 0]
    for part, levels in ((-1.0, {0.0, 1.0, 2.0}), (1.1, {0.0, 1.0})):
        recipe = recipe_of(scene, *right, further_starts=1, agreement=1.1, alike_in_part=part)
        states, said = carried_out(recipe)
        assert {dict(i.metrics)["level"] for i in said} == levels
        assert len(recipe.result(states[-1])) == 1
        ahead = [sum(recipe.expected_costs(s)) for s in states[:-1]]
        assert all(cost > 0 for cost in ahead)
    settings = SETTINGS.further()
    assert settings.batch[-1] == SETTINGS.batch[-1]
    assert settings.radii == (SETTINGS.fine_level,) * 3


def test_a_start_goes_on_in_its_final_level_while_it_becomes_more_alike(scene, monkeypatch):
    """Until 20 steps bring less than 0.02, or the steps are used up."""
    recipe = recipe_of(scene, scene.maps[0], scene.poses.R[:, 0], further_starts=1, agreement=1.1, further_steps=60)
    for found, steps in (((0.6, 0.63, 0.64), 40), ((0.6, 0.63, 0.66, 0.69), 60), ((0.6, 0.4), 20)):
        compared = iter(found)
        monkeypatch.setattr(recipe, "_likeness", lambda start, compared=compared: next(compared))
        states, said = carried_out(recipe)
        final = [i for i in said if dict(i.metrics)["level"] == 2.0]
        assert len(final) == steps
        assert recipe.result(states[-1]) == (found[steps // 20],)


def test_images_that_judge_are_those_of_ab_initio_and_steps_are_not(scene, confirmed):
    recipe, _, _ = confirmed
    abinit = AbInitRecipe(scene.feed, SETTINGS, 1)
    assert list(recipe.starts.held_out) == list(abinit.held_out)
    mine, theirs = recipe.starts.new(0), abinit.fine.new(0)
    assert not torch.equal(mine.first.num, theirs.first.num)  # other starts than those that disagreed


def test_a_fresh_recipe_goes_on_exactly_from_arrays(scene, confirmed):
    _, states, _ = confirmed
    for i in (0, 5, len(states) - 2):
        second = recipe_of(scene, scene.maps[0], scene.poses.R[:, 0])
        found, _ = second.step(unpack(ConfirmState, copied(states[i])))
        one, other = copied(states[i + 1]), copied(found)
        assert one.keys() == other.keys()
        assert all(np.array_equal(value, other[name]) for name, value in one.items())


def test_ended_early_a_start_counts_that_was_compared(scene, another):
    recipe = recipe_of(scene, *another, further_starts=3, fine_most_steps=20)
    state, between, compared = recipe.init(), None, None
    while compared is None:
        state, _ = recipe.step(state)
        if state.likeness and between is None:
            between = state
        if state.likeness and recipe.starts.scouted(state.current):
            compared = state
    assert between is not None
    for now in (recipe.init(), between, compared):
        early = recipe.end_early(now)
        assert recipe.finished(early)
        assert recipe.result(early)[: len(now.likeness)] == now.likeness
        assert len(recipe.result(early)) == len(now.likeness) + (now is compared)


def test_expected_costs_cover_the_starts_that_are_allowed(scene, confirmed):
    recipe, states, _ = confirmed
    whole = sum(recipe.starts.costs())
    assert sum(recipe.expected_costs(states[0])) == pytest.approx(SETTINGS.further_starts * whole)
    assert sum(recipe.expected_costs(states[1])) < SETTINGS.further_starts * whole


def job_of(scene: Scene, settings: AbInitSettings) -> PoseJob:
    return PoseJob(scene.feed, Session.in_memory(), MethodSettings({"abinit": settings}))


def test_a_job_is_given_the_similarity_of_each_start(scene, confirmed, another):
    recipe, states, _ = confirmed
    assert confirm(job_of(scene, SETTINGS), scene.maps[0], scene.poses.R[:, 0]) == recipe.result(states[-1])
    few = replace(SETTINGS, further_starts=1, fine_most_steps=20)
    [unlike] = confirm(job_of(scene, few), *another)
    assert unlike < recipe.agreement
    assert confirm(job_of(scene, replace(SETTINGS, further_starts=0)), *another) == ()
    # where a symmetry is imposed, all starts may lead to one wrong map
    assert confirm(replace(job_of(scene, few), symmetry="O"), *another) == ()


def test_a_level_may_end_before_its_map_was_evaluated(scene, another):
    """Shorter than the steps between two evaluations: poses of the held-out images are not known yet."""
    recipe = recipe_of(scene, *another, further_starts=1, fine_least_steps=5, fine_most_steps=5)
    states, _ = carried_out(recipe)
    assert len(recipe.result(states[-1])) == 1
