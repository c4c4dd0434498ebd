"""Between rounds: which classes are searched for more molecules, and what becomes of the maps that are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cryoloom.jobs.class_rounds import _Rounds, _Sorting
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
MIXTURE = MixtureSettings(least_split=10, fewest=2)


def a_map(number: int) -> torch.Tensor:
    return torch.full((8, 8, 8), float(number))


def sorted_among(count: int, rows: np.ndarray) -> Sorted:
    """Image i fits map i % count."""
    index = torch.from_numpy(rows)
    evidence = torch.full((len(rows), count), -100.0)
    evidence[torch.arange(len(rows)), index % count] = 100.0
    return Sorted(6, evidence, evidence, torch.zeros(len(rows)))


class Rounds(_Rounds):
    """Rounds of which the searches find what they are told to find."""

    found: dict[int, list[torch.Tensor]]
    searched: list[int]

    def _others(self, state: _Sorting, k: int, number: int) -> list[torch.Tensor]:
        self.searched.append(k)
        return self.found.get(k, [])

    def _sorted(self, maps: Any, name: str, *args: Any, **kwargs: Any) -> Sorted:
        return sorted_among(len(maps), kwargs["rows"])


def rounds(classes: int | str, found: dict[int, list[torch.Tensor]]) -> Rounds:
    settings = ReconstructSettings(
        input=InputSettings("particles.star"), particle_diameter_angstrom=80.0, classes=classes, mixture=MIXTURE
    )
    start = MixtureResult((a_map(0), a_map(1)), (0.5, 0.5), 6, torch.ones(1, 8), 1.0, 2)
    out = Rounds(settings, cast(Any, None), np.arange(N) % 2, start, Session(None, SilentProgress(), Interrupts()))
    object.__setattr__(out, "found", found)
    object.__setattr__(out, "searched", [])
    return out


def two_classes(**changes: Any) -> _Sorting:
    """The first shows several structures; a quarter of the images are in no class."""
    labels = np.where(np.arange(N) < 10, -1, np.arange(N) % 2)
    refined = cast(RefinedClass, object())
    state = _Sorting(
        (a_map(0), a_map(1)),
        (),
        labels,
        sorted_among(2, np.arange(N)),
        (),
        settled=True,
        refined=(refined, refined),
        motion=(Structures(1, 2.0), Structures(0, 0.0)),
        fresh=(True, True),
    )
    return replace(state, **changes)


def numbers(maps: tuple[torch.Tensor, ...]) -> list[int]:
    return [int(m[0, 0, 0]) for m in maps]


def test_maps_that_are_found_become_classes_of_their_own():
    job, before = rounds("auto", {0: [a_map(2), a_map(3)], -1: [a_map(4)]}), two_classes()
    state = job._split(before, 1)
    assert job.searched == [0, -1]
    assert numbers(state.maps) == [0, 1, 2, 3, 4]
    assert not state.settled
    searched = before.labels != 1
    assert np.array_equal(state.labels[searched], np.flatnonzero(searched) % 5)
    assert (state.labels[~searched] == 1).all()
    assert [state.begun(k) is None for k in range(5)] == [False, False, True, True, True]


def test_a_map_takes_the_place_of_its_class_s_where_there_are_as_many_as_were_asked_for():
    job = rounds(2, {0: [a_map(2), a_map(3)], -1: [a_map(4)]})
    state = job._split(two_classes(), 1)
    assert job.searched == [0]
    assert numbers(state.maps) == [2, 1]
    assert state.begun(0) is None
    assert state.begun(1) is not None


def test_no_more_maps_are_added_than_were_asked_for():
    job = rounds(4, {0: [a_map(2)], -1: [a_map(4), a_map(5)]})
    assert numbers(job._split(two_classes(), 1).maps) == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("fresh", "number", "searched"),
    [((True, True), 1, [0, -1]), ((True, True), 2, [0]), ((False, True), 2, []), ((False, False), 1, [-1])],
)
def test_a_class_is_searched_once_and_images_of_none_in_the_first_round(fresh, number, searched):
    job = rounds("auto", {})
    state = two_classes(fresh=fresh)
    assert job._split(state, number) is state
    assert job.searched == searched
