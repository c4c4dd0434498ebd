"""Ways through a latent space stay where images are, where a straight line does not."""

import numpy as np
import pytest

from cryoloom.analyze.latent import principal_axes
from cryoloom.analyze.trajectories import Trajectory, along_axis, neighbour_graph, through_neighbours


def ring(count: int = 1500, sd: float = 0.05) -> np.ndarray:
    """Images around a circle of radius 1 in 5 dimensions; the first lies at angle 0, the second opposite."""
    rng = np.random.default_rng(3)
    angle = np.concatenate([[0, np.pi], rng.uniform(0, 2 * np.pi, count)])
    z = np.zeros((len(angle), 5))
    z[:, 0], z[:, 1] = np.cos(angle), np.sin(angle)
    return z + sd * rng.normal(size=z.shape)


def radii(points: np.ndarray) -> np.ndarray:
    return np.hypot(points[:, 0], points[:, 1])


def test_neighbours_lead_around_a_ring() -> None:
    z = ring()
    found = through_neighbours(neighbour_graph(z), [0, 1], 12)
    assert np.abs(radii(found.points) - 1).max() < 0.15
    line = np.linspace(z[0], z[1], 12)
    assert radii(line).min() < 0.2, "the straight line crosses the hole"
    np.testing.assert_allclose(found.points[[0, -1]], z[:2])
    assert found.rows[[0, -1]].tolist() == [0, 1]
    # one way around: the angle goes on and on
    turned = np.unwrap(np.arctan2(found.points[:, 1], found.points[:, 0]))
    assert (np.abs(np.diff(turned)) < 0.6).all()
    assert abs(turned[-1] - turned[0]) == pytest.approx(np.pi, abs=0.2)


def test_points_are_evenly_spaced_along_the_way() -> None:
    """On a straight row of images the polygon is the line itself: points at equal distances, whatever the images'."""
    z = np.sort(np.random.default_rng(1).uniform(0, 1, 300))[:, None] * np.array([[3.0, 4.0]])
    found = through_neighbours(neighbour_graph(z), [0, 299], 7)
    np.testing.assert_allclose(found.points, np.linspace(z[0], z[-1], 7), atol=1e-9)
    np.testing.assert_allclose(found.position, np.linspace(0, np.linalg.norm(z[-1] - z[0]), 7))


def test_a_way_through_several_images() -> None:
    z = ring()
    found = through_neighbours(neighbour_graph(z), [0, 1, 0], 9)
    np.testing.assert_allclose(found.points[[0, -1]], z[[0, 0]])
    assert found.points[4, 0] < -0.8


def test_the_axis_of_a_bent_cloud_is_followed_on_data() -> None:
    """An open arc: along PC1 each point is on the arc, at equidistant values of the coordinate."""
    rng = np.random.default_rng(2)
    angle = rng.uniform(0, np.pi, 3000)
    z = np.stack([np.cos(angle), np.sin(angle), np.zeros(3000)], 1) + 0.03 * rng.normal(size=(3000, 3))
    axes = principal_axes(z)
    found = along_axis(z, axes, 0, 10)
    assert np.abs(radii(found.points) - 1).max() < 0.06
    straight = axes.latent(np.outer(found.position, np.eye(3)[0]))
    assert np.abs(radii(straight) - 1).max() > 0.3
    np.testing.assert_allclose(axes.project(found.points)[:, 0], found.position, atol=1e-9)
    low, high = np.percentile(axes.coordinates[:, 0], (5, 95))
    np.testing.assert_allclose(found.position, np.linspace(low, high, 10))
    assert (np.linalg.norm(z[found.rows] - found.points, axis=1) < 0.1).all()


def test_the_axis_of_a_ring_takes_one_side() -> None:
    """At each value there are two arms; the mean of both lies in the hole, jumps from arm to arm are no motion."""
    z = ring()
    axes = principal_axes(z)
    found = along_axis(z, axes, 0, 10, (10, 90))
    assert np.abs(radii(found.points) - 1).max() < 0.15
    across = axes.project(found.points)[:, 1]
    assert (across > 0).all() or (across < 0).all()


def test_two_parts_without_a_way_are_said() -> None:
    rng = np.random.default_rng(4)
    z = np.concatenate([rng.normal(size=(40, 2)), 100 + rng.normal(size=(40, 2))])
    with pytest.raises(ValueError, match="no chain of neighbours joins"):
        through_neighbours(neighbour_graph(z, 5), [0, 40])


def test_images_at_one_place_are_neighbours() -> None:
    z = np.concatenate([np.zeros((6, 1)), np.ones((6, 1)), [[2.0]]])
    found = through_neighbours(neighbour_graph(z, 6), [0, 12], 3)
    np.testing.assert_allclose(found.points[:, 0], [0, 1, 2], atol=1e-9)


def _axis(component: int, count: int, z: np.ndarray) -> Trajectory:
    return along_axis(z, principal_axes(z), component, count)


def test_ways_that_can_not_be_are_refused() -> None:
    z = ring(50)
    with pytest.raises(ValueError, match="principal axis 6; expected 1 to 5"):
        _axis(5, 10, z)
    with pytest.raises(ValueError, match="2 or more"):
        _axis(0, 1, z)
    with pytest.raises(ValueError, match="do not vary along principal axis 2"):
        _axis(1, 5, np.stack([np.arange(9.0), np.zeros(9)], 1))
    graph = neighbour_graph(z)
    with pytest.raises(ValueError, match="through 1 images"):
        through_neighbours(graph, [0], 5)
    with pytest.raises(ValueError, match="image 53; expected 1 to 52"):
        through_neighbours(graph, [0, 52])
    with pytest.raises(ValueError, match="the same latent coordinates"):
        through_neighbours(graph, [3, 3])
    with pytest.raises(ValueError, match="52 neighbours among 52"):
        neighbour_graph(z, 52)
