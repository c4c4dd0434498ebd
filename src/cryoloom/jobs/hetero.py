"""The job of cryoloom hetero, from particles to a filled run folder: consensus, conformations, maps, verdict."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from cryoloom.files.durable import write_durably
from cryoloom.inference.conformations.classes import Classes
from cryoloom.inference.conformations.evidence import ConformationEvidence
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.refine import Refined
from cryoloom.jobs.class_maps import write_class_maps
from cryoloom.jobs.inputs import make_feed
from cryoloom.jobs.reconstruct import (
    Reconstruction,
    conclude,
    confirmed,
    folder_of,
    image_results,
    reconstruct,
    stage_plan,
    weighed_only,
)
from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
from cryoloom.jobs.verdict import Verdict, with_conformations
from cryoloom.maps.coupled_backprojection import mask_in_box
from cryoloom.maps.io import read_map
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import ParticleSet, write_particles
from cryoloom.particles.preprocess import Preprocessing
from cryoloom.recipes.methods.method import ConformationJob, Conformations
from cryoloom.recipes.methods.registry import conformation_method
from cryoloom.recipes.pca_with_poses import PCAWithPosesRecipe, turns_costs
from cryoloom.recipes.refine import RefineResult
from cryoloom.runs import layout
from cryoloom.runs.progress import StagePlan
from cryoloom.runs.session import Session
from cryoloom.volumes.conformation_file import to_bytes

JUNK_CONTRAST = 0.5  # images of less contrast do not show the particle
LEAST_FIT = 0.45  # of the score of a correct pose; ribosome with junk: junk 0.03 (95 %: 0.23), molecules 0.97


def run_hetero(
    settings: HeteroSettings, particles: ParticleSet, preprocessing: Preprocessing, session: Session
) -> Verdict:
    """Run the job in the session's folder, resuming from what is done."""
    base = consensus_settings(settings)
    feed = make_feed(particles, preprocessing, base)
    for said in (*particles.notes, *preprocessing.said):
        session.say(said)
    session.plan(hetero_plan(settings, base, feed))
    mask = None if settings.mask is None else given_mask(Path(settings.mask), feed)
    consensus, found = find_conformations(settings, base, reconstruct(base, feed, session), session, mask)
    return with_conformations(confirmed(consensus, base, session), counted(found))


def find_conformations(
    settings: HeteroSettings,
    base: ReconstructSettings,
    consensus: Reconstruction,
    session: Session,
    mask: Tensor | None = None,
) -> tuple[Reconstruction, Conformations]:
    """What follows after the consensus: poses and conformations in turns unless poses were given, then the method.

    All files are written into the session's folder. Returns the consensus, at the poses that are kept, too.
    """
    first, searched = consensus, settings.poses != "given"
    if searched:
        refined = in_turns(settings, consensus.refined, session, mask)
        if refined is not consensus.refined:
            consensus = conclude(base, consensus.start, refined, session)
    job = ConformationJob(
        shown(consensus.refined),
        consensus.maps.combined,
        session,
        settings=settings.methods,
        seed=settings.seed,
        mask=mask,
        searched=searched,
    )
    found = conformation_method(settings.method).find(job)
    if found.found is None and consensus is not first:
        # poses found along with conformations that held-out images do not confirm are not kept
        consensus = conclude(base, first.start, first.refined, session)
    with session.timing("conformations"):
        _write(found, consensus, folder_of(session), settings.seed)
    return consensus, found


def in_turns(
    settings: HeteroSettings, refined: RefineResult, session: Session, mask: Tensor | None = None
) -> RefineResult:
    """The consensus at poses found along with components, in turns; the same where no component is seen."""
    recipe = PCAWithPosesRecipe(shown(refined), settings.methods["pca"], settings.seed, settings.pca_with_poses, mask)
    posed = session.run(recipe)
    return refined if posed is None else reposed(refined, posed)


def consensus_settings(settings: HeteroSettings) -> ReconstructSettings:
    """Settings of the consensus reconstruction, which weights and inserts given poses or finds poses."""
    base = ReconstructSettings(**settings.common)
    if settings.poses != "given":
        return replace(base, poses=settings.poses)
    return replace(base, job="refine", start="poses", refine=weighed_only(settings.refine))


def hetero_plan(settings: HeteroSettings, base: ReconstructSettings, feed: ImageFeed) -> list[StagePlan]:
    """The stages ahead and their expected costs, for the estimate of the time left."""
    stages = stage_plan(base, feed)
    if settings.poses != "given":
        costs = turns_costs(feed, settings.methods["pca"], settings.pca_with_poses)
        stages.append(StagePlan(PCAWithPosesRecipe.name, sum(costs)))
    costs = conformation_method(settings.method).costs(feed, settings.methods)
    return stages + [StagePlan(name, cost) for name, cost in costs.items()]


def given_mask(path: Path, feed: ImageFeed) -> Tensor:
    """A mask from a file, in the working box.

    Raises:
        ValueError: if its field of view is not that of the images.
    """
    given = read_map(path)
    side = feed.field_of_view
    if abs(given.pixel_size * given.data.shape[-1] / side - 1) > 0.01:
        raise ValueError(
            f"{path}: a mask of {given.pixel_size * given.data.shape[-1]:.1f} angstrom\n  expected: the field of view "
            f"of the images, {side:.1f} angstrom"
        )
    return mask_in_box(given.data.float(), feed.box)


def explained(score: Tensor, power: Tensor) -> Tensor:
    """Whether images have enough of the score of a correct pose, half the power of the prediction; bool [N]."""
    return score > LEAST_FIT * 0.5 * power


def shown(refined: RefineResult) -> PosedImages:
    """The images that the consensus explains at least in part; the others are left out.

    The expected score at the correct map and pose is half the power of the prediction. An image with a much lower score
    shows not another conformation but something else, which would get components of its own.
    """
    half = np.where(explained(refined.score, refined.power).numpy(), refined.posed.half, -1)
    return replace(refined.posed, half=half, noise=refined.posed.noise.float())


def reposed(refined: RefineResult, found: Refined) -> RefineResult:
    """The consensus at poses that were found along with conformations; its statistics must be summed again."""
    K = refined.posed.poses.log_weight.shape[1]
    best = found.posterior.top(K)
    assert best.covariance is not None
    covariance = best.covariance[:, 0]
    wide = covariance[:, None].expand(len(best), best.log_weight.shape[1], 5, 5)
    poses = replace(best, covariance=wide if refined.posed.poses.covariance is not None else None)
    return replace(
        refined,
        posed=refined.posed.with_poses(poses),
        covariance=covariance,
        score=found.score,
        power=found.power,
        doubt=None,  # that of other poses
        elsewhere=None,
    )


def _write(result: Conformations, consensus: Reconstruction, folder: Path, seed: int) -> None:
    feed = consensus.refined.posed.feed
    if result.found is not None:
        latents = result.found.latents
        for file, values in (
            (layout.LATENTS, latents.mean),
            (layout.LATENT_COVARIANCES, latents.covariance),
            (layout.CONTRAST, latents.contrast),
        ):
            write_durably(file.path(folder), npy_bytes(values.float().numpy()))
        write_durably(layout.CONFORMATIONS.path(folder), to_bytes(result.found.volume))
    # class numbers of the input file are replaced: without classes, all images belong to class 1
    found = replace(image_results(consensus.refined, consensus.group), class_number=np.ones(len(feed), np.int64))
    if result.classes is not None:
        found = replace(
            found,
            class_number=result.classes.posterior.best().numpy() + 1,
            probability=result.classes.posterior.log_weight.amax(1).exp().double().numpy(),
        )
    write_particles(layout.PARTICLES.path(folder), feed.source.particles, found)
    if result.classes is not None and result.found is not None:
        _write_classes(result.classes, result.found.latents, consensus, folder, seed)


def _write_classes(
    classes: Classes, latents: LatentPosterior, consensus: Reconstruction, folder: Path, seed: int
) -> None:
    """A map for each class, and their table; images that do not show the particle are left out of the maps."""
    posed = consensus.refined.posed
    half = np.where(latents.contrast.numpy() >= JUNK_CONTRAST, posed.half, -1)
    write_class_maps(
        folder,
        replace(posed, half=half),
        classes.posterior.best().numpy() + 1,
        maps=layout.CLASS_MAP,
        table=layout.CLASSES,
        mask=consensus.maps.mask,
        seed=seed,
        shares=tuple(classes.shares.tolist()),
    )


def npy_bytes(values: np.ndarray) -> bytes:
    """Content of a .npy file."""
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()


def counted(result: Conformations) -> ConformationEvidence:
    """The evidence with the share of the images that show no particle."""
    if result.found is None:
        return result.evidence
    rejected = float((result.found.latents.contrast < JUNK_CONTRAST).float().mean())
    return replace(result.evidence, rejected_share=rejected)
