"""The main job, from opened particles to a filled run folder: stages, final maps, verdict, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from cryoloom.files.durable import write_durably
from cryoloom.inference.poses.credible import angular_error_degrees, shift_error_angstrom
from cryoloom.inference.poses.encoder_file import to_bytes
from cryoloom.inference.poses.frames import HALF_TURN
from cryoloom.inference.poses.modes import certain_share
from cryoloom.inference.poses.refine import better_half_spread
from cryoloom.inference.poses.start import PoseStart
from cryoloom.jobs.chimerax import write_chimerax_script
from cryoloom.jobs.final_maps import FITTING_MISFIT, FinalMaps, final_maps
from cryoloom.jobs.given_start import given_start
from cryoloom.jobs.inputs import make_feed
from cryoloom.jobs.map_files import write_first_map, write_maps
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.jobs.structures import Structures, structures, structures_plan
from cryoloom.jobs.unstated_symmetry import UnstatedSymmetry, unstated_symmetry
from cryoloom.jobs.verdict import Evidence, Verdict, judge
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import ParticleSet, write_particles
from cryoloom.particles.preprocess import Preprocessing
from cryoloom.particles.table import ImageResults
from cryoloom.physics.rotations import symmetry_group
from cryoloom.recipes.methods.method import PoseJob
from cryoloom.recipes.methods.registry import pose_method
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.recipes.refine import (
    REFINE,
    RefineRecipe,
    RefineResult,
    refinement_costs,
)
from cryoloom.runs import layout
from cryoloom.runs.progress import StagePlan, clock_time
from cryoloom.runs.session import Session

# expected cost of final maps and report (`runs.loop.Recipe.expected_costs`), CPU-seconds: at all, a voxel, and an image
# and cubed Fourier pixel
REPORT_COST, MAPS_COST, INSERTION_COST = 1.5, 1.7e-6, 2.3e-9
HARD = 4  # of sets with junk, strong nuisances or few images: measured 1.5 to 3.9 times what is usual


@dataclass(frozen=True)
class Reconstruction:
    """Result of the main job: its start, the refined images, the final maps and the verdict.

    `group`: rotations [G, 3, 3] up to which poses are right: of the symmetry that was stated, or that the map has.
    """

    start: PoseStart
    refined: RefineResult
    maps: FinalMaps
    verdict: Verdict
    group: Tensor


def run(
    settings: ReconstructSettings, particles: ParticleSet, preprocessing: Preprocessing, session: Session
) -> Verdict | None:
    """Run the job in the session's folder, resuming from what is done; None for ab initio alone."""
    feed = make_feed(particles, preprocessing, settings)
    for said in (*particles.notes, *preprocessing.said):
        session.say(said)
    stages = stage_plan(settings, feed)
    stages = stages if settings.job == "abinit" else [*stages, structures_plan(feed)]
    session.plan(stages)
    session.say(expected(stages))
    if settings.job == "abinit":
        start = find_start(settings, feed, session)
        folder = folder_of(session)
        write_first_map(layout.MAP.path(folder), start.maps[0], feed, settings.flip)
        write_chimerax_script(folder)
        return None
    return confirmed(reconstruct(settings, feed, session, one_structure=True), settings, session)


def expected(stages: Sequence[StagePlan]) -> str:
    """What the log says of the time that a run will take."""
    each = ", ".join(f"{stage.stage} {clock_time(stage.cost)}" for stage in stages)
    usual = sum(stage.cost for stage in stages)
    return (
        f"Expected CPU time on a usual core: about {clock_time(usual)} ({each}); up to {clock_time(HARD * usual)} "
        "where random starts disagree or poses stay in doubt."
    )


def stage_plan(settings: ReconstructSettings, feed: ImageFeed) -> list[StagePlan]:
    """The stages ahead and their expected costs, for the estimate of the time left."""
    stages = []
    if settings.job != "refine":
        costs = pose_method(settings.poses).costs(feed, settings.methods)
        stages += [StagePlan(name, cost) for name, cost in costs.items()]
    if settings.job != "abinit":
        stages.append(StagePlan(REFINE, sum(refinement_costs(feed, settings.refine))))
        inserted = INSERTION_COST * len(feed) * ((feed.box - 1) // 2) ** 3
        stages.append(StagePlan("maps", REPORT_COST + MAPS_COST * feed.box**3 + inserted))
    return stages


def reconstruct(
    settings: ReconstructSettings, feed: ImageFeed, session: Session, *, one_structure: bool = False
) -> Reconstruction:
    """All stages up to maps, poses and verdict, which are written into the session's folder.

    Args:
        one_structure: whether the images are tested for more than one structure; a job that looks for conformations
            learns that anyway.
    """
    start = find_start(settings, feed, session)
    polish = settings.refine if start.polish else weighed_only(settings.refine)
    refined = session.run(RefineRecipe(feed, polish, settings.seed, start, settings.symmetry))
    tested = structures(refined.posed, settings.symmetry, settings.seed, session) if one_structure else None
    return conclude(settings, start, refined, session, tested)


def conclude(
    settings: ReconstructSettings,
    start: PoseStart,
    refined: RefineResult,
    session: Session,
    tested: Structures | None = None,
) -> Reconstruction:
    """Maps and verdict for the refined poses, written into the session's folder; `tested`: for one structure."""
    feed, folder = refined.posed.feed, folder_of(session)
    with session.timing("maps"):
        maps = final_maps(refined, settings.symmetry, settings.seed)
        own = unstated_symmetry(refined, maps, settings.seed)
        group = symmetry_group(settings.symmetry).float() if own is None else own.group
        write_maps(folder, maps, feed.pixel_size, settings.flip)
        write_particles(
            layout.PARTICLES.path(folder),
            feed.source.particles,
            image_results(refined, group, settings.flip),
        )
        verdict = judge(evidence(refined, maps, start, settings, group, tested, own))
    return Reconstruction(start, refined, maps, verdict, group)


def confirmed(done: Reconstruction, settings: ReconstructSettings, session: Session) -> Verdict:
    """The verdict after further random starts, where the disagreement of the first ones is the only failed check."""
    verdict = done.verdict
    if done.start.agreement is None or not verdict.unconfirmed:
        return verdict
    confirm = pose_method(settings.poses).confirm
    if confirm is None:
        return verdict
    posed = done.refined.posed
    likeness = confirm(pose_job(settings, posed.feed, session), done.maps.combined, posed.poses.best()[0])
    if not likeness:
        return verdict
    return judge(replace(verdict.evidence, further=len(likeness), further_likeness=max(likeness)))


def weighed_only(settings: RefineSettings) -> RefineSettings:
    """Settings of one pass that weights given poses and inserts the images at them, without refinement."""
    return replace(settings, most_iterations=1, least_iterations=1, climb_steps=0)


def find_start(settings: ReconstructSettings, feed: ImageFeed, session: Session) -> PoseStart:
    """The start of refinement: what the user gives, or what the pose method finds."""
    if settings.job == "refine":
        return given_start(settings, feed, lambda message: session.say(message, warning=True))
    folder = folder_of(session)
    sketch = layout.ABINIT_MAP.path(folder)
    job = replace(
        pose_job(settings, feed, session),
        preview=lambda volume: write_first_map(sketch, volume, feed, settings.flip),
    )
    start = pose_method(settings.poses).start(job)
    if start.encoder is not None:
        write_durably(layout.ENCODER.path(folder), to_bytes(start.encoder))
    return start


def pose_job(settings: ReconstructSettings, feed: ImageFeed, session: Session) -> PoseJob:
    """What a pose method is given."""
    return PoseJob(feed, session, settings.methods, seed=settings.seed, symmetry=settings.symmetry)


def folder_of(session: Session) -> Path:
    """The folder that a job fills.

    Raises:
        ValueError: for a session in memory.
    """
    if session.path is None:
        raise ValueError("a whole job writes a run folder: expected a session with a folder")
    return session.path


def evidence(
    refined: RefineResult,
    maps: FinalMaps,
    start: PoseStart,
    settings: ReconstructSettings,
    group: Tensor,
    tested: Structures | None = None,
    own: UnstatedSymmetry | None = None,
) -> Evidence:
    """The evidence from which the verdict is drawn.

    Args:
        group: rotations [G, 3, 3] up to which poses are right.
        own: a symmetry of the map that was not stated.
    """
    gold, agreement = maps.gold, start.agreement
    cones = maps.directional
    directions = [(*d.tolist(), float(r)) for d, r in zip(cones.directions, cones.resolution_angstrom, strict=True)]
    resolutions = [r for *_, r in directions if np.isfinite(r)]
    x, y, z = maps.coverage.missing_axis.tolist()
    return Evidence(
        particles=len(refined.posed),
        starts=None if agreement is None else agreement.starts,
        agreeing=None if agreement is None else agreement.agreeing,
        likeness=None if agreement is None else agreement.likeness,
        strength=None if agreement is None else agreement.strength,
        shell=gold.shell,
        resolution_angstrom=gold.resolution_angstrom,
        resolution_half_angstrom=gold.resolution_half_angstrom,
        common_shell=start.shared_shell,
        nyquist_shell=refined.posed.feed.box // 2,
        certain=certain_share(refined.mode_weight(group)) if refined.searched else None,
        fitting=float((refined.misfit < FITTING_MISFIT).float().mean()),
        mean_score=float(refined.score.mean()),
        expected_score=float(refined.power.mean() / 2),
        components=None if tested is None else tested.components,
        component_gain=None if tested is None else tested.gain_nats,
        settled=refined.settled if start.polish and settings.refine.climb_steps else None,
        coverage=maps.coverage.scf,
        missing_share=maps.coverage.missing_share,
        missing_axis=(x, y, z),
        single_view_share=maps.coverage.main_view_share if maps.coverage.single_view else None,
        best_direction_angstrom=min(resolutions) if resolutions else None,
        worst_direction_angstrom=max(resolutions) if resolutions else None,
        cfar=cones.cfar,
        directional_resolution_angstrom=tuple((x, y, z, r) for x, y, z, r in directions if np.isfinite(r)),
        symmetry=settings.symmetry,
        symmetry_score=start.symmetry_score,
        b_factor_angstrom2=maps.guinier.b_factor_angstrom2,
        b_factor_note=maps.guinier.reason,
        unmodelled=refined.posed.feed.source.particles.table.unmodelled,
        joined=refined.joined,
        doubtful=None if refined.doubt is None else refined.doubt[1],
        doubt_degrees=None if refined.doubt is None else refined.doubt[0].degrees,
        doubt_axis=None if refined.doubt is None else refined.doubt[0].axis,
        unstated_symmetry=None if own is None else own.name,
        misfit_spread=better_half_spread(refined.misfit),
    )


def image_results(refined: RefineResult, group: Tensor, flip: bool = False) -> ImageResults:
    """What refinement found for each image: pose, its share of the posterior, half set, likelihood, uncertainty.

    Args:
        group: rotations [G, 3, 3] up to which poses are right.
    """
    poses = refined.posed.poses
    R = poses.R[:, 0].double()
    if flip:
        R = R @ HALF_TURN.double()
    weight, covariance = refined.stated_weight(group), refined.full_covariance
    return ImageResults(
        R=R.numpy(),
        t=poses.t[:, 0].double().numpy(),
        half_set=refined.posed.half.astype(np.int64) + 1,
        log_likelihood=refined.score.double().numpy(),
        probability=weight.double().numpy(),
        angular_error_degrees=angular_error_degrees(poses, covariance, weight, group).double().numpy(),
        shift_error_angstrom=shift_error_angstrom(poses, covariance, weight).double().numpy(),
        misfit=refined.misfit.double().numpy(),
    )
