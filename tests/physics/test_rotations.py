"""Rotations: Euler angles, angles between poses, uniformity of samples and grids, symmetry groups."""

import math

import numpy as np
import pytest
import torch

from cryoloom.physics.rotations import (
    axis_order,
    exponential,
    from_euler,
    generated_group,
    geodesic_degrees,
    geodesic_degrees_modulo,
    grid_spacing_degrees,
    group_name,
    nearest_rotation,
    random_rotations,
    rotation_grid,
    symmetry_group,
    to_euler,
    view_grid,
)
from golden.numpy_reference import pose_matrix, random_angles

DTYPES = [torch.float64, torch.float32]
GIMBAL = [(30.0, 0.0, 50.0), (-100.0, 180.0, 20.0), (10.0, 1e-9, -170.0), (0.0, 180.0 - 1e-9, 90.0), (0.0, 0.0, 0.0)]
EDGES = [(179.0, 90.0, -179.0), (12.0, 1e-3, 34.0), (-12.0, 179.999, 34.0), (0.0, 90.0, 0.0), (180.0, 45.0, 180.0)]


def turn(axis: str, degrees: float) -> torch.Tensor:
    """Rotation matrix about a coordinate axis."""
    vector = torch.zeros(3, dtype=torch.float64)
    vector["xyz".index(axis)] = math.radians(degrees)
    return exponential(vector)


@pytest.mark.parametrize("angles", [*GIMBAL, *EDGES, *map(tuple, random_angles(10, seed=3).tolist())])
def test_euler_angles_give_the_reference_matrix(angles):
    R = from_euler(torch.tensor(angles, dtype=torch.float64))
    np.testing.assert_allclose(R.numpy(), pose_matrix(*angles), atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_euler_round_trip(dtype):
    angles = torch.tensor([*GIMBAL, *EDGES, *random_angles(200, seed=4).tolist()], dtype=dtype)
    R = from_euler(angles)
    again = to_euler(R)
    assert again.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float64 else 1e-3  # degrees; 1e-6 rad is where the lock begins
    assert geodesic_degrees(from_euler(again), R).max() < max(tolerance, 1e-4)
    assert (again[:, 1] >= 0).all()
    assert (again[:, 1] <= 180).all()
    ordinary = torch.sin(torch.deg2rad(angles[:, 1])) > 0.01
    difference = (again - angles)[ordinary]
    difference = difference - 360 * (difference / 360).round()
    assert difference.abs().max() < (1e-9 if dtype == torch.float64 else 0.01)


def test_gimbal_lock_puts_the_turn_into_psi():
    again = to_euler(from_euler(torch.tensor([(30.0, 0.0, 50.0), (30.0, 180.0, 50.0)], dtype=torch.float64)))
    torch.testing.assert_close(again, torch.tensor([(0.0, 0.0, 80.0), (0.0, 180.0, 20.0)], dtype=torch.float64))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-5)])
@pytest.mark.parametrize("degrees", [0.0, 1e-7, 1e-3, 0.5, 60.0, 90.0, 150.0, 179.9, 179.9999, 180.0])
def test_geodesic_angle(degrees, dtype, tolerance, generator):
    axis = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    axis = axis / axis.norm(dim=-1, keepdim=True)
    a = random_rotations(50, generator)
    b = exponential(axis * math.radians(degrees)) @ a
    found = geodesic_degrees(a.to(dtype), b.to(dtype))
    # rounding of the matrices themselves: 1e-16 and 1e-7 rad
    torch.testing.assert_close(found, torch.full_like(found, degrees), atol=tolerance, rtol=0)
    torch.testing.assert_close(found, geodesic_degrees(b.to(dtype), a.to(dtype)), atol=tolerance, rtol=0)


def test_exponential_is_right_handed():
    R = exponential(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(R @ torch.tensor([1.0, 0, 0], dtype=torch.float64), R.new_tensor([0.0, 1, 0]))
    torch.testing.assert_close(exponential(R.new_zeros(3)), torch.eye(3, dtype=torch.float64))


def test_nearest_rotation(generator):
    R = random_rotations(30, generator)
    noise = 1e-3 * torch.randn(30, 3, 3, generator=generator, dtype=torch.float64)
    found = nearest_rotation(R + noise)
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64).expand_as(found))
    assert geodesic_degrees(found, R).max() < 0.3
    # the best proper rotation even where the nearest orthogonal matrix is a mirror image
    assert (torch.linalg.det(nearest_rotation(R @ torch.diag(R.new_tensor([1.0, 1, -1])))) > 0).all()


def test_random_rotations_are_uniform(generator):
    R = random_rotations(4000, generator)
    torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=torch.float64).expand_as(R))
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(4000, dtype=torch.float64))
    # entries have mean 0 and variance 1/3, and different entries are uncorrelated
    flat = R.reshape(-1, 9)
    assert flat.mean(0).abs().max() < 4.5 * math.sqrt(1 / 3 / 4000)
    covariance = flat.T @ flat / 4000
    assert (covariance - torch.eye(9, dtype=torch.float64) / 3).abs().max() < 0.03
    # the angle of a uniform rotation has the distribution (theta - sin theta) / pi (Kolmogorov-Smirnov at 1 %)
    theta = torch.deg2rad(geodesic_degrees(R, torch.eye(3, dtype=torch.float64).expand_as(R))).sort().values
    expected = (theta - theta.sin()) / math.pi
    assert (expected - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.63 / math.sqrt(4000)


def test_random_rotations_follow_the_seed():
    one, two = (random_rotations(5, torch.Generator().manual_seed(s), torch.float32) for s in (1, 1))
    assert torch.equal(one, two)
    assert one.dtype == torch.float32
    assert not torch.equal(one, random_rotations(5, torch.Generator().manual_seed(2), torch.float32))


@pytest.mark.parametrize("nside", [1, 2, 4])
def test_grid_sizes(nside):
    assert view_grid(nside).shape == (12 * nside**2, 2)
    grid = rotation_grid(nside)
    assert grid.shape == (72 * nside**3, 3, 3)
    # views are the slowest index and in-plane angles step evenly
    steps = 6 * nside
    assert geodesic_degrees(grid[:-1], grid[1:])[: steps - 1].sub(grid_spacing_degrees(nside)).abs().max() < 1e-9
    rot_tilt = to_euler(grid)[::steps, :2]
    difference = rot_tilt - view_grid(nside)
    assert (difference - 360 * (difference / 360).round()).abs().max() < 1e-9


@pytest.mark.parametrize("nside", [2, 4])
def test_grid_covers_rotations_evenly(nside, generator):
    grid, spacing = rotation_grid(nside), grid_spacing_degrees(nside)
    flat = grid.reshape(-1, 9)
    # moments of the uniform distribution up to second order; measured: 0.008 and 0.002, HEALPix's own quadrature
    assert flat.mean(0).abs().max() < 1e-12
    assert (flat.T @ flat / len(flat) - torch.eye(9, dtype=torch.float64) / 3).abs().max() < 0.034 / nside**2
    # nearest grid point of random rotations: trace of R^T G = 1 + 2 cos(angle)
    R = random_rotations(1000, generator).reshape(-1, 9)
    nearest = torch.rad2deg(torch.acos(((R @ flat.T).max(1).values - 1).clamp(max=2) / 2))
    # measured: mean 0.47, maximum 0.74 to 0.83 of the spacing
    assert nearest.mean() < 0.5 * spacing
    assert nearest.max() < spacing


ORDERS = {"C1": 1, "C2": 2, "C7": 7, "D1": 2, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60, "I2": 60, " c4 ": 4}


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_symmetry_groups_are_groups(name, order):
    group = symmetry_group(name)
    assert group.shape == (order, 3, 3)
    torch.testing.assert_close(group[0], torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order, dtype=torch.float64))
    products = torch.einsum("aij,bjk->abik", group, group).reshape(-1, 9)
    distance = torch.cdist(products, group.reshape(-1, 9))
    # each product is one element, and each element appears once in each row of the table
    assert (distance.min(1).values < 1e-6).all()
    table = distance.argmin(1).reshape(order, order)
    assert (table.sort(1).values == torch.arange(order)).all()


@pytest.mark.parametrize(
    ("name", "axis", "degrees"),
    [
        ("C3", "z", 120.0),
        ("C4", "z", 90.0),
        ("D5", "z", 72.0),
        ("D5", "x", 180.0),
        ("D2", "x", 180.0),
        ("T", "z", 180.0),
        ("O", "z", 90.0),
        ("O", "x", 90.0),
        ("I", "z", 180.0),
    ],
)
def test_symmetry_axes(name, axis, degrees):
    distances = (symmetry_group(name) - turn(axis, degrees)).flatten(1).norm(dim=1)
    assert distances.min() < 1e-9


@pytest.mark.parametrize(
    ("name", "axis"),
    [("I", (0.850651, 0, -0.525731)), ("I1", (0.850651, 0, -0.525731)), ("I2", (0.525731, 0, 0.850651))],
)
def test_icosahedral_settings_are_those_of_relion(name, axis):
    """Fivefold axes as `relion_refine --print_symmetry_ops --sym I1` and I2 have them; its I is I2."""
    fifth = exponential(torch.tensor(axis, dtype=torch.float64) * math.radians(72))
    assert (symmetry_group(name) - fifth).flatten(1).norm(dim=1).min() < 1e-5
    other = symmetry_group("I1" if name == "I2" else "I2")
    assert (other - fifth).flatten(1).norm(dim=1).min() > 0.1


@pytest.mark.parametrize("name", ["", "C", "C0", "X3", "I5", "C-2", "D2d", "TT"])
def test_other_symmetries_are_refused(name):
    with pytest.raises(ValueError, match="is not a point group"):
        symmetry_group(name)


def test_angles_modulo_a_group_do_not_see_its_mates(generator):
    group = symmetry_group("D3")
    R = random_rotations(20, generator)
    mates = group[torch.arange(20) % len(group)] @ R
    torch.testing.assert_close(
        geodesic_degrees_modulo(R, mates, group), torch.zeros(20, dtype=torch.float64), atol=1e-5, rtol=0
    )
    turned = R @ exponential(torch.tensor([[0.0, 0.1, 0.0]], dtype=torch.float64))
    expected = torch.full((20,), math.degrees(0.1), dtype=torch.float64)
    torch.testing.assert_close(geodesic_degrees_modulo(group[1] @ turned, R, group), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["C2", "C7", "D2", "D7", "T", "O", "I"])
def test_two_rotations_generate_a_group_that_is_named_in_any_frame(name, generator):
    frame = random_rotations(1, generator)[0]
    group = frame @ symmetry_group(name) @ frame.T
    error = exponential(torch.full((3,), math.radians(0.2), dtype=torch.float64))
    # rotations that generate it, one of them measured with an error
    found = generated_group(torch.stack([group[1] @ error, *group[2:]]) if name in "TOI" else group[1:])
    assert found is not None
    assert len(found) == len(group)
    assert group_name(found) == name
    for g in found:
        assert min(float(geodesic_degrees(g, h)) for h in group) < 2


def test_rotations_that_close_on_no_point_group_are_told(generator):
    assert generated_group(random_rotations(2, generator)) is None
    assert group_name(torch.eye(3)[None]) == "C1"


@pytest.mark.parametrize(
    ("degrees", "order"), [(180.3, 2), (120.0, 3), (154.2, 7), (30.4, 12), (40.0, 9), (100.0, None)]
)
def test_orders_of_axes(degrees, order):
    assert axis_order(degrees) == order
