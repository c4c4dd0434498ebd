"""Conformations as K classes: points of the linear family's latent space, each with a map of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cryoloom.recipes.methods import pca
from cryoloom.recipes.methods.method import ConformationJob, ConformationMethod, Conformations
from cryoloom.recipes.methods.option import option

SHARPENED = 3  # rounds in which the volumes are fitted to the classes and the classes to the volumes


@dataclass(frozen=True, slots=True)
class ClassesSettings:
    """Discrete classes."""

    classes: int = field(
        default=3, metadata=option("--classes", "-k", help="Number of classes, K.", minimum=2, maximum=50)
    )
    """Number of classes, K."""


def find(job: ConformationJob) -> Conformations:
    """K points of the latent space with their shares; the volumes are fitted to them."""
    from cryoloom.inference.conformations.classes import fit_classes
    from cryoloom.inference.conformations.latent_volume import LatentVolume
    from cryoloom.runs.seeds import torch_generator

    count: int = job.settings["classes"].classes
    linear: pca.PCASettings = job.settings["pca"]
    if linear.components is None:
        # K volumes span K - 1 directions; held-out images decide whether there are more
        linear = replace(linear, most_components=max(linear.most_components, count - 1))
    recipe, state = pca.fitted(job, linear)
    if not state.components:
        return pca.nothing(CLASSES.name)
    with job.session.timing("latents"):
        classes = None
        latents = recipe.latents(state)
        for _ in range(SHARPENED + 1):
            if classes is not None:
                state = recipe.sharpened(state, classes.centres, classes.shares)
                latents = recipe.latents(state)
            classes = fit_classes(latents, count, torch_generator(job.seed, "classes"))
        found = LatentVolume(latents, recipe.volume(state))
    assert classes is not None
    evidence = replace(pca.evidence_of(CLASSES.name, recipe, state), class_shares=tuple(classes.shares.tolist()))
    return Conformations(found, evidence, classes)


CLASSES = ConformationMethod(
    "classes",
    "K classes, each with its map",
    find,
    {"pca": pca.PCASettings, "classes": ClassesSettings},
    pca.costs,
)
