"""Starts that the user gives: a symmetry that is stated is looked for in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryoloom.jobs.given_start import given_start, stated_symmetry
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.jobs.verdict import SYMMETRIC
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import symmetry_group
from cryoloom.simulation.dataset import simulate_dataset
from cryoloom.simulation.truth import SimulationSettings

BOX, PIXEL_SIZE = 32, 6.0


def assembly(symmetry: str, seat: tuple[float, float, float]) -> Tensor:
    """A few Gaussians at a seat off the axes, and their copies."""
    unit = GaussianCloud.random(5, 18.0, 6.0, torch.Generator().manual_seed(3))
    group = symmetry_group(symmetry)
    centres = unit.centres + torch.tensor(seat, dtype=torch.float64)
    cloud = GaussianCloud(
        torch.cat([centres @ g.T for g in group]), unit.widths.repeat(len(group)), unit.masses.repeat(len(group))
    )
    return cloud.density(BOX, PIXEL_SIZE).float()


@pytest.fixture(scope="module")
def threefold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    truth = DensityMap(assembly("C3", (32.0, 5.0, 4.0)), PIXEL_SIZE)
    simulate_dataset((truth,), SimulationSettings(count=300, snr=1.0, seed=2, shift_px=1.0), folder)
    write_map(folder / "map.mrc", truth)
    return folder


def started(folder: Path, start: str, symmetry: str) -> tuple[float | None, list[str]]:
    settings = ReconstructSettings(
        input=InputSettings(str(folder / "truth.star")),
        job="refine",
        start=start,
        symmetry=symmetry,
        particle_diameter_angstrom=120.0,
    )
    particles = open_input(settings.input)
    feed = make_feed(particles, prepare(particles, settings), settings)
    said: list[str] = []
    return given_start(settings, feed, said.append).symmetry_score, [s for s in said if "copies" in s]


@pytest.mark.parametrize("given", ["poses", "map"])
@pytest.mark.parametrize(("symmetry", "has_it"), [("C1", None), ("C3", True), ("C2", False), ("D3", False)])
def test_a_stated_symmetry_is_looked_for_in_the_given_start(
    threefold: Path, given: str, symmetry: str, has_it: bool | None
) -> None:
    start = "poses" if given == "poses" else str(threefold / "map.mrc")
    score, said = started(threefold, start, symmetry)
    if has_it is None:
        assert (score, said) == (None, [])
        return
    assert score is not None
    assert (score >= SYMMETRIC) == has_it
    assert len(said) == (0 if has_it else 1)


def test_the_other_icosahedral_setting_is_named() -> None:
    capsid = assembly("I2", (52.0, 14.0, 20.0))
    said: list[str] = []
    assert stated_symmetry(capsid, "I2", 12, "The given map", said.append) == pytest.approx(1, abs=0.05)
    assert said == []
    for name in ("I", "I1"):
        score = stated_symmetry(capsid, name, 12, "The given map", said.append)
        assert score is not None
        assert score < SYMMETRIC
        assert said.pop().endswith("under I2: state --symmetry I2.")
