"""Conformations by a decoder and latents learnt separately for every image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cryoloom.recipes.methods import pca
from cryoloom.recipes.methods.method import ConformationJob, ConformationMethod, Conformations
from cryoloom.recipes.methods.vae import NetworkSettings, trained

if TYPE_CHECKING:
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.recipes.methods.settings import MethodSettings


def find(job: ConformationJob) -> Conformations:
    """Train a decoder and latents on the posed images, if a component improves the likelihood of held-out images.

    Latents learnt image by image seem to distinguish images even if all are alike (reliability 0.48 on a ribosome).
    """
    _, state = pca.fitted(job, job.settings["pca"])
    if not state.components:
        return pca.nothing(AUTODECODER.name)
    return trained(job, "autodecoder")


def costs(feed: ImageFeed, settings: MethodSettings) -> Mapping[str, float]:
    """Expected cost of PCA and of training."""
    from cryoloom.recipes.vae import training_cost

    return {**pca.costs(feed, settings), "autodecoder": training_cost(feed, settings["vae"])}


AUTODECODER = ConformationMethod(
    "autodecoder",
    "a decoder in Fourier space, with a stored latent for every image",
    find,
    {"vae": NetworkSettings, "pca": pca.PCASettings},
    costs,
)
