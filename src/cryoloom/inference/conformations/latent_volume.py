"""What every conformation method finds: latents of the images, and the volumes that they are latents of."""

from __future__ import annotations

from dataclasses import dataclass

from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.volumes.interface import ConformationVolume


@dataclass(frozen=True)
class LatentVolume:
    """A family of volumes V(z) and where images lie in it.

    Attributes:
        latents: posterior over z of all N images, on the CPU; volume: the family.
    """

    latents: LatentPosterior
    volume: ConformationVolume
