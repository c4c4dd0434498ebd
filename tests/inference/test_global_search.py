"""Global searches of opened images against maps: poses found, shifts tried, candidates apart from each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.global_search import (
    APART,
    COARSE_NSIDE,
    ENTRIES,
    FINE_NSIDE,
    candidates_of,
    references_of,
    search,
    shifts_of,
)
from cryoloom.inference.poses.grids import cached_rotation_grid
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import GridPosterior
from cryoloom.maps.align import apply_rigid
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import geodesic_degrees, geodesic_degrees_modulo, symmetry_group
from recipes.scene import BOX, PIXEL_SIZE, Scene, two_states

COUNT, RADIUS, COARSE_LEVEL = 120, 9, 5.0
SIGMA = PIXEL_SIZE  # of the shifts with which the set is made
SPACING = cached_rotation_grid(FINE_NSIDE).spacing_degrees


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("two"), two_states(), COUNT)


def found_in(
    scene: Scene, volume: torch.Tensor, rows: np.ndarray | None = None, group: torch.Tensor | None = None
) -> GridPosterior:
    rows = np.arange(COUNT) if rows is None else rows
    references = references_of(scene.feed, volume, COARSE_LEVEL, RADIUS, group)
    return search(scene.feed, scene.feed.images(rows, RADIUS, scene.noise), references, SIGMA)


@pytest.fixture(scope="module")
def found(scene) -> list[GridPosterior]:
    """The images searched against the map of either state."""
    return [found_in(scene, volume) for volume in scene.maps]


def candidates(scene: Scene, found: list[GridPosterior], count: int = 4, **named: Any) -> PosePosterior:
    return candidates_of(scene.feed, found, radius=RADIUS, sigma_angstrom=SIGMA, count=count, **named)


def errors(poses: PosePosterior, scene: Scene) -> torch.Tensor:
    """Degrees of each candidate from the truth, [B, K]; infinite where there is none."""
    angle = geodesic_degrees(poses.R, scene.poses.R.expand_as(poses.R))
    return torch.where(poses.log_weight > -torch.inf, angle, torch.inf)


def test_slices_are_those_of_a_coarse_and_a_fine_grid(scene):
    coarse, fine = references_of(scene.feed, scene.mean, COARSE_LEVEL, RADIUS)
    assert (coarse.grid.nside, fine.grid.nside) == (COARSE_NSIDE, FINE_NSIDE)
    assert coarse.disc.radius == scene.feed.radius_of(COARSE_LEVEL)
    assert fine.disc.radius == RADIUS
    # a search that ends below the coarse level is coarse to its own radius
    low, end = references_of(scene.feed, scene.mean, COARSE_LEVEL, 4)
    assert low.disc.radius == end.disc.radius == 4


def test_a_map_may_come_in_a_larger_box_than_the_radius_asks_for(scene):
    whole, cut = (references_of(scene.feed, v, COARSE_LEVEL, 4)[0] for v in (scene.mean, rebox(scene.mean, 12)))
    torch.testing.assert_close(whole.slices, cut.slices, rtol=0, atol=1e-3 * float(cut.slices.abs().max()))


def test_shifts_reach_far_enough_and_are_fine_enough(scene):
    shifts = shifts_of(scene.feed, RADIUS, SIGMA)
    assert shifts.norm(dim=1).max() <= 2.7 * SIGMA * 1.001
    # each point within the reach has a shift nearby: the rim of the disc turns by 45 degrees at most along an axis
    step = BOX * PIXEL_SIZE / (4 * RADIUS)
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    points = points / points.norm(dim=1, keepdim=True) * 2 * SIGMA
    assert torch.cdist(points, shifts).min(1).values.max() <= step * 0.5**0.5 + 1e-4
    # however small the spread, the nearest neighbours of zero are tried
    assert len(shifts_of(scene.feed, RADIUS, 1e-3)) == 5


def test_images_are_found_in_the_map_of_their_own_state(scene, found):
    joint = candidates(scene, found)
    error = errors(joint, scene)
    # measured: 91 % of the best, 95 % of all candidates; a median offset of 1.4 A; 96 % in the right map
    assert (error[:, 0] < 1.5 * SPACING).float().mean() > 0.85
    assert (error.amin(1) < 1.5 * SPACING).float().mean() > 0.9
    offset = (joint.t[:, 0] - scene.poses.t[:, 0]).norm(dim=1)
    assert offset.median() < 0.5 * SIGMA
    # the better of two maps decides: images score higher in the map of their own state
    better = (found[1].best_score[:, 0] > found[0].best_score[:, 0]).numpy()
    assert (better == (scene.state == 2)).mean() > 0.9


def test_one_search_or_two_the_best_candidate_is_the_likeliest(scene, found):
    joint = candidates(scene, found)
    for alone in (candidates(scene, [one]) for one in found):
        same = geodesic_degrees(alone.R[:, 0], joint.R[:, 0]) < 1e-2
        assert 0.1 < same.float().mean() < 0.999
    scores = torch.stack([one.best_score[:, 0] for one in found])
    first = scores.argmax(0)
    grid, shifts = cached_rotation_grid(FINE_NSIDE), shifts_of(scene.feed, RADIUS, SIGMA)
    key = torch.stack([one.best[:, 0] for one in found])[first, torch.arange(COUNT)]
    assert torch.equal(joint.R[:, 0], grid.R[key % len(grid.R)])
    assert torch.equal(joint.t[:, 0], shifts[key // len(grid.R)])


def test_candidates_are_apart_and_weighed(scene, found):
    for count in (1, 3):
        chosen = candidates(scene, found, count)
        assert chosen.R.shape == (COUNT, count, 3, 3)
        torch.testing.assert_close(chosen.log_weight.exp().sum(1), torch.ones(COUNT), rtol=0, atol=1e-4)
        assert (chosen.log_weight.diff(dim=1)[chosen.log_weight[:, 1:] > -torch.inf] <= 0).all()
        used = chosen.log_weight > -torch.inf
        for i in range(count):
            for j in range(i):
                both = used[:, i] & used[:, j]
                assert (geodesic_degrees(chosen.R[both, i], chosen.R[both, j]) > APART * SPACING - 0.1).all()
    assert (candidates(scene, found, 3).log_weight[:, 1] > -torch.inf).any()  # there was something to keep apart


def test_mates_under_the_symmetry_are_one_candidate(scene):
    """In a map with a twofold axis each pose has a mate that fits as well."""
    volume = scene.mean + torch.roll(scene.mean.flip((1, 2)), (1, 1), (1, 2))  # turned by 180 degrees about z
    found = [found_in(scene, volume)]
    group = symmetry_group("C2").float()
    free, modulo = candidates(scene, found), candidates(scene, found, group=group)

    def mates(poses: PosePosterior) -> torch.Tensor:
        second = (poses.log_weight[:, 1] > -torch.inf) & (poses.log_weight[:, 1] > poses.log_weight[:, 0] - 3)
        near = geodesic_degrees_modulo(poses.R[:, 0], poses.R[:, 1], group) < APART * SPACING - 0.1
        return (near & second).float().mean()

    assert mates(free) > 0.9
    assert mates(modulo) == 0


def test_images_do_not_depend_on_their_neighbours(scene, found):
    rows = np.array([3, 77, 41])
    alone = found_in(scene, scene.maps[0], rows)
    assert alone.best.shape == (3, ENTRIES)
    assert torch.equal(alone.best[:, 0], found[0].best[rows, 0])
    torch.testing.assert_close(alone.best_score[:, 0], found[0].best_score[rows, 0], rtol=1e-4, atol=1e-2)


def test_an_asymmetric_unit_leaves_more_candidates_and_the_best_one(scene):
    """In a map with a sevenfold axis, whose mates would take the places of others."""
    group = symmetry_group("C7").float()
    volume = torch.stack([apply_rigid(scene.mean, g) for g in group]).mean(0)
    whole, unit = (candidates(scene, [found_in(scene, volume, group=g)], count=6, group=group) for g in (None, group))
    places = [(poses.log_weight > -torch.inf).sum(1).float().mean() for poses in (whole, unit)]
    assert places[1] > 1.2 * places[0]
    near = geodesic_degrees_modulo(whole.R[:, 0], unit.R[:, 0], group) < APART * SPACING
    assert near.float().mean() > 0.8  # measured: 0.88; the grid's points are not symmetric
