"""Poses in a family of volumes, on opened images of two states: climbs, searches, and who is to be searched again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoloom.inference.conformations import family_poses
from cryoloom.inference.conformations.family_poses import Family, FamilyPoses, second_behind
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import Refined
from cryoloom.physics.rotations import geodesic_degrees, random_rotations
from inference.scene import turned
from recipes.scene import PIXEL_SIZE, Scene, two_states

COUNT, RADIUS, LEVEL = 120, 9, 7.0
ROWS = np.arange(COUNT)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("two"), two_states(), COUNT)


@pytest.fixture(scope="module")
def family(scene) -> Family:
    """The mean of the two states and half their difference: latents of -1 and 1."""
    one, two = scene.maps
    return Family(torch.stack([0.5 * (one + two), 0.5 * (two - one)]), scene.noise, 0.05)


@pytest.fixture(scope="module")
def seeker(scene) -> FamilyPoses:
    return FamilyPoses(scene.feed, PIXEL_SIZE, coarse_level=5.0, points=2)


def errors(poses: PosePosterior, scene: Scene, rows: np.ndarray = ROWS) -> torch.Tensor:
    return geodesic_degrees(poses.best()[0], scene.poses.best()[0][torch.from_numpy(rows)])


def test_poses_climb_to_the_truth_where_the_family_knows_the_motion(scene, family, seeker, generator):
    start = PosePosterior.certain(turned(scene.poses.best()[0], 8.0, generator), scene.poses.best()[1])
    families = {"family": family, "mean": Family(family.volumes[:1], family.noise, family.contrast_sigma)}
    found = {name: seeker.climbed(start, ROWS, f, RADIUS, 5) for name, f in families.items()}
    error = {name: errors(refined.posterior, scene).median() for name, refined in found.items()}
    # measured: 2.5 degrees, and 6.6 on the mean alone
    assert error["family"] < 3.5
    assert error["family"] < 0.6 * error["mean"]
    posterior = found["family"].posterior
    assert posterior.covariance is not None
    assert len(posterior) == len(found["family"].score) == COUNT
    # images fit as well as their poses promise, and better than the mean alone explains them
    assert found["family"].misfit.mean().abs() < 0.3
    assert (found["family"].score - found["mean"].score).median() > 5


def test_batches_of_a_climb_are_put_together_in_their_order(scene, family, seeker, generator, monkeypatch):
    start = PosePosterior.certain(turned(scene.poses.best()[0], 5.0, generator), scene.poses.best()[1])
    rows = np.array([5, 90, 17, 64, 33])
    whole = seeker.climbed(start, rows, family, RADIUS, 3)
    monkeypatch.setattr(family_poses, "BATCH", 2)
    parts = seeker.climbed(start, rows, family, RADIUS, 3)
    torch.testing.assert_close(parts.posterior.R, whole.posterior.R, rtol=0, atol=1e-4)
    torch.testing.assert_close(parts.score, whole.score, rtol=1e-4, atol=1e-2)
    assert (geodesic_degrees(whole.posterior.R[:, 0], start.R[rows, 0]) < 20).all()


def test_lost_images_of_both_states_are_found_again(scene, family, seeker):
    lost = np.arange(1, COUNT, 2)
    R = scene.poses.best()[0].clone()
    R[lost] = random_rotations(len(lost), torch.Generator().manual_seed(3)).float()
    start = PosePosterior(
        R[:, None].repeat(1, 2, 1, 1), scene.poses.t.repeat(1, 2, 1), torch.tensor([[0.0, -torch.inf]]).repeat(COUNT, 1)
    )
    assert (errors(start.rows(torch.from_numpy(lost)), scene, lost) < 10).float().mean() < 0.1
    found = seeker.searched(start, lost, family, radius=RADIUS, level=LEVEL, generator=np.random.default_rng(1))
    assert found.R.shape == (len(lost), 2, 3, 3)
    error = errors(found, scene, lost)
    for state in (1, 2):
        share = (error[torch.from_numpy(scene.state[lost] == state)] < 12).float().mean()
        assert share > 0.85  # measured 0.92 and 1
    torch.testing.assert_close(found.log_weight.exp().sum(1), torch.ones(len(lost)))


def test_a_known_pose_that_is_right_survives_a_search(scene, family, seeker):
    """Its climb starts from what was known along with what the search finds."""
    rows = np.arange(20)
    found = seeker.searched(scene.poses, rows, family, radius=RADIUS, level=LEVEL, generator=np.random.default_rng(1))
    error = errors(found, scene, rows)
    assert (error < 12).float().mean() > 0.95


def test_images_are_searched_at_points_of_the_latent_space(scene, family, seeker, monkeypatch):
    """Each at a state of its own: with latents of -1 and 1, two points are those of the two states."""
    given = []

    def noting(feed, volume, *args):
        given.append(volume)
        return references_of(feed, volume, *args)

    references_of = family_poses.references_of
    monkeypatch.setattr(family_poses, "references_of", noting)
    seeker.searched(scene.poses, ROWS, family, radius=RADIUS, level=LEVEL, generator=np.random.default_rng(2))
    assert len(given) == 2
    latents = sorted(
        float(((v - family.volumes[0]) * family.volumes[1]).sum() / family.volumes[1].square().sum()) for v in given
    )
    assert latents[0] == pytest.approx(-1, abs=0.25)
    assert latents[1] == pytest.approx(1, abs=0.25)
    given.clear()
    seeker.searched(scene.poses, np.array([4]), family, radius=RADIUS, level=LEVEL, generator=np.random.default_rng(2))
    assert len(given) == 1  # fewer images than points: each is its own


def test_poor_fits_and_near_seconds_are_doubtful(seeker):
    poses = PosePosterior(
        torch.eye(3).expand(4, 2, 3, 3),
        torch.zeros(4, 2, 2),
        torch.tensor([[0.0, -20.0], [0.0, -20], [0.0, -4], [-6, 0.0]]),
    )
    power = torch.full((4,), 400.0)
    score = torch.tensor([200.0, 130.0, 200.0, 200.0])  # the second lies 3.5 s.d. below half its power
    assert seeker.doubtful(Refined(poses, score, power, log_mass=score)).tolist() == [False, True, True, False]


def test_a_single_candidate_has_no_second():
    weight = torch.tensor([[-1.0, -3.5, -0.5], [0.0, -torch.inf, -torch.inf]])
    poses = PosePosterior(torch.eye(3).expand(2, 3, 3, 3), torch.zeros(2, 3, 2), weight)
    assert second_behind(poses).tolist() == [0.5, float("inf")]
    assert second_behind(poses.top(1)).tolist() == [float("inf")] * 2
