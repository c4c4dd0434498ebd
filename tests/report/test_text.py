"""Numbers and times as people read them."""

import math

import pytest

from cryoloom.report.text import angstrom, duration, file_size, flat, number, plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.0311, "0.0311"),
        (70.52, "70.5"),
        (1234.5, "1\u202f234"),
        (4963, "4\u202f963"),
        (-83.0, "\u221283"),
        (0, "0"),
        (0.98, "0.98"),
        (1e-7, "1e\u221207"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (8.23, "8.2 s"),
        (63, "1 min 03 s"),
        (3569, "59 min 29 s"),
        (3590, "1 h 00 min"),
        (7860, "2 h 11 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_resolutions_and_sizes() -> None:
    assert [angstrom(v) for v in (8.294, 24.13, None, math.inf)] == ["8.29\u202fÅ", "24.1\u202fÅ", "–", "–"]
    assert [file_size(v) for v in (812, 1900, 1049600, 2.5e9)] == ["812 B", "1.9 kB", "1.0 MB", "2.5 GB"]


def test_settings_become_one_list() -> None:
    nested = {"a": None, "b": {"c": True, "d": {"e": [1, 2.5, None]}}, "f": {}, "g": "x"}
    assert flat(nested) == [("a", "not set"), ("b.c", "yes"), ("b.d.e", "1, 2.5, not set"), ("f", "{}"), ("g", "x")]


def test_plain_text_has_nothing_hidden() -> None:
    assert plain("a\u202eb\x00c\nβ ü\u200b") == "a\ufffdb\ufffdc\nβ ü\ufffd"
