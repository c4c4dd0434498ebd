"""Checks of an opened table: duplicates, unusable images, flags, frames of optics groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoloom.particles.checks import GroupFrames, data_flags, drop_duplicates, note_unused
from cryoloom.particles.errors import BadInput
from cryoloom.particles.image_names import ImagePlaces
from cryoloom.particles.stack import StackHeader
from cryoloom.particles.table import Numbers

from .test_optics import N, table

HEADER = StackHeader(
    path=Path("s.mrcs"), box=16, count=6, dtype=np.dtype("<f4"), offset=1024, size=7168, pixel_size=2.0, notes=()
)


def places(*index: int) -> ImagePlaces:
    return ImagePlaces((HEADER,), np.zeros(len(index), dtype=np.int64), np.array(index))


def test_repeated_images_are_refused_kept_or_dropped() -> None:
    twice = places(3, 1, 3, 3)
    with pytest.raises(BadInput, match=r"row 3, 4 \(line 9, 10\)"):
        drop_duplicates(table(), twice, "error", np.ones(N, dtype=bool), [])
    for choice, expected in (("keep", [True] * 4), ("drop", [True, True, False, False])):
        keep, notes = np.ones(N, dtype=bool), []
        drop_duplicates(table(), twice, choice, keep, notes)
        assert keep.tolist() == expected
        assert len(notes) == 1


def test_unused_images_are_counted_once_each() -> None:
    notes: list[str] = []
    note_unused(places(0, 1, 1, 5), notes)
    assert "4 rows name 3 of the 6 images" in notes[0]
    note_unused(places(*range(6)), notes)
    assert len(notes) == 1


def test_flags_hold_for_all_images_or_are_refused() -> None:
    given = table()
    for values, expected in (([0] * N, False), ([1] * N, True)):
        flagged = replace(given, numbers={**given.numbers, "phase_flipped": Numbers.of("f", np.array(values))})
        assert data_flags(flagged, []) == (False, expected)
    mixed = replace(given, numbers={**given.numbers, "ctf_premultiplied": Numbers.of("p", np.array([1, 0, 1, 1]))})
    with pytest.raises(BadInput, match="column p"):
        data_flags(mixed, [])


def test_groups_come_to_the_coarsest_frame_and_empty_ones_do_not_count() -> None:
    notes: list[str] = []
    box, size, rescaling = GroupFrames((32, 0, 16), (1.75, 0.0, 3.5), ("fine", "none", "coarse")).common(notes)
    assert (box, size) == (16, 3.5)
    assert [r is not None for r in rescaling] == [True, False, False]
    assert len(notes) == 1
    assert "fine" in notes[0]
