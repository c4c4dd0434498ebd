"""Grids of rotations and shifts, and the tables from coarse to fine."""

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.grids import (
    cached_rotation_grid,
    children,
    in_asymmetric_unit,
    shift_grid,
    shift_step_angstrom,
)
from cryoloom.inference.poses.search import MARGIN
from cryoloom.physics.half_turns import HALF_TURNS
from cryoloom.physics.rotations import geodesic_degrees, random_rotations, rotation_grid, symmetry_group

PAIRS = [(1, 2), (2, 4), (4, 8), (3, 8)]


@pytest.mark.parametrize(("nside", "count", "spacing"), [(3, 1944, 20.0), (4, 4608, 15.0), (8, 36864, 7.5)])
def test_rotation_grids(nside, count, spacing):
    grid = cached_rotation_grid(nside)
    assert grid.R.shape == (count, 3, 3)
    assert grid.R.dtype == torch.float32
    assert grid.spacing_degrees == spacing
    assert cached_rotation_grid(nside) is grid


@pytest.mark.parametrize("nside", [1, 2, 3, 4])
def test_rotation_grids_hold_the_half_turns_of_their_first_quarter(nside):
    """The same rotations as the grid by views, in four groups."""
    R, by_views = cached_rotation_grid(nside).R, rotation_grid(nside).float()
    groups = R.view(4, -1, 3, 3)
    torch.testing.assert_close(groups, groups[0] @ HALF_TURNS[:, None], rtol=0, atol=1e-6)
    nearest = torch.einsum("mij,bij->bm", R, by_views).argmax(1)
    assert torch.equal(nearest.sort().values, torch.arange(len(R)))
    torch.testing.assert_close(R[nearest], by_views, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("coarse", "fine"), PAIRS)
def test_every_fine_rotation_has_a_parent(coarse, fine):
    table = children(coarse, fine)
    assert table.dtype == np.int32
    assert table.shape[0] == 72 * coarse**3
    assert np.array_equal(np.unique(table[table >= 0]), np.arange(72 * fine**3))
    assert table.min() >= -1


@pytest.mark.parametrize(("coarse", "fine"), PAIRS)
def test_no_child_stands_twice_in_a_row(coarse, fine):
    rows = np.sort(children(coarse, fine), 1)
    assert not ((rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] >= 0)).any()


@pytest.mark.parametrize(("coarse", "fine"), PAIRS)
def test_children_lie_near_their_parent(coarse, fine):
    """0.72 of the spacing in view and half of it in plane, with a fine step to spare."""
    table = children(coarse, fine)
    parent, place = np.nonzero(table >= 0)
    distance = geodesic_degrees(
        cached_rotation_grid(coarse).R[parent], cached_rotation_grid(fine).R[table[parent, place]]
    )
    assert distance.max() < 0.72 * 60 / coarse + 0.5 * 60 / coarse + 60 / fine


@pytest.mark.parametrize(("coarse", "fine"), PAIRS)
def test_the_nearest_coarse_rotation_is_a_parent(coarse, fine, generator):
    """So that a search below the best coarse rotation can find what is nearest to the truth."""
    table, R = children(coarse, fine), cached_rotation_grid(coarse).R
    R_fine = cached_rotation_grid(fine).R
    some = torch.randint(len(R_fine), (150,), generator=generator)
    nearest = torch.einsum("mij,bij->bm", R, R_fine[some]).argmax(1)
    assert all(i in table[k] for i, k in zip(some.tolist(), nearest.tolist(), strict=True))


def test_the_grid_is_as_fine_as_it_says(generator):
    grid, truth = cached_rotation_grid(4), random_rotations(200, generator).float()
    nearest = grid.R[torch.einsum("mij,bij->bm", grid.R, truth).argmax(1)]
    assert geodesic_degrees(nearest, truth).max() < 0.85 * grid.spacing_degrees


@pytest.mark.parametrize("symmetry", ["C7", "T", "O", "I", "D3"])
def test_an_asymmetric_unit_holds_one_of_all_mates(symmetry, generator):
    group, R = symmetry_group(symmetry).float(), random_rotations(300, generator).float()
    mates = torch.einsum("gij,mjk->gmik", group, R).reshape(-1, 3, 3)
    turned = (mates @ HALF_TURNS[:, None]).reshape(-1, 3, 3)
    inside = in_asymmetric_unit(turned, group).reshape(len(group), len(R))
    assert (inside.sum(0) == 1).all()


@pytest.mark.parametrize("symmetry", ["C2", "C7", "D7", "T", "O", "I"])
def test_a_mate_of_every_pose_is_found_below_an_asymmetric_unit(symmetry, generator):
    """The nearest fine rotation of one of its mates is a child of a coarse rotation inside."""
    group, R = symmetry_group(symmetry).float(), random_rotations(200, generator).float()
    coarse, fine = cached_rotation_grid(4), cached_rotation_grid(8)
    inside = in_asymmetric_unit(coarse.R, group, MARGIN * coarse.spacing_degrees).repeat(4)
    found = torch.zeros(len(fine.R), dtype=torch.bool)
    below = children(4, 8)[inside.numpy()]
    found[torch.from_numpy(below[below >= 0]).long()] = True
    nearest = torch.stack([torch.einsum("mij,bij->bm", fine.R, g @ R).argmax(1) for g in group])
    assert found[nearest].any(0).all()
    # no more than the unit and its margin
    assert inside.float().mean() < 4 / len(group)


def test_shift_grid_is_the_lattice_within_reach():
    grid = shift_grid(2.0, 6.0)
    expected = {(x, y) for x in range(-6, 7, 2) for y in range(-6, 7, 2) if x * x + y * y <= 36}
    assert {(round(x), round(y)) for x, y in grid.tolist()} == expected
    assert len(grid) == len(expected)
    assert grid[0].tolist() == [0.0, 0.0]
    assert (grid.norm(dim=1).diff() >= -1e-6).all()
    assert grid.dtype == torch.float32
    assert grid.is_contiguous()


@pytest.mark.parametrize("reach", [0.0, 1.9])
def test_a_reach_below_one_step_leaves_the_zero_shift(reach):
    assert shift_grid(2.0, reach).tolist() == [[0.0, 0.0]]


def test_reach_of_whole_steps_is_met_despite_rounding():
    assert shift_grid(0.1, 0.3).norm(dim=1).max() == pytest.approx(0.3)


def test_shift_step_is_a_quarter_of_the_shortest_wavelength():
    assert shift_step_angstrom(64, 2.0, 16.0) == 64 * 2.0 / 16.0 / 4
