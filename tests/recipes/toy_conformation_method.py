"""A conformation method in a file of its own: images are told apart by how well they fit one half of the particle."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from cryoloom.inference.conformations.evidence import ConformationEvidence
from cryoloom.inference.conformations.latent_volume import LatentVolume
from cryoloom.inference.conformations.linear import contrast_prior, infer_latents, products
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.kernels.half_grid import volumes_to_halves
from cryoloom.maps.band import Band
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.methods.method import ConformationJob, ConformationMethod, Conformations
from cryoloom.recipes.methods.option import option
from cryoloom.volumes.linear_family import LinearFamily


@dataclass(frozen=True, slots=True)
class HalvesSettings:
    """Where the particle is cut."""

    axis: int = field(
        default=2, metadata=option("--cut-axis", help="Axis across which the particle is cut.", minimum=0, maximum=2)
    )
    """Axis (0: z, 1: y, 2: x) across which the particle is cut."""


def find(job: ConformationJob) -> Conformations:
    """One latent coordinate: how much of the particle's upper half an image shows beyond the mean."""
    settings: HalvesSettings = job.settings["halves"]
    feed, box = job.posed.feed, len(job.mean)
    half = torch.zeros(box, box, box).index_fill_(settings.axis, torch.arange(box // 2, box), 1.0)
    volumes = torch.stack([job.mean, job.mean * half])
    band = Band((feed.box - 1) // 2 - 1)
    grids = volumes_to_halves(torch.stack([rebox(v, band.box).contiguous() for v in volumes]))
    rows = np.arange(len(feed))
    images, (R, t) = job.posed.images(rows, band.radius), job.posed.best(rows)
    latents: LatentPosterior = infer_latents(products(grids, images, R, t), *contrast_prior(0.1)).latents
    return Conformations(
        LatentVolume(latents, LinearFamily(feed.pixel_size, volumes)),
        ConformationEvidence("halves", 1, 1, reliability=float(latents.told_apart()[0][0])),
    )


HALVES = ConformationMethod("halves", "how much of one half an image shows", find, {"halves": HalvesSettings})
