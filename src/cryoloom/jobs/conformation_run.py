"""A finished run of cryoloom hetero with its images and latents, from which maps at any latent point can be made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.local_maps import StateMap, state_map
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.hetero import consensus_settings
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.settings import HeteroSettings
from cryoloom.maps.io import DensityMap, read_map
from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.runs import layout
from cryoloom.volumes.conformation_file import read_conformations
from cryoloom.volumes.interface import ConformationVolume


@dataclass(frozen=True)
class ConformationRun:
    """A finished run of `cryoloom hetero`.

    Attributes:
        folder: folder of the run.
        particles: with the run's poses; posed: their images at these poses (K = 1).
        latents: latents of all images; mask: [D, D, D]; volume: the fitted family of volumes.
    """

    folder: Path
    particles: ParticleSet
    posed: PosedImages
    latents: LatentPosterior
    mask: Tensor
    volume: ConformationVolume

    def map_at(self, z: Float[Tensor, " Z"]) -> StateMap:
        """Map at a latent point, reconstructed from the images near it.

        Raises:
            ValueError: for a point with the wrong number of coordinates.
        """
        self._check(z)
        return state_map(self.posed, self.mask, self.latents, z)

    def decoded(self, z: Float[Tensor, " Z"]) -> DensityMap:
        """Map of the fitted family of volumes at a latent point.

        Raises:
            ValueError: for a point of another number of coordinates.
        """
        self._check(z)
        feed = self.posed.feed
        return DensityMap(self.volume.density_map(z.float(), (feed.box - 1) // 2).contiguous(), feed.pixel_size)

    def _check(self, z: Float[Tensor, " Z"]) -> None:
        if z.shape != self.latents.mean.shape[1:]:
            raise ValueError(f"{len(z)} coordinates; expected {self.latents.mean.shape[1]}, those of the run's latents")


def open_conformations(folder: Path, device: torch.device, threads: int) -> ConformationRun:
    """Open a finished run.

    Raises:
        BadInput: where it has no latents: it found no heterogeneity, is not finished, or is of another kind.
    """
    run = FinishedRun(folder)
    settings = run.settings
    if not isinstance(settings, HeteroSettings) or run.record.status != "finished":
        raise BadInput(
            f"{folder}: a run of cryoloom {run.record.command}, {run.record.status}\n"
            "  expected: a finished run of cryoloom hetero"
        )
    latents = run.latents
    if latents is None:
        raise BadInput(f"{folder}: this run found no heterogeneity: there are no latents (see its report.html)")
    given = replace(settings.input, particles=str(run.require(layout.PARTICLES)))
    base = replace(consensus_settings(settings), input=given, device=device.type, threads=threads)
    particles = open_input(given)
    feed = make_feed(particles, prepare(particles, base), base)
    poses, half = particles.input_poses(), particles.half_sets()
    assert half is not None  # a run writes them
    if len(latents) != len(particles):
        count = len(latents)
        raise BadInput(f"{folder}: latents of {count} images, particles.star has {len(particles)}: was it edited?")
    return ConformationRun(
        folder=run.folder,
        particles=particles,
        posed=PosedImages(
            feed,
            PosePosterior.certain(poses.R.float(), poses.t.float()),
            half - 1,
            noise=feed.noise,
            sigma_angstrom=max(float(poses.t.square().mean().sqrt()), feed.pixel_size),
        ),
        latents=latents,
        mask=read_map(run.require(layout.MASK)).data.float(),
        volume=read_conformations(run.require(layout.CONFORMATIONS)),
    )
