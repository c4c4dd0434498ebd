"""A symmetry that was not stated, from poses in doubt and from half maps of a symmetric body and of one nearly so."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoloom.inference.poses.modes import mode_weight
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.shared_doubt import shared_doubt
from cryoloom.jobs import unstated_symmetry as module
from cryoloom.jobs.unstated_symmetry import AS_WELL, UnstatedSymmetry, agreement, unstated_symmetry
from cryoloom.maps.fsc import gold_standard
from cryoloom.maps.mask import soft_sphere
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import exponential, geodesic_degrees, random_rotations, symmetry_group
from maps.half_maps import noisy_halves

BOX, PIXEL, COUNT = 40, 4.0, 300


def body(symmetry: str, frame: Tensor, blobs: int, missing: float, moved: float) -> Tensor:
    """Blobs under the rotations of a group about the axes of a frame, off the centre; in one copy some may be missing,
    or moved at random (angstrom, r.m.s.)."""
    g = torch.Generator().manual_seed(4)
    unit = GaussianCloud.random(blobs, 14.0, 6.0, g)
    seat = unit.centres + torch.tensor([32.0, 6.0, 14.0], dtype=torch.float64)
    group = frame @ symmetry_group(symmetry) @ frame.T
    centres = torch.cat([seat @ r.T for r in group]) + torch.tensor([2.0, -3.0, 1.0], dtype=torch.float64)
    centres[:blobs] += moved / 3**0.5 * torch.randn(blobs, 3, generator=g, dtype=torch.float64)
    kept = torch.arange(len(centres)) >= round(missing * blobs)
    widths, masses = unit.widths.repeat(len(group)), unit.masses.repeat(len(group))
    return GaussianCloud(centres[kept], widths[kept], masses[kept]).density(BOX, PIXEL).float()


def run(
    symmetry: str, frame: Tensor, *, blobs: int = 4, missing: float = 0.0, moved: float = 0.0, doubt: float = 0.4
) -> UnstatedSymmetry | None:
    """The finding for images that are in doubt between any two mates."""
    g = torch.Generator().manual_seed(1)
    one, two = noisy_halves(body(symmetry, frame, blobs, missing, moved), 14.0, g)
    mask = soft_sphere(BOX, 17.0, 3.0)
    gold = gold_standard(one, two, mask, PIXEL, g)
    group = frame @ symmetry_group(symmetry) @ frame.T
    R = random_rotations(COUNT, g)
    mate = group[1 + torch.randint(len(group) - 1, (COUNT,), generator=g)]
    off = exponential(torch.randn(COUNT, 3, generator=g, dtype=torch.float64) * np.radians(1.5) / 3**0.5)
    poses = PosePosterior(
        torch.stack([R, mate @ R @ off], 1).float(),
        torch.zeros(COUNT, 2, 2),
        torch.tensor([[1 - doubt, doubt]]).expand(COUNT, 2).log(),
    )
    covariance = torch.diag(torch.tensor([1e-3, 1e-3, 1e-3, 1.0, 1.0])).expand(COUNT, 5, 5)
    shared = shared_doubt(poses, torch.ones(COUNT, dtype=torch.bool), np.random.default_rng(0))
    assert shared is not None
    refined = SimpleNamespace(
        doubt=(shared, 1.0),
        misfit=torch.zeros(COUNT),
        posed=SimpleNamespace(poses=poses),
        mode_weight=lambda group: mode_weight(poses, covariance, group),
    )
    return unstated_symmetry(refined, SimpleNamespace(halves=(one, two), mask=mask, gold=gold), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("symmetry", ["C2", "C7", "D3"])
def test_a_symmetry_of_poses_and_maps_is_named_with_its_axes(symmetry: str):
    frame = random_rotations(1, torch.Generator().manual_seed(9))[0]
    found = run(symmetry, frame)
    assert found is not None
    assert found.name == symmetry
    true = frame @ symmetry_group(symmetry) @ frame.T
    for g in found.group.double():
        assert min(float(geodesic_degrees(g, h)) for h in true) < 1.5


@pytest.mark.parametrize("change", [{"missing": 0.3}, {"moved": 5.0}])
def test_two_views_alike_are_no_symmetry(change: dict, monkeypatch: pytest.MonkeyPatch):
    frame = random_rotations(1, torch.Generator().manual_seed(9))[0]
    assert run("C2", frame, blobs=30) is not None
    compared = []
    monkeypatch.setattr(module, "agreement", lambda *a: compared.append(agreement(*a)) or compared[-1])
    assert run("C2", frame, blobs=30, **change) is None
    # it is the half maps that tell
    assert 0.5 < compared[0] < AS_WELL


def test_no_symmetry_is_looked_for_where_poses_are_certain():
    frame = random_rotations(1, torch.Generator().manual_seed(9))[0]
    assert run("C2", frame, doubt=0.05) is None
