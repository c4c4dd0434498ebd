"""Between rounds: which classes are searched for more molecules, and what becomes of the maps that are found."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cryoloom.jobs.class_rounds import _exchanged, _Rounds, _Sorting
from cryoloom.jobs.classes import RefinedClass
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.jobs.structures import Structures
from cryoloom.recipes.methods.mixture import MixtureSettings
from cryoloom.recipes.mixture import MixtureResult
from cryoloom.recipes.sort import Sorted
from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.progress import SilentProgress
from cryoloom.runs.session import Session

N = 40
HALF = np.arange(N) // 4 % 2
MIXTURE = MixtureSettings(least_split=10, fewest=2)


def a_map(number: int) -> torch.Tensor:
    return torch.full((8, 8, 8), float(number))


def sorted_among(count: int, rows: np.ndarray) -> Sorted:
    """Image i fits map i % count; every seventh image fits an unknown body better."""
    index = torch.from_numpy(rows)
    evidence = torch.full((len(rows), count), -100.0)
    evidence[torch.arange(len(rows)), index % count] = 100.0
    return Sorted(6, evidence, evidence, torch.where(index % 7 == 0, 200.0, 0.0))


class Rounds(_Rounds):
    """Rounds of which the searches find what they are told to find."""

    found: dict[int, list[torch.Tensor]]
    better: bool
    searched: list[int]

    def _others(self, state: _Sorting, k: int, number: int) -> tuple[list[torch.Tensor], bool]:
        self.searched.append(k)
        return self.found.get(k, []), self.better

    def _sorted(self, maps: Any, name: str, *args: Any, **kwargs: Any) -> Sorted:
        return sorted_among(len(maps), kwargs["rows"])


def rounds(classes: int | str, found: dict[int, list[torch.Tensor]], better: bool = True) -> Rounds:
    settings = ReconstructSettings(
        input=InputSettings("particles.star"), particle_diameter_angstrom=80.0, classes=classes, mixture=MIXTURE
    )
    start = MixtureResult((a_map(0), a_map(1)), (0.5, 0.5), 6, torch.ones(1, 8), 1.0, 2)
    out = Rounds(settings, cast(Any, None), HALF, start, Session(None, SilentProgress(), Interrupts()))
    object.__setattr__(out, "found", found)
    object.__setattr__(out, "better", better)
    object.__setattr__(out, "searched", [])
    return out


def two_classes(**changes: Any) -> _Sorting:
    """The first shows several structures; a quarter of the images are in no class."""
    labels = np.where(np.arange(N) < 10, -1, np.arange(N) % 2)
    refined = cast(RefinedClass, SimpleNamespace(state=SimpleNamespace(score=torch.full((15,), 100.0))))
    state = _Sorting(
        (a_map(0), a_map(1)),
        (),
        labels,
        np.zeros(N, bool),
        np.full(N, -1),
        sorted_among(2, np.arange(N)),
        (),
        settled=True,
        refined=(refined, refined),
        motion=(Structures(1, 2.0), Structures(0, 0.0)),
        changed=(0.0, 0.0),
        fresh=(True, True),
    )
    return replace(state, **changes)


def settled_classes() -> _Sorting:
    """Each shows one structure."""
    return two_classes(motion=(Structures(0, 0.0), Structures(0, 0.0)))


def numbers(maps: tuple[torch.Tensor, ...]) -> list[int]:
    return [int(m[0, 0, 0]) for m in maps]


def test_maps_that_are_found_become_classes_of_their_own():
    job, before = rounds("auto", {0: [a_map(2), a_map(3)], -1: [a_map(4)]}), two_classes()
    state = job._split(before, 1)
    assert job.searched == [0, -1]
    assert numbers(state.maps) == [0, 1, 2, 3, 4]
    assert not state.settled
    best = np.where(np.arange(N) % 7 == 0, -1, np.arange(N) % 5)
    assert np.array_equal(state.labels[before.labels == 0], best[before.labels == 0])
    assert (state.labels[before.labels == 1] == 1).all()
    # images of none were set aside from the classes that there were
    none = before.labels == -1
    assert np.array_equal(state.labels[none], np.where(best < 2, -1, best)[none])
    assert [state.begun(k) is None for k in range(5)] == [False, False, True, True, True]


def test_a_map_takes_the_place_of_its_class_s_where_there_are_as_many_as_were_asked_for():
    job = rounds(2, {0: [a_map(2), a_map(3)], -1: [a_map(4)]})
    state = job._split(two_classes(), 1)
    assert job.searched == [0]
    assert numbers(state.maps) == [2, 1]
    assert state.begun(0) is None
    assert state.begun(1) is not None


def test_a_class_keeps_its_map_if_that_explains_the_most_of_its_images():
    job, before = rounds(2, {0: [a_map(2)]}, better=False), two_classes()
    assert job._split(before, 1).maps is before.maps
    assert numbers(rounds("auto", {0: [a_map(2)]}, better=False)._split(before, 1).maps) == [0, 1, 2]


def test_images_that_fit_a_map_of_no_molecule_best_stay_in_no_class():
    job, before = rounds("auto", {-1: [a_map(4)]}), two_classes(sinks=(a_map(7),))
    labels = job._split(before, 1).labels
    assert np.array_equal(labels[:10], np.where(np.arange(10) % 4 == 2, 2, -1))


def test_no_more_maps_are_added_than_were_asked_for():
    job = rounds(4, {0: [a_map(2)], -1: [a_map(4), a_map(5)]}, better=False)
    assert numbers(job._split(two_classes(), 1).maps) == [0, 1, 2, 4]


@pytest.mark.parametrize(("others", "again"), [(0, False), (1, False), (2, True)])
def test_a_class_is_searched_again_where_many_of_its_images_are_others(others, again):
    job = rounds("auto", {})
    state = job._split(two_classes(), 1)
    assert job.searched == [0, -1]
    searched = state.searched.copy()
    searched[state.rows(0)[:others]] = False  # of 15
    job._split(replace(state, searched=searched), 2)
    assert job.searched[2:] == ([0] if again else [])


@pytest.mark.parametrize(("gain", "searched"), [(0.3, [-1]), (0.5, [0, -1])])
def test_a_class_is_searched_where_components_explain_enough_of_its_images(gain, searched):
    job = rounds("auto", {})
    job._split(two_classes(motion=(Structures(1, gain), Structures(0, 0.0))), 1)
    assert job.searched == searched


def test_a_class_whose_map_is_another_is_searched_again():
    job = rounds(2, {0: [a_map(2)]})
    state = job._split(two_classes(), 1)
    job._split(replace(state, refined=two_classes().refined), 2)
    assert job.searched == [0, 0]


def test_images_are_not_compared_in_the_next_round_with_classes_that_were_much_less_likely():
    job = rounds("auto", {})
    state = two_classes()
    kept_all = cast(RefinedClass, SimpleNamespace(kept=lambda _: True))
    others = cast(RefinedClass, SimpleNamespace(kept=lambda _: False))
    unlikely = job._unlikely(replace(state, refined=(kept_all, kept_all)), (0, 1), 1)
    assert np.array_equal(unlikely.numpy(), np.stack([np.arange(N) % 2 == 1, np.arange(N) % 2 == 0, np.zeros(N)], 1))
    # nor is a pair left out twice in a row
    left_out = torch.where(torch.eye(2)[torch.arange(N) % 2].bool(), 100.0, -torch.inf)
    again = replace(state, refined=(kept_all, kept_all), found=replace(state.found, evidence=left_out))
    assert not job._unlikely(again, (0, 1), 1).any()
    # a map of other images, or a new one, may have come to fit
    for second in (others, None):
        assert not job._unlikely(replace(state, refined=(kept_all, second)), (0, 1), 1).any()


@pytest.mark.parametrize(
    ("classes", "others", "again"), [("auto", 9, False), ("auto", 10, True), (3, 0, True), (2, 9, False)]
)
def test_images_of_none_are_searched_again_where_there_are_others_or_classes_are_missing(classes, others, again):
    job = rounds(classes, {})
    state = job._split(settled_classes(), 1)
    assert job.searched == ([] if classes == 2 else [-1])
    labels, searched = state.labels.copy(), state.searched.copy()
    labels[10 : 10 + others] = -1
    searched[10 : 10 + others] = False
    job._split(replace(state, labels=labels, searched=searched), 2)
    assert job.searched[1:] == ([-1] if again else [])


def test_images_of_none_are_searched_once_there_is_room_for_a_class():
    job = rounds(2, {-1: [a_map(4)]})
    state = job._split(settled_classes(), 1)
    assert job.searched == []
    labels = np.where(state.labels == 1, -1, state.labels)
    assert numbers(job._split(replace(state, labels=labels), 2).maps) == [0, 1, 4]


def test_a_map_that_may_replace_that_of_its_class_takes_no_room():
    found = {0: [a_map(2)], -1: [a_map(4), a_map(5)]}
    assert numbers(rounds(3, found)._split(two_classes(), 1).maps) == [0, 1, 2, 4]
    job = rounds(3, found, better=False)
    assert numbers(job._split(two_classes(), 1).maps) == [0, 1, 2]
    assert job.searched == [0]


@pytest.mark.parametrize(
    ("rounds_of", "divided", "expected"),
    [
        ([True, False, True], (), [1]),
        ([False, True, True], (), [1, 2]),
        ([True, True, True], (1,), [1, 2, 3]),  # images are sorted twice by a new map
        ([True, True, True, True], (1, 2), [1, 2, 3, 4]),
        ([False, False, False, False, False, True], (), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_rounds_end_when_classes_are_settled_and_no_map_is_new(monkeypatch, rounds_of, divided, expected):
    """Classes that the last round left settled are so, whatever was new in it."""
    job, done = rounds("auto", {}), []
    monkeypatch.setattr(Rounds, "_sorted", lambda *_, **__: sorted_among(2, np.arange(N)))

    def a_round(_, state: _Sorting, number: int) -> _Sorting:
        done.append(number)
        return two_classes(settled=rounds_of[number - 1], fresh=(number == 1 or state.fresh == (), False))

    def split(_, state: _Sorting, number: int) -> _Sorting:
        return replace(state, settled=False, fresh=()) if number in divided else state

    monkeypatch.setattr(Rounds, "_round", a_round)
    monkeypatch.setattr(Rounds, "_split", split)
    found = job.classes()
    assert done == expected
    assert found.settled == rounds_of[expected[-1] - 1]


@pytest.mark.parametrize("kept", [True, False])
def test_images_that_do_not_fit_their_class_stay_aside_while_it_keeps_its_images(kept):
    job, labels = rounds("auto", {}), np.arange(N) % 2
    before = cast(RefinedClass, SimpleNamespace(kept=lambda _: kept))
    state = two_classes(refined=(before, before), misfits=np.where(np.arange(N) < 4, 1, -1))
    rows = np.arange(10, N, 2)
    fits = SimpleNamespace(rows=rows, misfits=rows == 12)
    others = SimpleNamespace(rows=rows + 1, misfits=np.zeros(len(rows), bool))
    # the second class comes first now
    refined = {0: cast(RefinedClass, fits), 1: cast(RefinedClass, others)}
    found = job._misfits(state, refined, {1: 0, 0: 1}, 1 - labels)
    expected = np.full(N, -1)
    expected[12] = 1
    if kept:
        expected[[1, 3]] = 0  # images 0 and 2 fit the other class better now
    assert np.array_equal(found, expected)


def test_images_exchanged_between_classes_are_counted():
    before = np.array([0, 0, 0, 0, 1, 1, -1, -1, -2])
    labels = np.array([0, 0, 1, -1, 1, 1, 0, -1, 0])
    assert _exchanged(labels, before, 0) == pytest.approx(2 / 4)  # one went to 1, one came from a class that is no more
    assert _exchanged(labels, before, 1) == pytest.approx(1 / 3)
    assert _exchanged(labels, before, 2) == 0
