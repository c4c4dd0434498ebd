"""Small sets of known truth as recipes are given them: a cloud of a few Gaussians in one, two or three shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import starfile
import torch
from torch import Tensor

from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.maps.io import DensityMap, read_map
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.runs.loop import Recipe
from cryoloom.runs.pack import pack
from cryoloom.runs.progress import StepInfo
from cryoloom.simulation.dataset import simulate_dataset
from cryoloom.simulation.truth import SimulationSettings

BOX, PIXEL_SIZE = 24, 5.0
S = TypeVar("S")


def two_states() -> tuple[DensityMap, DensityMap]:
    """A cloud, and the same with a third of its mass moved by 20 angstrom."""
    cloud = GaussianCloud.random(24, 24.0, 6.0, torch.Generator().manual_seed(4))
    moved = cloud.centres.clone()
    moved[:8] += torch.tensor([20.0, 0.0, 0.0], dtype=moved.dtype)
    maps = (c.density(BOX, PIXEL_SIZE).float() for c in (cloud, replace(cloud, centres=moved)))
    one, two = (DensityMap(data, PIXEL_SIZE) for data in maps)
    return one, two


def three_states() -> tuple[DensityMap, ...]:
    """Two parts of a cloud that move independently of each other: a plane of conformations."""
    cloud = GaussianCloud.random(24, 24.0, 6.0, torch.Generator().manual_seed(4))
    out = []
    for rows in ((), range(8), range(8, 14)):
        centres = cloud.centres.clone()
        for row in rows:
            centres[row] += torch.tensor([20.0, 0.0, 0.0], dtype=centres.dtype)
        out.append(DensityMap(replace(cloud, centres=centres).density(BOX, PIXEL_SIZE).float(), PIXEL_SIZE))
    return tuple(out)


class Scene:
    """A simulated set, opened, with its true poses, states and maps."""

    def __init__(self, folder: Path, states: tuple[DensityMap, ...], count: int, snr: float = 1.0) -> None:
        simulation = SimulationSettings(count=count, snr=snr, seed=2, shift_px=1.0)
        simulate_dataset(states, simulation, folder)
        settings = ReconstructSettings(input=InputSettings(str(folder / "truth.star")), particle_diameter_angstrom=85.0)
        particles = open_input(settings.input)
        self.feed = make_feed(particles, prepare(particles, settings), settings)
        given = particles.input_poses()
        self.poses = PosePosterior.certain(given.R.float(), given.t.float())
        self.state = starfile.read(folder / "truth.star")["particles"]["rlnClassNumber"].to_numpy()
        self.noise = self.feed.source.preprocessing.noise.float()
        self.maps = [read_map(path).data.float() for path in sorted(folder.glob("truth_*.mrc"))]
        self.mean = torch.stack(self.maps).mean(0)

    def posed(self, poses: PosePosterior | None = None, half: np.ndarray | None = None) -> PosedImages:
        """The images at their true poses, or at these; in half sets that take turns, or in these."""
        half = np.arange(len(self.feed)) % 2 if half is None else half
        return PosedImages(self.feed, poses or self.poses, half, noise=self.noise, sigma_angstrom=PIXEL_SIZE)


def carried_out(recipe: Recipe[S, Any]) -> tuple[list[S], list[StepInfo]]:
    """All states of a recipe, the first one included, and what was said of each step."""
    states, said = [recipe.init()], []
    while not recipe.finished(states[-1]):
        state, info = recipe.step(states[-1])
        states.append(state)
        said.append(info)
    return states, said


def copied(state: object) -> dict[str, Any]:
    """The arrays of a state as a checkpoint would hold them."""
    return {k: v.clone() if isinstance(v, Tensor) else np.asarray(v).copy() for k, v in pack(state).items()}


def correlation(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two maps."""
    return float((a * b).sum() / (a.norm() * b.norm()))
