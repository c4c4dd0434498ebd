"""A pose method in a file of its own: refinement starts from a round blob instead of from random starts."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cryoloom.inference.poses.start import PoseStart
from cryoloom.maps.band import Band
from cryoloom.recipes.methods.method import PoseJob, PoseMethod
from cryoloom.recipes.methods.option import option


@dataclass(frozen=True, slots=True)
class BlobSettings:
    """Shape of the blob."""

    width: float = field(
        default=0.25, metadata=option("--blob-width", help="Width of the blob, particle diameters.", minimum=0.01)
    )
    """Standard deviation of the blob, in particle diameters."""

    level: float = 5.0
    """Radius of the first map, in Fourier pixels of a box as large as the particle."""


def start(job: PoseJob) -> PoseStart:
    """A Gaussian blob as large as the settings say, in the images' field of view."""
    settings: BlobSettings = job.settings["blob"]
    feed = job.feed
    box = Band(feed.radius_of(settings.level)).box
    axis = (torch.arange(box) - box // 2) * feed.field_of_view / box
    squares = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    sigma = settings.width * feed.diameter_px * feed.pixel_size
    blob = torch.exp(-0.5 * squares / sigma**2)
    job.preview(blob)
    return PoseStart((blob, blob), feed.noise, sigma_angstrom=2 * feed.pixel_size)


BLOB = PoseMethod("blob", "start refinement from a round blob", start, {"blob": BlobSettings})
