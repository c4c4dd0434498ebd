"""The main job for several molecules: maps from random starts, classes of images, and a run for each class.

1. `MixtureRecipe` finds a low-resolution map of each molecule, all at once.
2. `find_classes` gives every image to one of them, or to none, in rounds of refinement and sorting.
3. Where fewer are found than were asked for, a molecule that moves is divided (`jobs.divided_class`).
4. Each class is refined as a run of its own, in its own folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoloom.jobs.class_rounds import find_classes
from cryoloom.jobs.class_runs import class_cost, class_run
from cryoloom.jobs.class_table import ClassRow, write_class_table
from cryoloom.jobs.classes import Classes
from cryoloom.jobs.divided_class import with_conformations_as_classes
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.given_classes import given_classes
from cryoloom.jobs.inputs import make_feed
from cryoloom.jobs.mixture_verdict import ClassVerdict, MixtureVerdict, judge_mixture
from cryoloom.jobs.reconstruct import folder_of
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import ParticleSet, write_particles
from cryoloom.particles.preprocess import Preprocessing
from cryoloom.particles.table import ImageResults, Quantity
from cryoloom.recipes.mixture import MixtureRecipe
from cryoloom.recipes.refine import refinement_costs
from cryoloom.runs import layout
from cryoloom.runs.progress import StagePlan
from cryoloom.runs.seeds import numpy_generator
from cryoloom.runs.session import Session

# columns of the classes' particle files that the one of all images has, too
_COLUMNS: tuple[Quantity, ...] = (
    "log_likelihood",
    "probability",
    "angular_error_degrees",
    "shift_error_angstrom",
    "misfit",
)
ROUNDS_COST = 0.6  # of all rounds, relative to refinement
CLASS_PROBABILITY = "cryoloomClassProbability"


def run_mixture(
    settings: ReconstructSettings, particles: ParticleSet, preprocessing: Preprocessing, session: Session
) -> MixtureVerdict:
    """Run the job in the session's folder, resuming from what is done."""
    feed = make_feed(particles, preprocessing, settings)
    for said in (*particles.notes, *preprocessing.said):
        session.say(said)
    requested = settings.classes if isinstance(settings.classes, int) else None
    recipe = MixtureRecipe(feed, settings.mixture, settings.seed, requested)
    refinement = sum(refinement_costs(feed, settings.refine))
    later = [StagePlan("rounds", ROUNDS_COST * refinement), StagePlan("classes", refinement)]  # of many stages each
    session.plan([StagePlan(recipe.name, sum(recipe.expected_costs(recipe.init()))), *later])
    start = given_classes(settings, feed, session) if settings.classes_from else session.run(recipe)
    half = numpy_generator(settings.seed, recipe.name, "half sets").permutation(np.arange(len(feed)) % 2)
    session.plan(later)
    classes = find_classes(settings, feed, half, start, session)
    classes = with_conformations_as_classes(settings, feed, classes, half, start, session)
    session.plan(
        [StagePlan("classes", sum(class_cost(settings, feed, classes, k, session) for k in range(len(classes.maps))))]
    )
    verdicts = [class_run(settings, feed, classes, half, start, k, session) for k in range(len(classes.maps))]
    _record_time(verdicts, session)
    with session.timing("tables"):
        _write(folder_of(session), feed, half, classes)
    return judge_mixture(
        tuple(verdicts),
        len(feed),
        int((classes.labels < 0).sum()),
        requested=requested,
        begun=start.begun,
        rejected=classes.rejected,
        settled=classes.settled,
    )


def _record_time(verdicts: Sequence[ClassVerdict], session: Session) -> None:
    """What the classes' runs have taken together, over all resumptions."""
    if session.folder is not None:
        runs = [FinishedRun(session.folder.path / verdict.name) for verdict in verdicts]
        spent = [timing for run in runs for timing in run.record.timings]
        session.folder.record_timing("classes", sum(t.wall_s for t in spent), sum(t.cpu_s for t in spent))


def _write(folder: Path, feed: ImageFeed, half: np.ndarray, classes: Classes) -> None:
    """particles.star of all images, from those of the classes, and the table of classes."""
    N = len(feed)
    R, t = np.tile(np.eye(3), (N, 1, 1)), np.zeros((N, 2))
    columns = {name: np.zeros(N) for name in _COLUMNS}
    table = []
    for k in range(len(classes.maps)):
        run, rows = FinishedRun(layout.class_folder(folder, k + 1)), classes.rows(k)
        poses, own = run.poses, run.particles.table
        R[rows], t[rows] = poses.R[:, 0].double().numpy(), poses.t[:, 0].double().numpy()
        for name in _COLUMNS:
            columns[name][rows] = own.texts(own.numbers[name].label).numbers()
        verdict = run.verdict
        assert verdict is not None
        table.append(ClassRow(run.folder.name, len(rows), classes.shares[k], verdict.resolution_angstrom))
    found = ImageResults(
        R=R,
        t=t,
        half_set=half + 1,
        class_number=classes.labels + 1,
        further={CLASS_PROBABILITY: classes.probability.double().numpy()},
        **columns,
    )
    write_particles(layout.PARTICLES.path(folder), feed.source.particles, found)
    write_class_table(layout.CLASSES.path(folder), tuple(table))
