"""A finished run of conformations, opened again: its latents, its images, and maps at any place of the latent space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.local_maps import StateMap, state_map
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.jobs.hetero import consensus_settings
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.settings import HeteroSettings
from cryoloom.maps.io import DensityMap, read_map
from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.runs.folder import read_record, read_settings
from cryoloom.volumes.conformation_file import read_conformations
from cryoloom.volumes.interface import ConformationVolume


@dataclass(frozen=True)
class ConformationRun:
    """What a run of `cryoloom hetero` offers afterwards.

    Attributes:
        particles: with the run's poses; posed: their images at these poses (K = 1).
        latents: of all images; mask: [D, D, D]; volume: the family that was fitted.
    """

    particles: ParticleSet
    posed: PosedImages
    latents: LatentPosterior
    mask: Tensor
    volume: ConformationVolume

    def map_at(self, z: Float[Tensor, " Z"]) -> StateMap:
        """The map at a latent point, by the images near it.

        Raises:
            ValueError: for a point of another number of coordinates.
        """
        if z.shape != self.latents.mean.shape[1:]:
            raise ValueError(f"{len(z)} coordinates; expected {self.latents.mean.shape[1]}, those of the run's latents")
        return state_map(self.posed, self.mask, self.latents, z)

    def decoded(self, z: Float[Tensor, " Z"]) -> DensityMap:
        """The map that the fitted family itself has at a latent point."""
        feed = self.posed.feed
        return DensityMap(self.volume.density_map(z.float(), (feed.box - 1) // 2).contiguous(), feed.pixel_size)


def open_conformations(folder: Path, device: torch.device, threads: int) -> ConformationRun:
    """Open a finished run.

    Raises:
        BadInput: where it has no latents: it found no heterogeneity, is not finished, or is of another kind.
    """
    record = read_record(folder)
    if record.command != "hetero" or record.status != "finished":
        raise BadInput(
            f"{folder}: a run of cryoloom {record.command}, {record.status}\n"
            "  expected: a finished run of cryoloom hetero"
        )
    if not (folder / "z.npy").is_file():
        raise BadInput(f"{folder}: this run found no heterogeneity: there are no latents (see its report.html)")
    settings = read_settings(folder, HeteroSettings)
    given = replace(settings.input, particles=str(folder / "particles.star"))
    base = replace(consensus_settings(settings), input=given, device=device.type, threads=threads)
    particles = open_input(given)
    feed = make_feed(particles, prepare(particles, base), base)
    poses, half = particles.input_poses(), particles.half_sets()
    assert half is not None  # a run writes them
    mean, covariance, contrast = (
        torch.from_numpy(np.load(folder / f"{name}.npy", allow_pickle=False))
        for name in ("z", "z_covariance", "contrast")
    )
    if len(mean) != len(particles):
        raise BadInput(f"{folder}: latents of {len(mean)} images, particles.star has {len(particles)}: was it edited?")
    return ConformationRun(
        particles=particles,
        posed=PosedImages(
            feed,
            PosePosterior.certain(poses.R.float(), poses.t.float()),
            half - 1,
            noise=feed.source.preprocessing.noise.float(),
            sigma_angstrom=max(float(poses.t.square().mean().sqrt()), feed.pixel_size),
        ),
        latents=LatentPosterior(mean, covariance, contrast),
        mask=read_map(folder / "mask.mrc").data.float(),
        volume=read_conformations(folder / "conformations.safetensors"),
    )
