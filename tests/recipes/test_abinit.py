"""Ab initio from random orientations: what is found, who is held out, how starts are compared, exact resumption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.frames import Frame
from cryoloom.maps.align import apply_rigid, mirrored
from cryoloom.maps.io import DensityMap
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import random_rotations
from cryoloom.recipes.abinit import (
    AbInitRecipe,
    AbInitSettings,
    AbInitState,
)
from cryoloom.recipes.methods.search import UNSEEN
from cryoloom.recipes.random_starts import centre_of_mass, map_likeness, without_radial_mean
from cryoloom.runs.pack import unpack
from cryoloom.runs.progress import StepInfo
from recipes.scene import BOX, PIXEL_SIZE, Scene, carried_out, copied, three_states

COUNT = 400
SMALL = AbInitSettings(
    restarts=3,
    least_used=300,
    share=0.75,
    levels=(3.5, 5.0),
    final_level=6.0,
    nside=(2, 3, 3),
    batch=(100, 100, 100),
    rate=(0.6, 0.5, 0.4),
    least_steps=(10, 10, 5),
    most_steps=20,
    held_out=60,
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("one"), three_states()[:1], COUNT)


def recipe_of(scene: Scene, seed: int = 1, **changes: Any) -> AbInitRecipe:
    return AbInitRecipe(feed=scene.feed, settings=replace(SMALL, **changes), seed=seed)


@pytest.fixture(scope="module")
def done(scene) -> tuple[AbInitRecipe, list[AbInitState], list[StepInfo]]:
    recipe = recipe_of(scene)
    return recipe, *carried_out(recipe)


def test_images_that_judge_are_not_learnt_from(scene, done):
    recipe, _, _ = done
    assert len(recipe.held_out) == SMALL.held_out
    assert set(recipe.held_out) & set(recipe.pool) == set()
    assert len(recipe.held_out) + len(recipe.pool) == 300
    assert len(recipe_of(scene, held_out=1000).held_out) == 300 // 5  # never more than a fifth
    assert list(recipe_of(scene, seed=2).held_out) != list(recipe.held_out)


def test_starts_come_to_one_map(done):
    recipe, states, _ = done
    result = recipe.result(states[-1])
    assert 2 <= result.starts <= SMALL.restarts
    assert result.likeness is not None
    assert (result.agreeing >= 2) == (result.likeness >= SMALL.agreement)
    assert result.likeness > 0.6  # measured 0.79
    assert result.volume.shape[-1] == 2 * (result.radius + 2)
    # centred, up to what a voxel is
    assert centre_of_mass(result.volume).abs().max() < 1


def test_steps_are_counted_and_levels_march(done):
    _, states, said = done
    assert [info.step for info in said] == list(range(1, len(said) + 1))
    assert [state.step for state in states] == list(range(len(said) + 1))
    level = [dict(info.metrics)["level"] for info in said if dict(info.metrics)["start"] == 0]
    assert level == sorted(level)
    for i in (0, 1):
        assert SMALL.least_steps[i] <= level.count(i) <= SMALL.most_steps
    assert said[0].resolution_angstrom is not None
    assert said[-1].resolution_angstrom is not None
    assert said[-1].resolution_angstrom < said[0].resolution_angstrom


def test_likeliest_start_is_the_one_carried_on(done):
    _, states, _ = done
    end = states[-1]
    assert end.chosen == int(np.argmax(end.scores))
    assert len(end.scores) == len(end.done) == len(end.likeness)
    torch.testing.assert_close(end.likeness, end.likeness.mT)


def test_the_log_has_evidence_and_similarity_of_every_start(done):
    _, states, steps = done
    logged = [dict(info.metrics) for info in steps if "start_evidence" in dict(info.metrics)]
    assert [m["start_evidence"] for m in logged] == list(states[-1].scores)
    for i, m in enumerate(logged):
        assert [m[f"likeness_to_{j}"] for j in range(i)] == pytest.approx(states[-1].likeness[i, :i].tolist())
        assert f"likeness_to_{i}" not in m


def test_spread_of_shifts_is_learnt(done):
    """From the prior of 7.2 A towards the 5 A of the set, with the width of the shift grid in it."""
    recipe, states, _ = done
    sigma = recipe.result(states[-1]).sigma_angstrom
    assert PIXEL_SIZE < sigma < 6.5  # measured 5.6


def test_a_fresh_recipe_goes_on_exactly_from_arrays(scene, done):
    """From a state between two starts, too, and from one that has a start behind it."""
    _, states, _ = done
    between = next(i for i, s in enumerate(states) if s.current is None and s.done)
    for i in (3, between):
        expected = states[i + 1]
        second = recipe_of(scene)
        found, _ = second.step(unpack(AbInitState, copied(states[i])))
        one, other = copied(expected), copied(found)
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert np.array_equal(value, other[name]), (i, name)


def test_ended_early_the_best_start_so_far_is_the_result(done):
    recipe, states, _ = done
    between = next(s for s in states if s.current is None and s.done)
    early = recipe.end_early(between)
    assert recipe.finished(early)
    assert early.chosen == int(np.argmax(between.scores))
    assert early.current is between.done[early.chosen]
    young = recipe.end_early(states[2])
    assert recipe.finished(young)
    assert young.current is states[2].current
    assert recipe.result(young).likeness is None  # there is none to compare with


def test_the_map_is_shown_while_it_forms(scene):
    seen: list[torch.Tensor] = []
    recipe = AbInitRecipe(feed=scene.feed, settings=replace(SMALL, restarts=1), seed=1, preview=seen.append)
    state = recipe.init()
    while not recipe.finished(state) and not seen:
        state, _ = recipe.step(state)
    assert state.current is not None
    assert state.current.level >= 1  # not the first, shapeless ones
    assert seen[0].shape[-1] == 2 * (recipe.starts(state).radius(state.current.level) + 2)


LAST = BOX // 2 - 2  # shell up to which maps are compared


def cloud(seed: int = 3) -> DensityMap:
    found = GaussianCloud.random(12, 24.0, 6.0, torch.Generator().manual_seed(seed))
    return DensityMap(found.density(BOX, PIXEL_SIZE).float(), PIXEL_SIZE)


def frame(Q: torch.Tensor, hand: bool) -> Frame:
    return Frame(Q=Q, mirrored=hand, error_degrees=torch.zeros(0), votes=0.0)


@pytest.mark.parametrize("hand", [False, True])
def test_likeness_is_that_of_the_same_map_turned_moved_and_mirrored(hand, generator):
    volume = cloud().data
    Q = random_rotations(1, generator)[0].float()
    turned = apply_rigid(volume, Q.mT.contiguous(), torch.zeros(3))
    other = (mirrored(turned) if hand else turned).roll((2, -1, 1), (0, 1, 2))
    right, wrong = (map_likeness(volume, other, frame(Q, seen), LAST) for seen in (hand, not hand))
    assert right > 0.95
    assert wrong < 0.6
    assert map_likeness(volume, cloud(8).data, frame(torch.eye(3), False), LAST) < 0.6


def test_two_shells_are_not_alike(generator):
    """Whatever else is in them: every wrong map of a round particle is a shell."""
    axis = torch.arange(BOX) - BOX // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    shell = torch.exp(-0.5 * ((radius - 6) / 1.5) ** 2)
    one, two = (shell * (1 + 0.1 * torch.randn(BOX, BOX, BOX, generator=generator)) for _ in range(2))
    assert float((one * two).sum() / (one.norm() * two.norm())) > 0.98
    assert map_likeness(one, two, frame(torch.eye(3), False), LAST) < 0.6  # and 0.9 with what they share
    assert float(without_radial_mean(shell).norm() / shell.norm()) < 0.1


def test_centre_of_mass_is_in_voxels_from_the_centre():
    volume = torch.zeros(16, 16, 16)
    volume[8 + 3, 8 - 2, 8 + 1] = 2.0  # z, y, x
    volume[0, 0, 0] = 0.1  # below a fifth of the peak
    assert centre_of_mass(volume).tolist() == [1.0, -2.0, 3.0]
    assert centre_of_mass(torch.zeros(8, 8, 8)).tolist() == [0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def disagreed(scene) -> tuple[AbInitRecipe, list[AbInitState], list[StepInfo]]:
    """Coarse starts that are said never to agree, and fine ones after them."""
    fine = {"fine_level": 6.0, "fine_nside": 3, "fine_batch": 40, "fine_least_steps": 20, "fine_most_steps": 40}
    recipe = recipe_of(scene, restarts=4, coarse_starts=2, alike_in_part=1.1, agreement=1.1, **fine)
    return recipe, *carried_out(recipe)


def test_after_coarse_starts_that_disagree_come_fine_ones(disagreed):
    recipe, states, said = disagreed
    first = next(i for i, s in enumerate(states) if s.fine)
    assert states[first - 1].index == 1
    assert said[first - 1].message is not None
    assert "disagree" in said[first - 1].message
    radii = {dict(i.metrics)["start"]: recipe.feed.field_of_view / i.resolution_angstrom for i in said}
    assert radii[2.0] == radii[3.0] == pytest.approx(recipe.fine.radius(0))
    end = states[-1]
    assert end.index == 3
    assert len(end.done) == 2
    assert end.chosen == int(np.argmax(end.scores))
    result = recipe.result(end)
    assert (result.starts, result.agreeing) == (4, 1)  # all that were made
    assert result.radius == recipe.fine.radius(0)


def test_one_more_coarse_start_is_made_where_two_are_alike_in_part(scene):
    recipe = recipe_of(scene, restarts=3, coarse_starts=2, alike_in_part=-1.0, agreement=1.1)
    states, _ = carried_out(recipe)
    assert not any(s.fine for s in states)
    assert len(states[-1].done) == 3


def test_fine_starts_resume_exactly_and_end_early(scene, disagreed):
    recipe, states, _ = disagreed
    first = next(i for i, s in enumerate(states) if s.fine)
    for i in (first, first + 3):
        found, _ = recipe.step(unpack(AbInitState, copied(states[i])))
        one, other = copied(states[i + 1]), copied(found)
        assert all(np.array_equal(value, other[name]) for name, value in one.items())
    early = recipe.end_early(states[first])
    assert recipe.result(early).likeness is None


def test_starts_that_may_not_be_fine_are_carried_to_the_final_level(scene):
    recipe = recipe_of(scene, restarts=2, coarse_starts=2, agreement=1.1)
    states, said = carried_out(recipe)
    assert not any(s.fine for s in states)
    assert dict(said[-1].metrics)["level"] == len(SMALL.levels)


@pytest.mark.parametrize("alike", [1.1, -1.0])
def test_no_start_is_made_that_none_could_be_compared_with(scene, alike):
    """A single fine start after coarse ones would be at another resolution than all others."""
    recipe = recipe_of(scene, restarts=3, coarse_starts=2, alike_in_part=alike, agreement=1.1)
    states, _ = carried_out(recipe)
    result = recipe.result(states[-1])
    assert not any(s.fine for s in states)
    assert result.starts == 3
    assert result.likeness is not None


@pytest.mark.parametrize("sigma", [4.0, 8.0])
def test_a_map_without_density_has_no_evidence(scene, sigma):
    """However wide the grid of shifts: evidence is a mean over the prior, not a sum over the poses tried."""
    starts = recipe_of(scene).coarse
    start = starts.new(0)
    nothing = start.first.blended(start.first, 0.0)
    nothing = replace(nothing, num=torch.zeros_like(nothing.num))
    empty = replace(start, first=nothing, second=nothing, sigma_angstrom=sigma, steps=starts.schedule.check_every - 1)
    assert starts.em_step(empty, 1)[0].strength == pytest.approx(0.0, abs=1e-3)


def test_a_polyhedral_symmetry_is_in_the_map_from_the_first_step(scene):
    """Its starts are fine at once, and their maps are compared on the axes, in either hand."""
    fine = {"polyhedral_level": 5.0, "polyhedral_nside": 3, "fine_batch": 40, "fine_least_steps": 20}
    recipe = AbInitRecipe(
        scene.feed, replace(SMALL, restarts=2, fine_most_steps=20, agreement=1.1, **fine), 1, symmetry="O"
    )
    state = recipe.init()
    assert state.fine
    state, _ = recipe.step(state)
    assert state.current is not None
    volume = recipe.fine.volume(state.current)[0]
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = apply_rigid(volume, quarter, torch.zeros(3))
    assert float((turned - volume).norm() / volume.norm()) < 0.02  # interpolated
    states, said = carried_out(recipe)
    end = states[-1]
    assert (end.index, len(end.done)) == (2, 3)  # two random ones, and a counterpart
    start = end.done[0]
    assert recipe.fine.likeness(start, start) == pytest.approx(1.0, abs=1e-3)
    # the second start began with the counterpart of the first
    after = next(s.current for s, i in zip(states[1:], said, strict=True) if i.metrics[0] == ("start", 1.0))
    assert after is not None
    assert torch.equal(after.second.num, recipe.fine.counterpart(start).second.num)  # the first step is in the other


def test_axes_of_other_groups_are_left_to_be_found(scene):
    recipe = AbInitRecipe(scene.feed, SMALL, 1, symmetry="C3")
    assert not recipe.imposed
    # maps on which a symmetry is imposed must be more alike to agree
    assert recipe.agreement < AbInitRecipe(scene.feed, SMALL, 1, symmetry="O").agreement
    assert recipe.coarse.free
    assert not recipe.init().fine


def test_starts_that_see_nothing_end_soon_and_are_not_repeated(tmp_path):
    """Pure noise: as many steps as a start has at least, in both coarse ones and in a single fine one."""
    scene = Scene(tmp_path, three_states()[:1], COUNT, snr=1e-9)
    least = 20
    recipe = recipe_of(scene, restarts=5, coarse_starts=2, fine_level=5.0, fine_least_steps=least, fine_batch=40)
    states, said = carried_out(recipe)
    assert sum(dict(i.metrics)["start"] == 2 for i in said) == least
    end = states[-1]
    assert (end.index, len(end.done)) == (2, 1)
    result = recipe.result(end)
    assert result.strength is not None
    assert abs(result.strength) < UNSEEN
    assert result.likeness is None


def test_a_particle_is_seen(done):
    recipe, states, _ = done
    strength = recipe.result(states[-1]).strength
    assert strength is not None
    assert strength > UNSEEN
