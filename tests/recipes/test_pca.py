"""Linear families: coupled equations, PCA against the dense one of the true maps, nothing found where nothing moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoloom.inference.conformations import local_maps as state_maps
from cryoloom.inference.conformations.family import local_weight
from cryoloom.inference.conformations.local_maps import PART, latent_distance, state_map
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Samples
from cryoloom.maps.backprojection import accumulate, solve
from cryoloom.maps.coupled_backprojection import Moments, solve_coupled
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import geodesic_degrees, random_rotations
from cryoloom.recipes.family_em import FamilyState
from cryoloom.recipes.methods.pca import PCASettings, PCAWithPosesSettings
from cryoloom.recipes.pca import PCARecipe, PCAState, component_resolutions
from cryoloom.recipes.pca_with_poses import PCAWithPosesRecipe
from cryoloom.runs.pack import pack, unpack
from inference.scene import turned
from kernels.scene import make_scene
from recipes.scene import BOX, PIXEL_SIZE, Scene, three_states, two_states

SMALL = PCASettings(most_components=4, iterations=6, first_level=4.0, last_level=7.0)


def recipe_of(scene: Scene, settings: PCASettings = SMALL) -> PCARecipe:
    return PCARecipe(scene.posed(), settings, 1)


def finished(recipe: PCARecipe):
    state = recipe.init()
    while not recipe.finished(state):
        state, _ = recipe.step(state)
    return state


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return Scene(tmp_path_factory.mktemp("three"), three_states(), 900)


@pytest.fixture(scope="module")
def result(scene):
    recipe = recipe_of(scene)
    return recipe, finished(recipe)


def test_one_volume_is_the_homogeneous_solution():
    scene = make_scene(20, torch.Generator().manual_seed(1))
    B = len(scene.images.observed)
    ones = torch.ones(B, 1)
    R, t = scene.samples.R[:B].contiguous(), scene.samples.t[:B].contiguous()
    moments = Moments(*dispatch.insert_moments(scene.images, R, t, first=ones, second=ones, side=48))
    alone = accumulate(scene.images, Samples(torch.arange(B), R, t, ones[:, 0]), 48)
    ssnr = torch.linspace(5, 1, 10)
    torch.testing.assert_close(solve_coupled(moments, ssnr[None], 9)[0], solve(alone, ssnr, 9), rtol=1e-3, atol=1e-6)


def test_volumes_are_recovered_from_images_that_show_mixtures():
    """Without noise: V_0 and V_1 from images of V_0 + x V_1 with known x."""
    generator = torch.Generator().manual_seed(2)
    scene = make_scene(20, generator, count=400)
    volumes = [m.data[2:22, 2:22, 2:22].contiguous() for m in two_states()]
    x = torch.randn(400, 1, generator=generator)
    R, t = scene.samples.R[:400].contiguous(), torch.zeros(400, 2)
    slices = [dispatch.slices(volume_to_half(v), R, scene.disc) for v in volumes]
    images = replace(scene.images, observed=scene.images.ctf * (slices[0] + x * slices[1]))
    first = torch.cat([torch.ones(400, 1), x], 1)
    second = torch.stack([torch.ones(400), x[:, 0], x[:, 0] ** 2], 1)
    found = solve_coupled(
        Moments(*dispatch.insert_moments(images, R, t, first=first, second=second, side=44)), torch.full((2, 9), 1e3), 8
    )
    for made, given in zip(found, volumes, strict=True):
        true = rebox(given, 22)
        assert float(torch.corrcoef(torch.stack([made.flatten(), true.flatten()]))[0, 1]) > 0.95


def test_components_span_the_dense_principal_components_of_the_true_maps(scene, result):
    _, state = result
    assert state.components == 2
    box = state.volumes.shape[-1]
    true = torch.stack([rebox(m, box) for m in scene.maps]).flatten(1)
    _, _, dense = torch.linalg.svd(true - true.mean(0), full_matrices=False)
    own = torch.linalg.qr(state.volumes[1:].flatten(1).T)[0].T
    cosines = torch.linalg.svdvals(own @ dense[:2].T)
    assert cosines.min() > 0.85, cosines


def test_latents_tell_the_states_apart(scene, result):
    recipe, state = result
    latents = recipe.latents(state)
    z, truth = latents.mean.numpy(), scene.state
    centres = np.stack([z[truth == s].mean(0) for s in (1, 2, 3)])
    nearest = 1 + ((z[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    assert (nearest == truth).mean() > 0.95
    assert latents.contrast.mean() == pytest.approx(1, abs=0.1)
    resolutions = component_resolutions(state, BOX * PIXEL_SIZE)
    assert len(resolutions) == 3
    assert all(r is not None and r < 40 for r in resolutions)


@pytest.mark.slow
def test_poses_are_found_along_with_the_family(scene):
    """From poses that are off by 10 degrees, a fifth of them anywhere."""
    generator = torch.Generator().manual_seed(9)
    true = scene.poses.best()[0]
    off = turned(true, 10.0, generator)
    lost = torch.rand(len(off), generator=generator) < 0.2
    off[lost] = random_rotations(int(lost.sum()), generator).float()
    start = PosePosterior.certain(off, scene.poses.best()[1])
    turns = PCAWithPosesSettings(iterations=8, held=5, searches=(2, 3), search_all=1)
    recipe = PCAWithPosesRecipe(scene.posed(start), SMALL, 1, turns)
    state = finished(recipe)

    def errors(poses: PosePosterior) -> torch.Tensor:
        """In degrees, after the best of a few common rotations: the family has a frame of its own."""
        R = poses.best()[0]
        angles = [geodesic_degrees(true[i] @ R[i].mT @ R, true) for i in range(0, len(R), 30)]
        return min(angles, key=lambda angle: float(angle.median()))

    before, after = errors(start), errors(state.poses)
    assert (before < 10).float().mean() < 0.75
    assert (after < 10).float().mean() > 0.9  # measured 0.93
    assert after.median() < 5
    posed = recipe.result(state)
    assert posed is not None
    assert posed.posterior.covariance is not None
    assert float((posed.misfit < 3).float().mean()) > 0.9
    # the same from its arrays
    again = unpack(FamilyState, pack(state))
    assert torch.equal(again.poses.R, state.poses.R)


def test_nothing_is_found_where_nothing_moves(tmp_path):
    scene = Scene(tmp_path, three_states()[:1], 500)
    recipe = recipe_of(scene)
    alone = finished(recipe)
    assert alone.components == 0
    assert float(alone.gains[1:].max()) < 0.02
    assert recipe.latents(alone).mean.shape == (500, 0)
    assert recipe.result(alone) is None


@pytest.mark.slow
def test_nothing_is_found_where_nothing_moves_with_poses_in_turns(tmp_path):
    scene = Scene(tmp_path, three_states()[:1], 500)
    settings = PCAWithPosesSettings(iterations=8, held=5, searches=(2, 3), search_all=1)
    recipe = PCAWithPosesRecipe(scene.posed(), SMALL, 1, settings)
    state = finished(recipe)
    assert state.iteration < recipe.iterations
    assert recipe.result(state) is None


def test_a_recipe_taken_up_from_its_arrays_goes_on_exactly(scene, result):
    _, state = result
    again = recipe_of(scene)
    halfway = again.init()
    for _ in range(3):
        halfway, _ = again.step(halfway)
    other = recipe_of(scene)
    resumed = unpack(PCAState, pack(halfway))
    while not other.finished(resumed):
        resumed, _ = other.step(resumed)
    assert torch.equal(resumed.volumes, state.volumes)
    assert torch.equal(resumed.gains, state.gains)
    ended = other.end_early(halfway)
    assert other.finished(ended)
    assert ended.components >= 1


def test_components_are_damped_where_the_halves_disagree():
    generator = torch.Generator().manual_seed(3)
    signal = torch.zeros(1, 24, 24, 24)
    signal[0, 8:13, 8:13, 8:13] = 5
    one, two = (signal + torch.randn(1, 24, 24, 24, generator=generator) for _ in range(2))
    weight = local_weight(one, two)
    assert weight[0, 10, 10, 10] > 0.9
    assert weight[0, 18:, 18:, 18:].mean() < 0.3


def test_a_state_map_is_its_own_states_and_says_of_which_images(scene, result):
    recipe, state = result
    latents = recipe.latents(state)
    truth = torch.tensor(scene.state.tolist())
    mask = scene.feed.mask(BOX)
    point = latents.mean[truth == 2].mean(0)
    found = state_map(scene.posed(), mask, latents, point)
    alike = [float(torch.corrcoef(torch.stack([found.combined.flatten(), m.flatten()]))[0, 1]) for m in scene.maps]
    assert int(np.argmax(alike)) == 1
    assert (truth[found.nearest] == 2).float().mean() > 0.9
    assert len(found.nearest) == round(PART * len(truth))
    assert found.resolution_angstrom(PIXEL_SIZE) is not None


def test_slopes_take_up_the_motion(scene, monkeypatch):
    """From all images of three states, of which only a third shows the one that is asked for."""
    monkeypatch.setattr(state_maps, "PART", 1.0)
    truth = torch.tensor(scene.state.tolist())
    known = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    N = len(truth)
    latents = LatentPosterior(known[truth - 1], 0.3 * torch.eye(2).expand(N, 2, 2), torch.ones(N))
    mask = scene.feed.mask(BOX)
    mean = torch.stack(scene.maps).mean(0)
    for k in range(3):
        found = state_map(scene.posed(), mask, latents, known[k])
        assert len(found.nearest) == N
        pair = torch.stack([(found.combined - mean).flatten(), (scene.maps[k] - mean).flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.85


def test_a_state_map_needs_images_of_both_halves(scene):
    """All images near the point belong to the first half set."""
    N = len(scene.feed)
    half = (np.arange(N) >= N // 2).astype(int)
    latents = LatentPosterior(torch.from_numpy(10.0 * half[:, None]), torch.eye(1).expand(N, 1, 1), torch.ones(N))
    with pytest.raises(ValueError, match="half set"):
        state_map(scene.posed(half=half), scene.feed.mask(BOX), latents, torch.zeros(1))


def test_images_that_are_left_out_change_nothing(scene):
    """Half the images replaced by nothing known: the others alone decide."""
    half = np.arange(len(scene.feed)) % 2
    half[::3] = -1
    recipe = PCARecipe(scene.posed(half=half), SMALL, 1)
    state = finished(recipe)
    assert state.components == 2
    unseen = torch.from_numpy(half < 0)
    latents = recipe.latents(state)
    assert latents.mean[unseen].abs().max() == 0
    assert latents.contrast[unseen].max() == 0
    assert latents.contrast[~unseen].min() > 0.5
    distance = latent_distance(latents, torch.zeros(2))
    assert distance[unseen].min() > distance[~unseen].median()
