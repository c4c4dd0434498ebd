"""Poses of new images from a finished run: its encoder proposes candidates, its map decides; nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.encoder_file import read_encoder
from cryoloom.inference.poses.frames import HALF_TURN
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import refine_poses
from cryoloom.inference.poses.search import FIRST_SIGMA
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.align import mirrored
from cryoloom.maps.band import Band
from cryoloom.maps.fsc import fourier_shell_correlation, resolved_shell
from cryoloom.maps.io import read_map
from cryoloom.particles.errors import BadInput
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import ParticleSet, write_particles
from cryoloom.particles.table import ImageResults
from cryoloom.physics.fourier import rebox
from cryoloom.runs import layout
from cryoloom.runs.progress import Progress, StepInfo

BATCH = 500  # images at once; memory does not depend on their total number
LOW_STEPS = 4  # refinement steps of all candidates, at the encoder's radius
KEPT = 3  # number of candidates that are refined further
MARCH = 1.5  # growth of the radius between refinements: a fine map misleads poses that are far off
PIXEL_TOLERANCE = 0.005  # relative


@dataclass(frozen=True, slots=True)
class InferredPoses:
    """Poses of N images and the time taken.

    Attributes:
        R, t: pose of the likeliest candidate, [N, 3, 3] and [N, 2] angstrom; weight: its share of the posterior;
        score: log p(image | pose, map) - log p(image | no particle).
        encode_s, polish_s: wall seconds in the encoder, and in weighting and refinement; latency_s: of the first batch.
    """

    R: Tensor
    t: Tensor
    weight: Tensor
    score: Tensor
    encode_s: float
    polish_s: float
    latency_s: float


class TrainedRun:
    """Encoder, map and particle diameter of a finished run, by which poses of new images are found."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Raises:
        BadRunFolder: if the folder holds no run.
        BadInput: if the run has no encoder or no maps.
        BadEncoderFile: if the encoder can't be read.
        """
        run = FinishedRun(folder)
        advice = (
            "make a run with cryoloom reconstruct --poses hybrid (or amortized); cryoloom refine --from map.mrc finds "
            "the poses of new images from a map alone"
        )
        self.encode = read_encoder(run.require(layout.ENCODER, advice))
        self.encode.encoder.to(device)
        given, mask = read_map(run.require(layout.MAP)), read_map(run.require(layout.MASK))
        halves = [read_map(run.require(file)) for file in (layout.HALF1, layout.HALF2)]
        self._run = run
        settings = run.settings
        # a run made with --flip wrote mirror images of the maps that its encoder belongs to
        self.flip = isinstance(settings, ReconstructSettings) and settings.flip
        # noise around the molecule costs accuracy of the poses
        masked = given.data.float() * mask.data.float()
        self.map, self.pixel_size = mirrored(masked) if self.flip else masked, given.pixel_size
        self.box = self.map.shape[-1]
        self.radius = _resolved(*(h.data.float() for h in halves))

    def check(self, particles: ParticleSet) -> int:
        """The working box in which new images have the run's pixel size and field of view.

        Raises:
            BadInput: if there is none.
        """
        side, wanted = particles.box * particles.pixel_size, self.box * self.pixel_size
        if abs(side / wanted - 1) > PIXEL_TOLERANCE or particles.box < self.box:
            raise BadInput(
                f"{particles.path}: images of {particles.box} px at {particles.pixel_size:.4f} angstrom\n"
                f"  expected: the field of view that the run was made with, {wanted:.1f} angstrom "
                f"({self.box} px at {self.pixel_size:.4f} angstrom or finer)\n"
                "  what to do: extract the new particles in a box of that size"
            )
        return self.box

    def feed(self, new: ParticleSet, given: InputSettings, device: torch.device, threads: int) -> ImageFeed:
        """New images, prepared as those of the run were.

        Raises:
            BadInput: if they have another field of view.
        """
        settings = self._run.settings
        assert isinstance(settings, ReconstructSettings)  # no other run writes an encoder
        settings = replace(
            settings,
            input=given,
            box=self.check(new),
            device="cuda" if device.type == "cuda" else "cpu",
            threads=threads,
            cache_bytes=0,
            particle_diameter_angstrom=self.encode.particle_diameter_angstrom,
        )
        return make_feed(new, prepare(new, settings), settings)


def _resolved(first: Tensor, second: Tensor) -> int:
    """Shell to which the half maps of the run agree: images are compared with its map up to there."""
    fsc = fourier_shell_correlation(first, second)
    limit = (first.shape[-1] - 1) // 2
    return min(limit, max(4, int(resolved_shell(fsc[: limit + 1]))))


def infer_particles(
    run: Path,
    given: InputSettings,
    output: Path,
    *,
    polish: int,
    device: torch.device,
    threads: int,
    progress: Progress,
) -> InferredPoses:
    """Find the poses of new particles and write them as a particle file.

    Raises:
        BadRunFolder, BadInput, BadEncoderFile: see `TrainedRun`; for particles that can't be used, or have another
            field of view.
    """
    trained = TrainedRun(run, device)
    new = open_input(given)
    feed = trained.feed(new, given, device, threads)
    total, seen = len(feed), 0

    def say(done: int, rate: float) -> None:
        nonlocal seen
        metrics = (("images_per_second", rate),)
        cost, ahead = float(done - seen), float(total - done)
        progress.update(StepInfo("infer", done, metrics=metrics, total=total, cost=cost, cost_ahead=ahead))
        seen = done

    progress.begin("infer", 0)
    found = infer(trained, feed, polish, say)
    progress.end("infer")
    write_particles(output, new, image_results(found, trained.flip))
    return found


@torch.no_grad()
def infer(
    run: TrainedRun, feed: ImageFeed, polish: int, say: Callable[[int, float], None] = lambda done, rate: None
) -> InferredPoses:
    """Poses of all images of a feed, batch by batch; time per image and memory do not depend on their number.

    Args:
        polish: optimisation steps at each radius, up to the map's resolution; 0 weighs the candidates as they are.
        say: called after each batch with the number of images done and images per second.
    """
    noise = feed.noise
    low = int(run.encode.encoder.radius)
    radii = march(low, run.radius) if polish else [low]
    grids = [volume_to_half(rebox(run.map.to(feed.device), Band(r).box)) for r in radii]
    sigma = FIRST_SIGMA * feed.field_of_view
    N = len(feed)
    R, t, weight, score = torch.empty(N, 3, 3), torch.empty(N, 2), torch.empty(N), torch.empty(N)
    encode_s = polish_s = latency = 0.0
    began = time.perf_counter()
    for start in range(0, N, BATCH):
        rows = np.arange(start, min(start + BATCH, N))
        images = feed.images(rows, max(low, run.radius), noise)
        at = time.perf_counter()
        found = run.encode(images)
        encode_s += time.perf_counter() - at
        at = time.perf_counter()
        equal = PosePosterior(found.R, found.t, torch.where(found.log_weight.isfinite(), 0.0, -torch.inf))
        refined = refine_poses(grids[0], images.prefix(low), equal, sigma, LOW_STEPS if polish else 0)
        for grid, radius in zip(grids[1:], radii[1:], strict=True):
            refined = refine_poses(grid, images.prefix(radius), refined.posterior.top(KEPT), sigma, polish)
        polish_s += time.perf_counter() - at
        best_R, best_t = refined.posterior.best()
        R[start : start + len(rows)], t[start : start + len(rows)] = best_R.cpu(), best_t.cpu()
        weight[start : start + len(rows)] = refined.posterior.log_weight.amax(1).exp().cpu()
        score[start : start + len(rows)] = refined.score.cpu()
        latency = latency or time.perf_counter() - began
        say(start + len(rows), (start + len(rows)) / (time.perf_counter() - began))
    return InferredPoses(R=R, t=t, weight=weight, score=score, encode_s=encode_s, polish_s=polish_s, latency_s=latency)


def march(low: int, high: int) -> list[int]:
    """Radii of successive refinements, from the encoder's to the map's."""
    radii = [low]
    while radii[-1] < high:
        radii.append(min(high, round(MARCH * radii[-1])))
    return radii


def image_results(found: InferredPoses, flip: bool = False) -> ImageResults:
    """What is written for each image: pose (of the other hand with `flip`), likelihood and share of the posterior."""
    R = found.R.double()
    return ImageResults(
        R=(R @ HALF_TURN.double() if flip else R).numpy(),
        t=found.t.double().numpy(),
        log_likelihood=found.score.double().numpy(),
        probability=found.weight.double().numpy(),
    )
