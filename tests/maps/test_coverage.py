"""Coverage: the published factor for even and for side views, gaps found where they are, and single views."""

import math

import pytest
import torch

from cryoloom.maps.coverage import orientation_coverage, viewing_histogram
from cryoloom.physics.rotations import from_euler, random_rotations, view_grid


def views(count: int, tilt_low: float, tilt_high: float, generator: torch.Generator) -> torch.Tensor:
    """Poses with view directions even between two tilts (in the cosine), any rot and psi."""
    low, high = (math.cos(math.radians(t)) for t in (tilt_low, tilt_high))
    u = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    angles = u * 360
    angles[:, 1] = torch.rad2deg(torch.acos(high + (low - high) * u[:, 1]))
    return from_euler(angles)


def test_histogram_counts_by_view_direction(generator: torch.Generator) -> None:
    grid = view_grid(8)
    angles = torch.cat([grid[[5, 5, 700]], torch.tensor([[0.0], [77.0], [120.0]], dtype=torch.float64)], 1)
    histogram = viewing_histogram(from_euler(angles))
    assert histogram.shape == (768,)
    assert float(histogram[5]) == pytest.approx(2 / 3)
    assert float(histogram[700]) == pytest.approx(1 / 3)
    weighted = viewing_histogram(from_euler(angles), torch.tensor([1.0, 1.0, 6.0]))
    assert float(weighted[700]) == pytest.approx(0.75)


def test_even_views_score_one(generator: torch.Generator) -> None:
    c = orientation_coverage(random_rotations(5000, generator))
    assert c.scf == pytest.approx(1.0, abs=0.01)
    assert c.missing_share == 0
    assert not c.single_view
    assert float(c.sampling.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(c.histogram.sum()) == pytest.approx(1.0)


def test_side_views_score_as_published(generator: torch.Generator) -> None:
    # sampling is (2 / pi) / sin(theta), whose harmonic mean is 8 / pi^2 = 0.81
    c = orientation_coverage(views(20000, 89, 91, generator))
    assert c.scf == pytest.approx(8 / math.pi**2, abs=0.02)
    assert c.missing_share == 0
    assert not c.single_view


def test_top_views_leave_a_cone_empty(generator: torch.Generator) -> None:
    c = orientation_coverage(views(5000, 0, 45, generator))
    # a cone of 45 degrees about z is never in a plane: 1 - cos 45 degrees = 0.29 of the sphere
    assert c.missing_share == pytest.approx(0.29, abs=0.06)
    assert c.missing[:, 2].min() > math.cos(math.radians(50))
    assert c.scf < 0.3
    assert not c.single_view


@pytest.mark.parametrize("opposite", [False, True])
def test_a_single_view_is_seen_on_its_axis(opposite: bool, generator: torch.Generator) -> None:
    R = views(1000, 0, 8, generator)
    turn = random_rotations(1, generator)[0]
    if opposite:
        R[::2] = R[::2] @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    c = orientation_coverage(turn @ R)
    assert c.single_view
    assert c.main_view_share > 0.99
    assert float((c.main_view @ turn[:, 2]).abs()) > math.cos(math.radians(10))
    assert c.missing_share > 0.6
    assert c.scf < 0.15


def test_more_uneven_is_lower(generator: torch.Generator) -> None:
    even = random_rotations(2000, generator)
    some = orientation_coverage(torch.cat([even, views(2000, 0, 15, generator)])).scf
    most = orientation_coverage(torch.cat([even[:400], views(3600, 0, 15, generator)])).scf
    assert 0.9 > some > most > 0.1


def test_symmetry_fills_what_one_view_leaves(generator: torch.Generator) -> None:
    R = views(2000, 80, 100, generator)
    R = R[R[:, 0, 2] > 0.95]  # about x only
    one, seven = orientation_coverage(R), orientation_coverage(R, symmetry="D7")
    assert one.single_view
    assert not seven.single_view
    assert seven.scf > one.scf + 0.3


def test_weights_and_bad_input(generator: torch.Generator) -> None:
    R = torch.cat([random_rotations(500, generator), views(500, 0, 5, generator)])
    light = torch.cat([torch.ones(500), torch.zeros(500)])
    assert orientation_coverage(R, light).scf > orientation_coverage(R).scf + 0.1
    with pytest.raises(ValueError, match="0 particles"):
        orientation_coverage(R[:0])
    R[3, 0, 2] = float("nan")
    with pytest.raises(ValueError, match="1 of 1000"):
        orientation_coverage(R)
