"""Whether one structure is told from several; images of symmetric particles are turned into mates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cryoloom.jobs import structures as room
from cryoloom.jobs.structures import Structures, structures
from cryoloom.runs.session import Session
from recipes.scene import Scene, three_states

COUNT = 400


def outcome_of(scene: Scene) -> Structures:
    return structures(scene.posed(), "C1", 1, Session.in_memory())


def test_one_structure_needs_no_component(tmp_path: Path):
    found = outcome_of(Scene(tmp_path, three_states()[:1], COUNT))
    assert found == Structures(0, 0.0)


def test_three_structures_are_told_from_one(tmp_path: Path):
    found = outcome_of(Scene(tmp_path, three_states(), COUNT))
    assert found.components >= 1
    assert found.gain_nats > 0.2


def test_few_of_many_images_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "MOST_IMAGES", 100)
    scene = Scene(tmp_path, three_states(), COUNT)
    used = room._some(scene.posed(), 1)
    assert (used.half >= 0).sum() == 100
    assert set(used.half) == {-1, 0, 1}


def test_images_are_turned_into_mates_of_their_poses(tmp_path: Path):
    scene = Scene(tmp_path, three_states()[:1], COUNT)
    before, after = scene.posed().poses.best()[0], room._turned(scene.posed(), "C2", 1).poses.best()[0]
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    same = (after - before).abs().amax((1, 2)) < 1e-6
    mate = (after - half_turn @ before).abs().amax((1, 2)) < 1e-6
    assert (same ^ mate).all()
    assert 0.3 < float(same.float().mean()) < 0.7
