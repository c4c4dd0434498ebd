"""A pass of refinement: which map decides between candidates, and on which map poses are refined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.global_search import references_of
from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.dispatch import Insertion
from cryoloom.maps.band import Band
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import geodesic_degrees
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.recipes.refine_pass import PassImages, PassResult, Radii, RefinePass, shift_doubt
from recipes.scene import PIXEL_SIZE, Scene, three_states

COUNT, RADIUS = 60, 10
SETTINGS = RefineSettings(candidates=2, coarse_level=5.0, fine_levels=(6.0, 7.0))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("one"), three_states()[:1], COUNT)


def refine_pass(scene: Scene) -> RefinePass:
    radii, group = Radii(7, RADIUS, RADIUS), torch.eye(3)[None]
    return RefinePass(scene.feed, SETTINGS, group, 1, radii, spread=False, shift_doubt=PIXEL_SIZE)


def passed(
    scene: Scene,
    candidates: PosePosterior,
    own: torch.Tensor,
    joint: torch.Tensor | None,
    doubtful: bool = False,
) -> PassResult:
    posed = PosedImages(scene.feed, candidates, np.arange(COUNT) % 2, scene.noise, PIXEL_SIZE)
    rows = np.arange(0, COUNT, 2)
    images = PassImages(rows, np.full(len(rows), doubtful), own, joint, ("pass", 0))
    return refine_pass(scene).over(posed, images, Insertion(Band(RADIUS).side))


def two_candidates(scene: Scene, turn: torch.Tensor) -> PosePosterior:
    """The true poses and turned ones, equally likely."""
    R, t = scene.poses.best()
    both = PosePosterior(torch.stack([R, turn @ R], 1), torch.stack([t, t], 1), torch.zeros(COUNT, 2))
    return both.normalised()


def test_the_map_of_all_images_decides_and_the_half_sets_own_gives_the_pose(scene: Scene):
    box = 2 * (RADIUS + 2)
    own = rebox(scene.mean, box).contiguous()
    # the same map seen a half turn about z away: what it prefers is wrong on the own map
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    turned = own.clone()
    turned[:, 1:, 1:] = own[:, 1:, 1:].flip(1, 2)
    candidates = two_candidates(scene, half_turn)
    rows = torch.arange(0, COUNT, 2)
    true, wrong = scene.poses.best()[0][rows], candidates.R[rows, 1]

    alone = passed(scene, candidates, own, None)
    assert (geodesic_degrees(alone.poses.R[:, 0], true) < 10).float().mean() > 0.9
    joint = passed(scene, candidates, own, turned, doubtful=True)
    assert (geodesic_degrees(joint.poses.R[:, 0], wrong) < 60).float().mean() > 0.9
    assert (geodesic_degrees(joint.poses.R[:, 0], true) > 90).float().mean() > 0.9
    # there they fit the own map worse than the poses that it would have chosen
    assert joint.score.mean() < alone.score.mean() - 10


def test_images_that_are_not_in_doubt_keep_their_weights(scene: Scene):
    """The map of the half set, which is noisier, does not decide anew what that of all images has decided."""
    own = rebox(scene.mean, 2 * (RADIUS + 2)).contiguous()
    likely = two_candidates(scene, torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
    weight = torch.tensor([0.1, 0.9]).log().repeat(COUNT, 1)
    found = passed(scene, replace(likely, log_weight=weight), own, own).poses
    torch.testing.assert_close(found.log_weight, weight[: len(found)].flip(1))
    rows = torch.arange(0, COUNT, 2)
    assert (geodesic_degrees(found.R[:, 1], likely.R[rows, 0]) < 10).float().mean() > 0.9


def one_candidate(scene: Scene) -> PosePosterior:
    """The true poses in the first of two slots."""
    R, t = scene.poses.best()
    weight = torch.tensor([0.0, -torch.inf]).repeat(COUNT, 1)
    return PosePosterior(torch.stack([R, R], 1), torch.stack([t, t], 1), weight)


def test_poses_do_not_follow_the_noise_of_the_map_of_all_images(scene: Scene):
    """Within a mode, the pose is that of the own map."""
    own = rebox(scene.mean, 2 * (RADIUS + 2)).contiguous()
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(3))
    start = one_candidate(scene)
    alone = passed(scene, start, own, None)
    joint = passed(scene, start, own, own + own.std() * noise, doubtful=True)
    apart = geodesic_degrees(joint.poses.R[:, 0], alone.poses.R[:, 0])
    followed = passed(scene, start, own + own.std() * noise, None)
    assert apart.median() < 0.2 * geodesic_degrees(followed.poses.R[:, 0], alone.poses.R[:, 0]).median()


def test_a_search_on_the_map_of_all_images_looks_about_the_present_shift(scene: Scene):
    """Far from zero, where the prior on shifts would not let it look."""
    own = rebox(scene.mean, 2 * (RADIUS + 2)).contiguous()
    R, t = scene.poses.best()
    away = torch.tensor([8.0, -6.0]) * PIXEL_SIZE
    posed = PosedImages(scene.feed, one_candidate(scene), np.arange(COUNT) % 2, scene.noise, PIXEL_SIZE)
    refine = refine_pass(scene)
    images = posed.images(np.arange(COUNT), RADIUS)
    references = references_of(scene.feed, own, SETTINGS.coarse_level, 7)
    near = refine._found(images.moved(away.expand(COUNT, 2)), references, PIXEL_SIZE, about=t + away)
    expected = refine._found(images, references, PIXEL_SIZE, about=t)
    assert (geodesic_degrees(near.R[:, 0], expected.R[:, 0]) < 1).float().mean() > 0.95
    assert ((near.t[:, 0] - away - expected.t[:, 0]).norm(dim=1) < 0.1 * PIXEL_SIZE).float().mean() > 0.95
    assert (geodesic_degrees(near.R[:, 0], R) < 20).float().mean() > 0.8


def test_the_doubt_of_a_shift_is_that_between_modes_by_their_weights():
    t = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [90.0, 0.0]], [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])
    weight = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]).log()
    poses = PosePosterior(torch.eye(3).expand(2, 3, 3, 3), t, weight)
    # per axis and squared: 12.5 and 0, equally likely
    assert shift_doubt(poses) == pytest.approx((12.5 / 2) ** 0.5)
