"""Classes as runs: each class of a run with several molecules is refined in a folder of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoloom.inference.poses.start import PoseStart
from cryoloom.jobs.classes import Classes, class_recipe
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.hetero import counted, find_conformations
from cryoloom.jobs.inputs import make_feed
from cryoloom.jobs.mixture_verdict import ClassVerdict
from cryoloom.jobs.reconstruct import Reconstruction, conclude, confirmed, find_start, folder_of
from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
from cryoloom.jobs.structures import structures
from cryoloom.jobs.verdict import Verdict, judge, with_conformations
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.preprocess import seen_diameter
from cryoloom.recipes.mixture import MixtureResult
from cryoloom.recipes.pca import family_costs
from cryoloom.recipes.pca_with_poses import turns_costs
from cryoloom.recipes.refine import RefineRecipe, RefineResult, refinement_costs
from cryoloom.runs import layout
from cryoloom.runs.folder import RunFolder, read_record
from cryoloom.runs.record import RECORD
from cryoloom.runs.seeds import torch_generator
from cryoloom.runs.session import Session

SURE = 0.9  # share of the images with a certain pose from which on a class is refined once; most classes have 0.99
SMALLER = 0.9  # of the particle diameter of all images: a class's own one below it is used


def class_cost(settings: ReconstructSettings, feed: ImageFeed, classes: Classes, index: int, session: Session) -> float:
    """Expected cost of a class's run (see `runs.loop.Recipe.expected_costs`), 0 if it is finished."""
    path = layout.class_folder(folder_of(session), index + 1)
    if (path / RECORD).is_file() and read_record(path).status == "finished":
        return 0.0
    own = feed.only(classes.rows(index))
    cost = sum(refinement_costs(own, settings.refine))
    if classes.motion[index].components:
        linear = settings.methods["pca"]
        cost += sum(turns_costs(own, linear, settings.pca_with_poses)) + sum(family_costs(own, linear))
    return cost


def class_run(
    settings: ReconstructSettings,
    feed: ImageFeed,
    classes: Classes,
    half: np.ndarray,
    found: MixtureResult,
    index: int,
    session: Session,
) -> ClassVerdict:
    """Refine a class in a folder of its own, which is a run; one that is finished is read.

    Args:
        feed, half: all images, and their half sets [N]; found: the first maps; index: of the class, from 0.
    """
    path, rows = layout.class_folder(folder_of(session), index + 1), classes.rows(index)
    own, base = feed.only(rows), replace(settings, job="refine", classes=None, classes_from=())
    record = read_record(path) if (path / RECORD).is_file() else None
    if record is not None and record.fingerprint != own.source.particles.fingerprint():
        record = None  # resumed with another number of threads: an image that is in doubt changed its class
    if record is None or record.status != "finished":
        session.say(f"{path.name}: {len(rows):,} images")
        moving = settings.of_moving_class() if classes.motion[index].components else None
        with _opened(path, moving or base, own, record is not None, session) as folder:
            inner = Session(folder, session.progress, session.interrupts)
            recipe = class_recipe(settings, feed, classes, half, found, index)
            # given maps, and the parts of a molecule that was divided, have a frame in common
            alone = not settings.classes_from and classes.molecules.count(classes.molecules[index]) == 1
            changed = classes.changed[index]
            verdict = _concluded(base, moving, recipe.start, inner.run(recipe), inner, alone=alone, changed=changed)
            folder.finish(verdict)
    verdict = FinishedRun(path).verdict
    assert verdict is not None
    return ClassVerdict(
        path.name,
        classes.molecules[index],
        len(rows),
        len(rows) / len(feed),
        verdict.outcome,
        verdict.resolution_angstrom,
        None if verdict.conformations is None else verdict.conformations.components,
    )


def _concluded(
    base: ReconstructSettings,
    moving: HeteroSettings | None,
    start: PoseStart,
    refined: RefineResult,
    session: Session,
    *,
    alone: bool,
    changed: float | None,
) -> Verdict:
    """Maps and verdict of a class; where its images show several conformations, these too.

    Components around the map of a moving class say nothing against it, unless poses are uncertain: then there may be
    another molecule among its images.

    Args:
        alone: whether the class has a frame of its own, so that its map may be sought anew.
        changed: see `Evidence.changed`.
    """
    tested = structures(refined.posed, "C1", base.seed, session) if moving is None else None
    done = conclude(base, start, refined, session, tested)
    if alone and not _sure(done.verdict):
        done = _again(base, done, session, one_structure=moving is None)
    found = None
    if moving is not None:
        done, conformations = find_conformations(moving, base, done, session)
        found = counted(conformations)
    e = replace(done.verdict.evidence, changed=changed)
    if found is not None and not _sure(done.verdict):
        tested = structures(done.refined.posed, "C1", base.seed, session, "structures_moving")
        e = replace(e, components=tested.components, component_gain=tested.gain_nats)
    verdict = confirmed(replace(done, verdict=judge(e)), base, session)
    return verdict if found is None else with_conformations(verdict, found)


def _sure(verdict: Verdict) -> bool:
    """Whether enough images have a certain pose, or none was sought."""
    certain = verdict.evidence.certain
    return certain is None or certain >= SURE


def _again(base: ReconstructSettings, done: Reconstruction, session: Session, *, one_structure: bool) -> Reconstruction:
    """A class from ab initio reconstruction of its images alone if they fit that better; the same otherwise.

    The first map of a small molecule among large ones is poor, and the diameter of the largest is too wide for it. Of
    the images of haemoglobin at SNR 0.03 in a set of eight molecules, 0.28 had the right pose after refinement, also
    after another one from the class's own map; 0.36 after ab initio reconstruction within the diameter of all, 162
    angstrom, and 0.78 within the class's own, 90 angstrom.
    """
    alone, refined = replace(base, job="reconstruct"), done.refined
    feed = _within_its_diameter(refined.posed.feed, base)
    diameter = feed.source.preprocessing.particle_diameter_angstrom
    session.say(f"poses are uncertain: ab initio from these images alone, particle diameter {diameter:.0f} angstrom")
    start = replace(find_start(alone, feed, session), half=done.start.half)
    better = session.run(RefineRecipe(feed, base.refine, base.seed, start, name="again"))
    # the share of certain poses does not tell: a symmetry that the first map had not divides poses among its mates
    new, old = float(better.score.mean()), float(refined.score.mean())
    session.say(f"ab initio map {'kept' if new > old else 'not kept'}: {new:.1f} nats per image, {old:.1f} before")
    if not new > old:
        layout.ABINIT_MAP.path(folder_of(session)).unlink(missing_ok=True)
        return done
    tested = structures(better.posed, "C1", base.seed, session, "structures_again") if one_structure else None
    return conclude(alone, start, better, session, tested)


def _within_its_diameter(feed: ImageFeed, settings: ReconstructSettings) -> ImageFeed:
    """The images of a class within their own particle diameter, if it is clearly smaller and none was stated."""
    particles, whole = feed.source.particles, feed.source.preprocessing
    if settings.particle_diameter_angstrom is not None:
        return feed
    own = seen_diameter(particles, torch_generator(settings.seed, "preprocessing"))
    if own is None or own > SMALLER * whole.particle_diameter_angstrom:
        return feed
    return make_feed(particles, replace(whole, particle_diameter_angstrom=own), settings)


def _opened(
    path: Path, settings: ReconstructSettings | HeteroSettings, feed: ImageFeed, exists: bool, session: Session
) -> RunFolder:
    """The folder of a class, new or continued; session: of the whole run."""
    particles = feed.source.particles
    if exists:
        return RunFolder.resume(
            path, settings, particles.fingerprint(), threads=settings.threads, device=settings.device, part=True
        )
    return RunFolder.create(
        path,
        settings,
        particles.fingerprint(),
        "hetero" if isinstance(settings, HeteroSettings) else settings.job,
        input_path=particles.path,
        seed=settings.seed,
        threads=settings.threads,
        device=settings.device,
        argv=() if session.folder is None else session.folder.record.argv,
        overwrite=layout.RESULTS,
        part=True,
    )
