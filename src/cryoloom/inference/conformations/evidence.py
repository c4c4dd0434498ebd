"""What a conformation method found, in numbers: is there more than one conformation, and how sure is that?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConformationEvidence:
    """The evidence for heterogeneity among images of known poses.

    Attributes:
        method: name of the conformation method.
        components: latent directions along which images are distinguished; 0 if one conformation explains the data.
        latent_dimensions: number of latent coordinates that the method was given.
        gain_nats: by how much the components improve the log-likelihood of held-out images, nats per image; None if it
            was not measured.
        resolution_angstrom: resolution to which the best component is reproducible between half sets; None if it was
            not measured, or no component is.
        reliability: share of the variance of the latent coordinates that their posterior means show, in the direction
            along which images are distinguished best (1 is exact, 0 is no information); None if it was not measured.
        rejected_share: share of the images that do not show the particle.
        class_shares: share of the images in each class; empty for methods without classes.
    """

    method: str
    components: int
    latent_dimensions: int
    gain_nats: float | None = None
    resolution_angstrom: float | None = None
    reliability: float | None = None
    rejected_share: float = 0.0
    class_shares: tuple[float, ...] = ()
