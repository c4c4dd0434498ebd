"""A symmetry that was not stated, from poses in doubt and from half maps of a symmetric body and of one nearly so."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoloom.inference.poses.modes import mode_weight
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.shared_doubt import shared_doubt
from cryoloom.jobs.unstated_symmetry import UnstatedSymmetry, unstated_symmetry
from cryoloom.maps.fsc import gold_standard
from cryoloom.maps.mask import soft_sphere
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import exponential, geodesic_degrees, random_rotations, symmetry_group
from maps.half_maps import noisy_halves

BOX, PIXEL, COUNT = 40, 4.0, 300


def body(symmetry: str, frame: Tensor, *, broken: bool) -> Tensor:
    """A few blobs under the rotations of a group about the axes of a frame, off the centre; one copy of each blob may
    be missing."""
    unit = GaussianCloud.random(4, 14.0, 6.0, torch.Generator().manual_seed(4))
    seat = unit.centres + torch.tensor([32.0, 6.0, 14.0], dtype=torch.float64)
    group = frame @ symmetry_group(symmetry) @ frame.T
    centres = torch.cat([seat @ g.T for g in group]) + torch.tensor([2.0, -3.0, 1.0], dtype=torch.float64)
    kept = torch.arange(len(centres)) >= (1 if broken else 0)
    widths, masses = unit.widths.repeat(len(group)), unit.masses.repeat(len(group))
    return GaussianCloud(centres[kept], widths[kept], masses[kept]).density(BOX, PIXEL).float()


def run(symmetry: str, frame: Tensor, *, broken: bool = False) -> UnstatedSymmetry | None:
    """The finding for images that are in doubt between any two mates."""
    g = torch.Generator().manual_seed(1)
    one, two = noisy_halves(body(symmetry, frame, broken=broken), 14.0, g)
    mask = soft_sphere(BOX, 17.0, 3.0)
    gold = gold_standard(one, two, mask, PIXEL, g)
    group = frame @ symmetry_group(symmetry) @ frame.T
    R = random_rotations(COUNT, g)
    mate = group[1 + torch.randint(len(group) - 1, (COUNT,), generator=g)]
    off = exponential(torch.randn(COUNT, 3, generator=g, dtype=torch.float64) * np.radians(1.5) / 3**0.5)
    poses = PosePosterior(
        torch.stack([R, mate @ R @ off], 1).float(),
        torch.zeros(COUNT, 2, 2),
        torch.tensor([[0.6, 0.4]]).expand(COUNT, 2).log(),
    )
    covariance = torch.diag(torch.tensor([1e-3, 1e-3, 1e-3, 1.0, 1.0])).expand(COUNT, 5, 5)
    doubt = shared_doubt(poses, torch.ones(COUNT, dtype=torch.bool), np.random.default_rng(0))
    assert doubt is not None
    refined = SimpleNamespace(
        doubt=(doubt, 1.0),
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


def test_two_views_alike_are_no_symmetry():
    frame = random_rotations(1, torch.Generator().manual_seed(9))[0]
    assert run("C2", frame, broken=True) is None
