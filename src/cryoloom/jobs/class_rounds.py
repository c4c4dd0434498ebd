"""Classes of images of several molecules: rounds of refinement and sorting, from the first maps on.

In each round every class is refined in a few iterations, half sets apart, and all images are sorted anew by the half
maps. Maps whose half sets do not agree beyond their common start show no molecule, but stay as alternatives: an image
that fits one of them best, or an unknown body, belongs to no class. Neither does one that fits the map of its own class
badly. Of two classes that explain the same images, one is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.mixtures.shares import ClassShares, beyond_unknown, needless
from cryoloom.jobs.classes import Classes, RefinedClass, class_start
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.jobs.structures import Structures, structures
from cryoloom.jobs.verdict import CHANGED
from cryoloom.jobs.verdict_text import number_of
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.mixture import MixtureRecipe, MixtureResult
from cryoloom.recipes.refine import RefineRecipe
from cryoloom.recipes.sort import KnownPoses, Sorted, SortRecipe
from cryoloom.runs.seeds import numpy_generator
from cryoloom.runs.session import Session

TWICE = 2  # searches among the same images of none, where classes are missing


def find_classes(
    settings: ReconstructSettings, feed: ImageFeed, half: np.ndarray, start: MixtureResult, session: Session
) -> Classes:
    """Classes of all images; half: [N] of 0 and 1."""
    return _Rounds(settings, feed, half, start, session).classes()


@dataclass(frozen=True, slots=True)
class _Sorting:
    """Classes between two rounds.

    Attributes:
        maps: [m, m, m] of the classes; sinks: of maps that show no molecule.
        found: evidence for both, in this order; without maps that have been found since.
        in_sinks: evidence for the sinks, None where nothing was compared with them yet.
        labels: class of each image, -1 for none, [N]; rejected: images of each map that was found to be a sink.
        settled: whether hardly any image changed its class; refined: each class as last refined, None (or nothing)
            where its map is a new one; motion: what a linear family says of its images.
        changed: share of the images of each class that came from another one, or went there, in the last round.
        fresh: whether the last round was the first of each class's map.
        searched: whether molecules were sought among the images of the class, or of none, that each image is in while
            it was in it, bool [N].
        misfits: class whose map an image does not fit although it fits no other better, -1 for none, [N].
    """

    maps: tuple[Tensor, ...]
    sinks: tuple[Tensor, ...]
    labels: np.ndarray
    searched: np.ndarray
    misfits: np.ndarray
    found: Sorted
    rejected: tuple[int, ...]
    settled: bool
    in_sinks: Sorted | None = None
    refined: tuple[RefinedClass | None, ...] = ()
    motion: tuple[Structures, ...] = ()
    changed: tuple[float | None, ...] = ()
    fresh: tuple[bool, ...] = ()

    def rows(self, index: int) -> np.ndarray:
        """Images of a class."""
        return np.flatnonzero(self.labels == index)

    def begun(self, index: int) -> RefinedClass | None:
        """A class as last refined, None where its map is a new one."""
        return self.refined[index] if index < len(self.refined) else None


@dataclass(frozen=True, slots=True)
class _Rounds:
    """What stays the same in all rounds."""

    settings: ReconstructSettings
    feed: ImageFeed
    half: np.ndarray
    start: MixtureResult
    session: Session

    def classes(self) -> Classes:
        """The classes after the last round."""
        s, first = self.settings.mixture, self.start.volumes
        found = self._sorted([(v, v) for v in first], "sort_0", self.start.radius, fine=False)
        labels = _labels(found.shares, len(first), s.fewest)
        N = len(labels)
        state = _Sorting(first, (), labels, np.zeros(N, bool), np.full(N, -1), found, (), settled=False)
        for number in range(1, s.rounds + 1):
            if not _used(state.labels):
                return self._nothing(state)
            state = self._round(state, number)
            if number + 1 < s.rounds and not self.settings.classes_from:  # a map has two rounds
                state = self._split(state, number)
            # a map from the images of one class, or of none, is poor until they have been sorted by it
            if state.settled and (number == 1 or not any(state.fresh)):
                break
        if not _used(state.labels):
            return self._nothing(state)
        shares = state.found.shares
        return Classes(
            state.maps,
            state.labels,
            _probability(shares.posterior, state.labels, len(state.maps)),
            tuple(shares.shares[: len(state.maps)].tolist()),
            state.motion,
            tuple(range(len(state.maps))),
            state.refined,
            state.rejected,
            state.settled,
            state.changed,
        ).ordered()

    def _nothing(self, state: _Sorting) -> Classes:
        """No class: every image belongs to none."""
        N = len(self.feed)
        return Classes((), np.full(N, -1), torch.ones(N), (), (), (), (), state.rejected, True, ())

    def _motion(self, refined: RefinedClass, name: str) -> Structures:
        """Whether components around the map of a class make its held-out images likelier."""
        posed = refined.posed(self.feed)
        fitting = posed.only(np.flatnonzero(~refined.misfits))
        if not ((fitting.half == 0).any() and (fitting.half == 1).any()):
            return Structures(0, 0.0)
        return structures(fitting, "C1", self.settings.seed, self.session, name)

    def _room(self, state: _Sorting) -> int:
        """How many more classes may be found, as many as were asked for."""
        requested, most = self.settings.classes, self.settings.mixture.most
        return max(0, (requested if isinstance(requested, int) else most) - len(_used(state.labels)))

    def _is_due(self, state: _Sorting, k: int, number: int, room: int) -> bool:
        """Whether molecules are sought among the images of class k, -1 for none, with room for `room` more classes.

        Where classes are missing, none is searched in two rounds whatever its images: another search may find more.
        """
        s, others = self.settings.mixture, ~state.searched[state.rows(k)]
        if len(others) < s.least_split:
            return False
        if k >= 0:
            motion, refined = state.motion[k], state.refined[k]
            if not motion.components or others.mean() <= s.searched_again:
                return False
            assert refined is not None
            return motion.gain_nats > s.search_gain * float(refined.state.score.mean())
        missing = isinstance(self.settings.classes, int) and number <= TWICE
        return bool(room) and (missing or bool(others.sum() >= s.least_split))

    def _split(self, state: _Sorting, number: int) -> _Sorting:
        """Molecules are sought among the images of each class that one structure does not explain, as they were among
        all images; also among those of no class, again where there are others or classes are missing.

        A class may show two molecules, or its first map may be wrong: each is searched after the first round with its
        map, and again where many of its images have become others since. A map from the images of a class becomes a
        class of its own if its images fit it clearly better than the map of theirs. One that explains more of the
        images than the class's map may turn out to replace that, and is not counted; where there are as many classes as
        were asked for, it does so at once.

        Only the images among which a map was found are sorted anew here; all are after the next round. Those of none go
        to new maps alone: they were set aside from the others.
        """
        own, refined, added, room = list(state.maps), list(state.refined), [], self._room(state)
        divided, searched = list[int](), state.searched.copy()
        for k in (*range(len(state.motion)), -1):
            if not self._is_due(state, k, number, room):
                continue
            searched[state.rows(k)] = True
            others, better = self._others(state, k, number)
            if not others or not (room or better):
                continue
            divided.append(k)
            if room:
                added += others[:room]
                room -= min(room, len(others)) - better
            else:
                own[k], refined[k] = others[0], None
                searched[state.rows(k)] = False
        if not divided:
            return replace(state, searched=searched)
        replaced = refined.count(None)
        where = " and ".join(dict.fromkeys("single classes" if k >= 0 else "no class" for k in divided))
        instead = f", {replaced} in place of the map of a class" if replaced else ""
        gave = number_of(len(added) + replaced, "new map")
        self.session.say(f"searching the images of {where} again gave {gave}{instead}")
        maps = (*own, *added)
        both, rows = [(v, v) for v in (*maps, *state.sinks)], np.flatnonzero(np.isin(state.labels, divided))
        name, sinks = f"sort_split_{number}", len(state.sinks)
        best = self._sorted(both, name, self.start.radius, fine=False, rows=rows, sinks=sinks).shares.best.numpy()
        new = np.array([*(r is None for r in refined), *(len(added) * [True]), *((sinks + 1) * [False])])
        labels = state.labels.copy()
        labels[rows] = np.where((best < len(maps)) & (new[best] | (labels[rows] >= 0)), best, -1)
        labels = _without_small(labels, self.half, self.settings.mixture.fewest)
        searched &= labels == state.labels
        return replace(state, maps=maps, labels=labels, searched=searched, settled=False, refined=tuple(refined))

    def _others(self, state: _Sorting, k: int, number: int) -> tuple[list[Tensor], bool]:
        """Maps of the images of class k (-1 for none) that explain some of them clearly better than the class's own map
        does, or an unknown body; and whether the first explains more images than the class's own map.

        That of the most images comes first. Maps from images of none that show the molecule of another come last: once
        all images have been sorted, they will be dropped.
        """
        s, rows, name = self.settings.mixture, state.rows(k), f"split_{number}_{k + 1 if k >= 0 else 'none'}"
        recipe = MixtureRecipe(self.feed.only(rows), s, self.settings.seed, 2, name, one_may_do=True, none_may_do=k < 0)
        result = self.session.run(recipe)
        volumes = list(result.volumes)
        if not volumes:
            return [], False
        # by images that are in none of the new maps, whose own noise would make these fit better
        held = rows[recipe.held_out(result.begun)]
        if k < 0:
            radius = self.feed.radius_of(s.body_level)
            found = self._sorted([(v, v) for v in volumes], f"sort_{name}", radius, fine=True, rows=held)
            kept = beyond_unknown(found.evidence, found.generic, s.body_loss)
            again = needless(found.of(kept).evidence, found.generic, s.split_loss, median=True)
            twins = {kept[i] for i in again}
        else:
            maps = [(v, v) for v in (state.maps[k], *volumes)]
            found = self._sorted(maps, f"sort_{name}", self.start.radius, fine=True, rows=held)
            new = range(1, len(maps))
            dropped = needless(found.evidence, found.generic, s.split_loss, new, median=True)
            volumes, kept, twins = [state.maps[k], *volumes], tuple(m for m in new if m not in dropped), set[int]()
        counts = np.bincount(found.evidence.argmax(1).numpy(), minlength=len(volumes))
        order = sorted(kept, key=lambda m: (m in twins, -counts[m]))
        return [volumes[m] for m in order], k >= 0 and bool(order) and bool(counts[order[0]] > counts[0])

    def _round(self, state: _Sorting, number: int) -> _Sorting:
        """Classes refined, and all images sorted anew."""
        s = self.settings.mixture
        refined = {k: self._refined(state, k, f"round_{number}_{k + 1}") for k in _used(state.labels)}
        kept = [k for k, r in refined.items() if r.state.shell >= s.beyond_start * self.start.radius]
        wrong = [k for k in refined if k not in kept]
        for k in wrong:
            self._say_rejected(len(state.rows(k)), refined[k].state.shell)
        sinks = (*state.sinks, *(state.maps[k] for k in wrong))
        radius = min(self.feed.radius_of(s.fine_level), max([round(r.state.shell) for r in refined.values()]))
        radius = max(radius, self.start.radius)
        aside = [(v, v) for v in sinks]
        dropped = self._twins([*(refined[k].state.references for k in kept), *aside], kept, state, number, radius)
        left = [k for i, k in enumerate(kept) if i not in dropped]
        halves = [refined[k].state.references for k in left]
        found = self._sorted(
            [*halves, *aside],
            f"sort_{number}",
            radius,
            fine=True,
            known=[KnownPoses(refined[k].rows, refined[k].state.poses) for k in left],
            sinks=len(sinks),
            before=state.in_sinks,
            unlikely=self._unlikely(state, left, len(sinks)),
        )
        places = {k: place for place, k in enumerate(left)}
        labels = _labels(found.shares, len(left), s.fewest)
        misfits = self._misfits(state, refined, places, labels)
        labels[misfits >= 0] = -1
        labels = _without_small(labels, self.half, s.fewest)
        # -2 where the class is left no more
        before = np.array([places.get(k, -2) if k >= 0 else -1 for k in state.labels.tolist()])
        either = (labels == -1) | (before == -1)
        changed, either_none = ((labels != before)[part].sum() / len(labels) for part in (~either, either))
        by_class = tuple(_exchanged(labels, before, place) for place in places.values())
        self.session.say(
            f"round {number}: {number_of(len(_used(labels)), 'class')}; {100 * changed:.1f} % of the images "
            f"went to another; {100 * (labels < 0).mean():.1f} % belong to none, "
            f"{100 * either_none:.1f} % were set aside or taken back"
        )
        box = Band(self.start.radius).box
        return _Sorting(
            tuple(rebox(0.5 * (one + two), box).contiguous() for one, two in halves),
            sinks,
            labels,
            state.searched & (labels == before),
            misfits,
            found,
            (*state.rejected, *(len(state.rows(k)) for k in wrong)),
            settled=bool(changed < s.settled and either_none < s.settled_none and max(by_class, default=0) <= CHANGED),
            in_sinks=found.of(range(len(left), len(left) + len(sinks))),
            refined=tuple(refined[k] for k in left),
            motion=tuple(self._motion(refined[k], f"structures_{number}_{k + 1}") for k in left),
            changed=by_class,
            fresh=tuple(state.begun(k) is None for k in left),
        )

    def _misfits(
        self, state: _Sorting, refined: dict[int, RefinedClass], places: dict[int, int], labels: np.ndarray
    ) -> np.ndarray:
        """Class, in the new order, whose map an image does not fit although it fits no other better; -1 for none, [N].

        What was set aside before was not refined with its class now, and stays aside while that keeps its images.

        Args:
            places: of the classes in the new order; labels: in that order, by evidence.
        """
        out = np.full(len(labels), -1)
        for k, place in places.items():
            here = np.zeros(len(labels), bool)
            here[refined[k].rows[refined[k].misfits]] = True
            if self._kept(state, k):
                here |= state.misfits == k
            out[here & (labels == place)] = place
        return out

    def _kept(self, state: _Sorting, k: int) -> bool:
        """Whether a class has nearly the same images as fitted its map in the round before."""
        before = state.begun(k)
        return before is not None and before.kept(state.rows(k))

    def _unlikely(self, state: _Sorting, kept: Sequence[int], sinks: int) -> Tensor:
        """Classes, of those that are kept and then the sinks, that the last round found to be much less likely for an
        image than another one, where both have kept their images since; bool [N, K].

        A pair that was not compared then is compared now: maps get better.
        """
        out = torch.zeros(len(state.labels), len(kept) + sinks, dtype=torch.bool)
        same = [(place, k) for place, k in enumerate(kept) if self._kept(state, k)]
        if same:
            places, columns = ([pair[side] for pair in same] for side in (0, 1))
            found = state.found.evidence[:, columns]
            lower = found < found.amax(1, keepdim=True) - self.settings.mixture.unlikely_nats
            out[:, places] = torch.isfinite(found) & lower
        return out

    def _twins(
        self,
        maps: Sequence[tuple[Tensor, Tensor]],
        kept: Sequence[int],
        state: _Sorting,
        number: int,
        radius: int,
    ) -> tuple[int, ...]:
        """Those of the first maps, which are those of the classes `kept`, whose images another explains nearly as well.

        Images are compared with the half maps that do not hold them: their own noise would make these fit better. All
        images of a class count, so that those that its map fits best by chance do not decide.
        """
        s, rng = self.settings.mixture, numpy_generator(self.settings.seed, "classes", "judges", number)
        judges = [rng.permutation(state.rows(k))[: s.judged] for k in kept]
        if len(kept) < 2:
            return ()
        rows = np.sort(np.concatenate(judges))
        found = self._sorted(maps, f"twins_{number}", radius, fine=True, rows=rows, half=1 - self.half)
        places = {k: i for i, k in enumerate(kept)}
        members = torch.tensor([places[k] for k in state.labels[rows].tolist()])
        among = range(len(kept))
        return needless(found.evidence, found.generic, s.twin_loss, among, median=True, members=members)

    def _say_rejected(self, count: int, shell: float) -> None:
        at = (
            "do not agree"
            if shell < 1
            else f"agree to {self.feed.field_of_view / shell:.0f} Å, hardly beyond their start"
        )
        self.session.say(f"a map of {count:,} images shows no molecule: its half maps {at}")

    def _sorted(
        self,
        maps: Sequence[tuple[Tensor, Tensor]],
        name: str,
        radius: int,
        fine: bool,
        rows: np.ndarray | None = None,
        half: np.ndarray | None = None,
        known: Sequence[KnownPoses] = (),
        sinks: int = 0,
        before: Sorted | None = None,
        unlikely: Tensor | None = None,
    ) -> Sorted:
        """The evidence of all images, or of some; half: [N], whose maps images are compared with, own if left out."""
        half = self.half if half is None else half
        recipe = SortRecipe(
            self.feed if rows is None else self.feed.only(rows),
            self.settings.mixture,
            maps,
            half=half if rows is None else half[rows],
            noise=self.start.noise,
            sigma_angstrom=self.start.sigma_angstrom,
            name=name,
            radius=radius,
            fine=fine,
            known=known,
            sinks=sinks,
            before=before,
            unlikely=unlikely,
        )
        return self.session.run(recipe)

    def _refined(self, state: _Sorting, k: int, name: str) -> RefinedClass:
        """A class after a few iterations, from where the round before left it if its images are the same."""
        s, rows = self.settings.mixture, state.rows(k)
        before = state.begun(k)
        begun = None if before is None else before.begun(rows, self.half)
        most = s.round_iterations if begun is None else s.further_iterations
        few = replace(self.settings.refine, most_iterations=most, least_iterations=1)
        start = class_start(self.start, state.maps[k], self.half[rows])
        recipe = RefineRecipe(self.feed.only(rows), few, self.settings.seed, start, name=name, begun=begun)
        return RefinedClass(rows, self.session.state(recipe))


def _labels(shares: ClassShares, count: int, fewest: int) -> np.ndarray:
    """Class of each image, of the first `count`; -1 for none. Classes of fewer images than `fewest` are none."""
    best = shares.best.numpy()
    counts = np.bincount(best, minlength=shares.posterior.shape[1])
    none = (counts < fewest) | (np.arange(len(counts)) >= count)
    return np.where(none[best], -1, best)


def _exchanged(labels: np.ndarray, before: np.ndarray, k: int) -> float:
    """Share of the images of a class that came from another class, or went there; those of none are left out."""
    now, then = labels == k, before == k
    moved = (now & ~then & (before != -1)) | (then & ~now & (labels != -1))
    return float(moved.sum() / max(1, now.sum(), then.sum()))


def _without_small(labels: np.ndarray, half: np.ndarray, fewest: int) -> np.ndarray:
    """Labels, -1 for images of classes that have fewer than `fewest` images, or none of a half set."""
    out = labels.copy()
    for k in _used(labels):
        sizes = np.bincount(half[labels == k], minlength=2)
        if sizes.sum() < fewest or not sizes.all():
            out[labels == k] = -1
    return out


def _probability(posterior: Tensor, labels: np.ndarray, count: int) -> Tensor:
    """Probability of the class that each image is in; of none, what all alternatives to the classes have together.

    It is 1 for an image whose likeliest class was taken from it: it fits that badly, or there is no such class.
    """
    index = torch.from_numpy(np.maximum(labels, 0))
    own, none = posterior.gather(1, index[:, None])[:, 0], posterior[:, count:].sum(1)
    none[posterior.argmax(1) < count] = 1.0
    return torch.where(torch.from_numpy(labels) >= 0, own, none)


def _used(labels: np.ndarray) -> list[int]:
    return [int(k) for k in np.unique(labels) if k >= 0]
