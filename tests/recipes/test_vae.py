"""Variational recipes: two states told apart by encoder and by table, exact resumption, poses learnt along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.training import Table
from cryoloom.physics.rotations import exponential, geodesic_degrees
from cryoloom.recipes.methods.vae import NetworkSettings
from cryoloom.recipes.vae import VariationalRecipe, VariationalState
from cryoloom.runs.pack import unpack
from cryoloom.runs.progress import StepInfo
from recipes.scene import PIXEL_SIZE, Scene, copied, correlation, two_states

Method = Literal["vae", "autodecoder"]
COUNT = 400
TINY = NetworkSettings(
    latent=2,
    encoder_width=64,
    encoder_layers=2,
    decoder_width=32,
    decoder_layers=1,
    epochs=20,
    batch=32,
    rate=4e-3,
    coefficients=60,
    table_rate=0.3,
)


class VariationalScene(Scene):
    """The set, and recipes that learn it."""

    def recipe(
        self, poses: PosePosterior | None = None, method: Method = "vae", seed: int = 1, **changes: Any
    ) -> VariationalRecipe:
        return VariationalRecipe(self.posed(poses), replace(TINY, **changes), seed, self.mean, method)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> VariationalScene:
    return VariationalScene(tmp_path_factory.mktemp("two"), two_states(), COUNT)


def finish(recipe: VariationalRecipe) -> tuple[VariationalState, StepInfo]:
    state, info = recipe.step(recipe.init())
    while not recipe.finished(state):
        state, info = recipe.step(state)
    return state, info


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 16}, pytest.param({"encoder": "cnn"}, marks=pytest.mark.slow), {"method": "autodecoder"}],
    ids=str,
)
def test_two_states_are_told_apart(scene, changes):
    recipe = scene.recipe(**changes)
    state, info = finish(recipe)
    metrics = dict(info.metrics)
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert metrics["gain"] > 10
    assert 0 < metrics["explained"] < 1
    latents = recipe.latents(state)
    z = torch.cat([latents.mean, torch.ones(COUNT, 1)], 1)
    wanted = torch.from_numpy(scene.state - 1.5).float()
    line = torch.linalg.lstsq(z, wanted[:, None]).solution
    right = ((z @ line)[:, 0] * wanted > 0).float().mean()
    assert right > 0.95  # measured 0.99
    assert (torch.diagonal(latents.covariance, dim1=1, dim2=2).mean(0).amin() < 0.5).all()
    # the decoder's maps at the two states differ as the true ones do
    volume = recipe.volume(state)
    first, second = (volume.density_map(latents.mean[scene.state == i].mean(0), recipe.radius) for i in (1, 2))
    assert correlation(second - first, scene.maps[1] - scene.maps[0]) > 0.8


def test_images_that_are_left_out_are_not_learnt_from(scene):
    """Half set -1: their table rows stay as they were, and nothing is said of them."""
    half = np.arange(COUNT) % 2
    half[::3] = -1
    recipe = VariationalRecipe(scene.posed(half=half), replace(TINY, epochs=1), 1, scene.mean, "autodecoder")
    start = recipe.init()
    state, info = finish(recipe)
    assert start.latents is not None
    assert state.latents is not None
    moved = (state.latents.values != start.latents.values).any(1).numpy()
    assert np.array_equal(moved, half >= 0)
    assert dict(info.metrics)["images_seen"] == (half >= 0).sum()
    latents = recipe.latents(state)
    assert np.array_equal(latents.contrast.numpy() > 0, half >= 0)
    assert latents.mean[::3].abs().max() == 0


@pytest.mark.parametrize(
    "changes", [{"refine_poses": True}, {"method": "autodecoder", "refine_poses": True}, {"encoder": "cnn"}], ids=str
)
def test_a_stage_goes_on_exactly_from_its_arrays(scene, changes):
    """Networks, optimiser, tables, noise: in a fresh recipe the rest of the run is the same bit by bit."""
    first = scene.recipe(epochs=3, **changes)
    state, _ = first.step(first.init())
    middle = copied(state)
    while not first.finished(state):
        before = copied(state)
        following, _ = first.step(state)
        assert all(np.array_equal(v, before[k]) for k, v in copied(state).items())
        state = following
    second = scene.recipe(epochs=3, **changes)
    again = unpack(VariationalState, middle)
    while not second.finished(again):
        again, _ = second.step(again)
    expected, found = copied(state), copied(again)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert np.array_equal(np.asarray(value), np.asarray(found[name])), name
    assert torch.equal(first.latents(state).mean, second.latents(again).mean)


def test_poses_learnt_along_come_nearer_to_the_truth(tmp_path, generator):
    """Where all molecules are alike: one that differs from the mean as much as these two states do is also turned."""
    scene = VariationalScene(tmp_path, two_states()[:1], 100)
    R, t = scene.poses.best()
    omega = torch.deg2rad(5.0 * torch.randn(100, 3, generator=generator))
    wrong = PosePosterior.certain(R @ exponential(omega), t + PIXEL_SIZE * torch.randn(100, 2, generator=generator))
    recipe = scene.recipe(wrong, refine_poses=True, pose_rate=0.2, epochs=40)
    found = recipe.poses(finish(recipe)[0])

    def errors(poses: PosePosterior) -> tuple[float, float]:
        a, b = poses.best()
        return float(geodesic_degrees(a, R).square().mean().sqrt()), float((b - t).square().mean().sqrt())

    print(errors(wrong), errors(found))
    assert errors(found)[0] < 0.8 * errors(wrong)[0]
    assert errors(found)[1] < 0.6 * errors(wrong)[1]
    kept = scene.recipe(wrong, epochs=1)
    assert torch.equal(kept.poses(kept.init()).R, wrong.R)


def test_rows_of_a_table_take_the_steps_of_an_adam_of_their_own(generator):
    table = Table.create(torch.randn(4, 2, generator=generator))
    alone = torch.nn.Parameter(table.values[2:3].clone())
    adam = torch.optim.Adam([alone], 0.1, betas=(0.9, 0.99))
    before = table.copy()
    for i in range(6):
        others = torch.tensor([2, i % 2])
        gradient = torch.randn(2, 2, generator=generator)
        table.update(others, gradient, 0.1)
        alone.grad = gradient[:1].clone()
        adam.step()
    torch.testing.assert_close(table.values[2:3], alone.detach())
    assert torch.equal(table.values[3], before.values[3])
    assert table.steps.tolist() == [3, 3, 6, 0]


def test_what_does_not_belong_together_is_refused(scene):
    with pytest.raises(ValueError, match="same images"):
        scene.recipe(scene.poses.rows(torch.arange(9)))
    with pytest.raises(ValueError, match="side 24"):
        VariationalRecipe(scene.posed(), TINY, 1, torch.zeros(8, 8, 8))
    with pytest.raises(ValueError, match="empty"):
        VariationalRecipe(scene.posed(), TINY, 1, torch.zeros(24, 24, 24))
