"""The main job for several molecules: maps from random starts, classes of images, and a run for each class.

1. `MixtureRecipe` finds a low-resolution map of each molecule, all at once.
2. `SortRecipe` gives every image to the map that it fits best, or to none.
3. Classes are refined in a few iterations and all images sorted anew, until hardly any changes its class. Classes whose
   half maps do not agree beyond their common start are no molecules; of two that explain the same images, one is left.
4. Each class is refined as a run of its own, in its own folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.mixtures.shares import ClassShares, needless
from cryoloom.inference.poses.start import PoseStart
from cryoloom.jobs.class_table import ClassRow, write_class_table
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.inputs import make_feed
from cryoloom.jobs.mixture_verdict import ClassVerdict, MixtureVerdict, judge_mixture
from cryoloom.jobs.reconstruct import conclude, folder_of
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.jobs.structures import structures
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import ParticleSet, write_particles
from cryoloom.particles.preprocess import Preprocessing
from cryoloom.particles.table import ImageResults
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.methods.mixture import MixtureSettings
from cryoloom.recipes.mixture import MixtureRecipe, MixtureResult
from cryoloom.recipes.refine import RefineRecipe, RefineResult, refinement_costs
from cryoloom.recipes.sort import Sorted, SortRecipe
from cryoloom.runs import layout
from cryoloom.runs.folder import RunFolder, read_record
from cryoloom.runs.progress import StagePlan
from cryoloom.runs.record import RECORD
from cryoloom.runs.seeds import numpy_generator
from cryoloom.runs.session import Session

STAGE = "mixture"


@dataclass(frozen=True)
class Classes:
    """Classes of images.

    Attributes:
        maps: [m, m, m] of the radius of the first maps, for each class; labels: class of each image, -1 for none, [N].
        posterior: [N, K + 1], the last for none; shares: [K + 1].
        rejected: number of images of each map that was found to be no molecule.
        settled: whether hardly any image changed its class in the last round.
    """

    maps: tuple[Tensor, ...]
    labels: np.ndarray
    posterior: Tensor
    shares: Tensor
    rejected: tuple[int, ...]
    settled: bool


def run_mixture(
    settings: ReconstructSettings, particles: ParticleSet, preprocessing: Preprocessing, session: Session
) -> MixtureVerdict:
    """Run the job in the session's folder, resuming from what is done."""
    feed = make_feed(particles, preprocessing, settings)
    for said in (*particles.notes, *preprocessing.said):
        session.say(said)
    requested = None if settings.classes == "auto" else settings.classes
    assert requested is None or isinstance(requested, int)
    recipe = MixtureRecipe(feed, settings.mixture, settings.seed, requested)
    session.plan(mixture_plan(settings, feed, recipe))
    start = session.run(recipe)
    half = numpy_generator(settings.seed, STAGE, "half sets").permutation(np.arange(len(feed)) % 2)
    classes = find_classes(settings, feed, half, start, session)
    verdicts = []
    for number, (volume, label) in enumerate(_by_size(classes), start=1):
        rows = np.flatnonzero(classes.labels == label)
        verdicts.append(_class_run(settings, feed, rows, half, volume, start, number, session))
    folder = folder_of(session)
    with session.timing("tables"):
        _write(folder, feed, half, classes, len(verdicts))
    none = int((classes.labels < 0).sum())
    return judge_mixture(
        tuple(verdicts),
        len(feed),
        none,
        requested=requested,
        begun=start.begun,
        rejected=classes.rejected,
        settled=classes.settled,
    )


def mixture_plan(settings: ReconstructSettings, feed: ImageFeed, recipe: MixtureRecipe) -> list[StagePlan]:
    """The stages ahead and their expected costs; those of all classes together, as their number is not known yet."""
    refinement = sum(refinement_costs(feed, settings.refine))
    return [
        StagePlan(recipe.name, sum(recipe.expected_costs(recipe.init()))),
        StagePlan("rounds", 0.6 * refinement),
        StagePlan("classes", refinement),
    ]


def find_classes(
    settings: ReconstructSettings, feed: ImageFeed, half: np.ndarray, start: MixtureResult, session: Session
) -> Classes:
    """Classes of all images, from the first maps to the last round of sorting."""
    s = settings.mixture
    search = _Sorter(settings, feed, half, start, session)
    maps = list(start.volumes)
    found = search.sorted([(v, v) for v in maps], "sort_0", start.radius, fine=False)
    labels, rejected, settled = _labels(found.shares, s.fewest), [], False
    for number in range(1, s.rounds + 1):
        refined = {
            k: search.refined(maps[k], np.flatnonzero(labels == k), f"round_{number}_{k}") for k in _used(labels)
        }
        kept = []
        for k, (result, shell) in refined.items():
            if shell < s.beyond_start * start.radius:
                rejected.append(int((labels == k).sum()))
                session.say(
                    f"class of {rejected[-1]:,} images: half maps agree to {feed.field_of_view / max(shell, 1):.0f} Å, hardly beyond their start: no molecule"
                )
            else:
                kept.append(k)
        if not kept:
            return replace_none(maps, labels, rejected)
        before = np.array([kept.index(k) if k in kept else -1 for k in labels])
        halves = [refined[k][0].references for k in kept]
        radius = min(feed.radius_of(s.fine_level), max(round(shell) for k, (_, shell) in refined.items() if k in kept))
        found = search.sorted(halves, f"sort_{number}", radius, fine=True)
        dropped = needless(found.evidence, found.generic, s.twin_loss)
        left = [i for i in range(len(kept)) if i not in dropped]
        found = found.of(left)
        box = Band(start.radius).box
        maps = [rebox(0.5 * (halves[i][0] + halves[i][1]), box).contiguous() for i in left]
        labels = _labels(found.shares, s.fewest)
        before = np.array([left.index(k) if k in left else -1 for k in before])
        changed = float((labels != before).mean())
        session.say(f"round {number}: {len(_used(labels))} classes, {100 * changed:.1f} % of the images changed theirs")
        if changed < s.settled:
            settled = True
            break
    shares = found.shares
    return Classes(tuple(maps), labels, shares.posterior, shares.shares, tuple(rejected), settled)


def replace_none(maps: Sequence[Tensor], labels: np.ndarray, rejected: list[int]) -> Classes:
    """No class is a molecule."""
    posterior = torch.ones(len(labels), 1)
    return Classes((), np.full(len(labels), -1), posterior, torch.ones(1), tuple(rejected), True)


@dataclass(frozen=True, slots=True)
class _Sorter:
    """Sorts and refines, with what stays the same in all rounds."""

    settings: ReconstructSettings
    feed: ImageFeed
    half: np.ndarray
    start: MixtureResult
    session: Session

    def sorted(self, maps: Sequence[tuple[Tensor, Tensor]], name: str, radius: int, fine: bool) -> Sorted:
        """The evidence of all images."""
        recipe = SortRecipe(
            self.feed,
            self.settings.mixture,
            maps,
            half=self.half,
            noise=self.start.noise,
            sigma_angstrom=self.start.sigma_angstrom,
            name=name,
            radius=radius,
            fine=fine,
        )
        return self.session.run(recipe)

    def refined(self, volume: Tensor, rows: np.ndarray, name: str) -> tuple[RefineResult, float]:
        """A class after a few iterations, and the shell to which its half maps agree."""
        s = self.settings.mixture
        few = replace(self.settings.refine, most_iterations=s.round_iterations, least_iterations=1)
        start = class_start(self.start, volume, self.half[rows])
        recipe = RefineRecipe(self.feed.only(rows), few, self.settings.seed, start, name=name)
        state = self.session.state(recipe)
        return recipe.result(state), state.shell


def class_start(found: MixtureResult, volume: Tensor, half: np.ndarray) -> PoseStart:
    """The start of a class's refinement: its map, for both half sets."""
    return PoseStart((volume, volume), found.noise, found.sigma_angstrom, half=half)


def _labels(shares: ClassShares, fewest: int) -> np.ndarray:
    """Class of each image, -1 for none; classes of fewer images than `fewest` are none."""
    best, none = shares.best.numpy(), shares.posterior.shape[1] - 1
    counts = np.bincount(best, minlength=none + 1)
    small = counts < fewest
    small[none] = True
    return np.where(small[best], -1, best)


def _used(labels: np.ndarray) -> list[int]:
    return [int(k) for k in np.unique(labels) if k >= 0]


def _by_size(classes: Classes) -> list[tuple[Tensor, int]]:
    """Maps and labels of the classes, the largest first."""
    order = sorted(_used(classes.labels), key=lambda k: -int((classes.labels == k).sum()))
    return [(classes.maps[k], k) for k in order]


def _class_run(
    settings: ReconstructSettings,
    feed: ImageFeed,
    rows: np.ndarray,
    half: np.ndarray,
    volume: Tensor,
    found: MixtureResult,
    number: int,
    session: Session,
) -> ClassVerdict:
    """Refine a class in a folder of its own, which is a run; one that is finished is read."""
    path = layout.class_folder(folder_of(session), number)
    own = feed.only(rows)
    class_settings = replace(settings, job="refine", classes=None)
    record = read_record(path) if (path / RECORD).is_file() else None
    if record is None or record.status != "finished":
        session.say(f"{path.name}: {len(rows):,} images")
        with _opened(path, class_settings, own, record is not None) as folder:
            inner = Session(folder, session.progress, session.interrupts)
            start = class_start(found, volume, half[rows])
            refined = inner.run(RefineRecipe(own, settings.refine, settings.seed, start))
            tested = structures(refined.posed, "C1", settings.seed, inner)
            done = conclude(class_settings, start, refined, inner, tested)
            folder.finish(done.verdict)
    verdict = FinishedRun(path).verdict
    assert verdict is not None
    return ClassVerdict(
        path.name,
        len(rows),
        len(rows) / len(feed),
        verdict.outcome,
        verdict.resolution_angstrom,
        verdict.evidence.components if verdict.evidence.mixed else None,
    )


def _opened(path: Path, settings: ReconstructSettings, feed: ImageFeed, exists: bool) -> RunFolder:
    """The folder of a class, new or continued."""
    particles = feed.source.particles
    if exists:
        return RunFolder.resume(
            path, settings, particles.fingerprint(), threads=settings.threads, device=settings.device
        )
    return RunFolder.create(
        path,
        settings,
        particles.fingerprint(),
        settings.job,
        input_path=particles.path,
        seed=settings.seed,
        threads=settings.threads,
        device=settings.device,
        overwrite=layout.RESULTS,
    )


def _write(folder: Path, feed: ImageFeed, half: np.ndarray, classes: Classes, count: int) -> None:
    """particles.star of all images, from those of the classes, and the table of classes."""
    N = len(feed)
    R, t = np.tile(np.eye(3), (N, 1, 1)), np.zeros((N, 2))
    numbers = np.zeros(N, np.int64)
    columns = {name: np.zeros(N) for name in _COLUMNS}
    rows_of_table, posterior = [], np.zeros(N)
    for number, (_, label) in enumerate(_by_size(classes), start=1):
        run = FinishedRun(layout.class_folder(folder, number))
        rows = np.flatnonzero(classes.labels == label)
        poses, table = run.poses, run.particles.table
        R[rows], t[rows], numbers[rows] = poses.R[:, 0].double().numpy(), poses.t[:, 0].double().numpy(), number
        for name in _COLUMNS:
            columns[name][rows] = table.texts(table.numbers[name].label).numbers()
        posterior[rows] = classes.posterior[rows, label].double().numpy()
        verdict = run.verdict
        assert verdict is not None
        share = float(classes.shares[label])
        rows_of_table.append(ClassRow(run.folder.name, len(rows), share, verdict.resolution_angstrom))
    none = numbers == 0
    posterior[none] = classes.posterior[none, -1].double().numpy()
    write_particles(
        layout.PARTICLES.path(folder),
        feed.source.particles,
        ImageResults(
            R=R, t=t, half_set=half + 1, class_number=numbers, further={CLASS_PROBABILITY: posterior}, **columns
        ),
    )
    write_class_table(layout.CLASSES.path(folder), tuple(rows_of_table))


_COLUMNS = ("log_likelihood", "probability", "angular_error_degrees", "shift_error_angstrom", "misfit")
CLASS_PROBABILITY = "cryoloomClassProbability"
