"""Result of every conformation method: a family of volumes, and the latents of the images."""

from __future__ import annotations

from dataclasses import dataclass

from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.volumes.interface import ConformationVolume


@dataclass(frozen=True)
class LatentVolume:
    """A family of volumes V(z) and the latents of the images.

    Attributes:
        latents: posterior over z of all N images, on the CPU; volume: the family.
    """

    latents: LatentPosterior
    volume: ConformationVolume
