"""Conformations as a mean and a few components: probabilistic PCA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryoloom.recipes.methods.method import ConformationJob, ConformationMethod, Conformations
from cryoloom.recipes.methods.option import option

if TYPE_CHECKING:
    from cryoloom.inference.conformations.evidence import ConformationEvidence
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.recipes.methods.settings import MethodSettings
    from cryoloom.recipes.pca import PCARecipe, PCAState


@dataclass(frozen=True, slots=True)
class PCASettings:
    """Probabilistic PCA by EM, separately in both half sets."""

    components: int | None = field(
        default=None,
        metadata=option(
            "--components", help="Number of components.", minimum=1, maximum=30, default="chosen by held-out images"
        ),
    )
    """Number of components that are kept; chosen by the likelihood of held-out images when None."""

    most_components: int = 8
    """Maximum number of components that are sought."""

    iterations: int = 12
    """Iterations of EM over all images, in each half set."""

    first_level: float = 6.0
    """Radius of the first iterations, in Fourier pixels of a box as large as the particle."""

    last_level: float = 16.0
    """Radius of the last iterations. Measured on three states of a ribosome (9,000 images, SNR 0.1): classes agree with
    the truth to 0.85, 0.88, 0.87 (adjusted Rand index) with 12, 16, 24, at 1, 2 and 6 times the cost."""

    contrast_sigma: float = 0.15
    """Initial standard deviation of the images' contrast around 1, which is then learnt; 0: equal contrast."""


@dataclass(frozen=True, slots=True)
class PCAWithPosesSettings:
    """Alternating refinement of poses and components, if poses are not given.

    Measured on adenylate kinase's path (10,000 images, SNR 0.1): three quarters of the poses found on one map are right
    to 10 degrees and the latents' rank correlation with the state is 0.90; afterwards 98 % and 0.957.
    """

    components: int = 4
    """Number of components of the family along with which poses are found."""

    iterations: int = 12
    """Iterations of EM over all images, in each half set."""

    held: int = 8
    """Number of iterations at low resolution, where large motions are seen and searches are cheap."""

    march: int = 3
    """Number of iterations over which the radius then grows to `PCASettings.last_level`."""

    first_climb: int = 2
    """Iteration from which poses are refined along with the latents."""

    climb_steps: int = 2
    """Refinement steps of every pose in an iteration."""

    searches: tuple[int, ...] = (2, 5, 9)
    """Iterations in which images are also searched globally."""

    search_all: int = 2
    """Number of first searches in which all images take part; later ones take those whose pose is in doubt."""

    points: int = 3
    """Number of points of the latent space whose maps images are searched against; 5 find no more."""

    coarse_level: float = 6.0
    """Radius of a search's coarse match, in Fourier pixels of a box as large as the particle."""

    level: float = 7.5
    """Radius of a search's fine match and of the iterations at low resolution, in the same unit."""


def fitted(job: ConformationJob, settings: PCASettings) -> tuple[PCARecipe, PCAState]:
    """The linear family fitted to the images and evaluated on held-out ones."""
    from cryoloom.recipes.pca import PCARecipe

    recipe = PCARecipe(job.posed, settings, job.seed, job.mask)
    return recipe, job.session.state(recipe)


def nothing(method: str) -> Conformations:
    """Result if no component improves the likelihood of held-out images."""
    from cryoloom.inference.conformations.evidence import ConformationEvidence

    return Conformations(None, ConformationEvidence(method, 0, 0, gain_nats=0.0))


def evidence_of(method: str, recipe: PCARecipe, state: PCAState) -> ConformationEvidence:
    """How much the components improve the likelihood of held-out images, and how far they are reproducible."""
    from cryoloom.inference.conformations.evidence import ConformationEvidence
    from cryoloom.recipes.pca import component_resolutions

    feed, kept = recipe.feed, state.components
    assert kept is not None
    assert state.gains is not None
    sharp = [r for r in component_resolutions(state, feed.field_of_view)[1:] if r is not None]
    return ConformationEvidence(
        method,
        kept,
        kept,
        gain_nats=float(state.gains[kept]),
        resolution_angstrom=min(sharp) if sharp else None,
    )


def find(job: ConformationJob) -> Conformations:
    """Components that improve the likelihood of held-out images, and the latent coordinates of all images."""
    recipe, state = fitted(job, job.settings["pca"])
    if not state.components:
        return nothing(PCA.name)
    with job.session.timing("latents"):
        found = recipe.result(state)
    return Conformations(found, evidence_of(PCA.name, recipe, state))


def costs(feed: ImageFeed, settings: MethodSettings) -> Mapping[str, float]:
    """Expected cost of PCA."""
    from cryoloom.recipes.pca import family_costs

    return {"pca": sum(family_costs(feed, settings["pca"]))}


PCA = ConformationMethod("pca", "components around a mean map", find, {"pca": PCASettings}, costs)
