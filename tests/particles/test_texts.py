"""Columns of text in a buffer, against Python's own strings and numbers."""

from __future__ import annotations

import random

import numpy as np

from cryoloom.particles.texts import Texts


def reference(text: str) -> float:
    try:
        return float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        return np.nan


def test_numbers_are_those_of_python_bit_for_bit() -> None:
    rng = random.Random(1)
    odd = [
        "",
        "-",
        "+",
        ".",
        "1.",
        "-.5",
        "+.5",
        "1e5",
        "nan",
        "inf",
        "1_0",
        "1,5",
        "--1",
        "1-2",
        "1.2.3",
        "１",
        "0x10",
        "-0",
        "1e",
        "00012.500",
        "9007199254740993",
        "1e-400",
    ]
    texts = odd + [f"{rng.gauss(0, 1e4):.6f}" for _ in range(20000)] + [repr(rng.gauss(0, 1)) for _ in range(20000)]
    texts += [f"{rng.gauss(0, 1):.{rng.randint(0, 25)}f}" for _ in range(20000)]
    found, expected = Texts.of(texts).numbers(), np.array([reference(t) for t in texts])
    np.testing.assert_array_equal(found, expected)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[known]), np.signbit(expected[known]))


def test_distinct_values_come_in_order_of_first_use() -> None:
    values = ["b", "a", "", "b", "ä" * 30, "a", "ä" * 29 + "b", ""]
    label, distinct = Texts.of(values).factorize()
    assert distinct == ["b", "a", "", "ä" * 30, "ä" * 29 + "b"]
    assert [distinct[i] for i in label] == values


def test_rows_are_taken_without_copying_the_text() -> None:
    texts = Texts.of(["one", "two", "dritté", ""])
    taken = texts.take(np.array([2, 0, 2]))
    assert list(taken) == ["dritté", "one", "dritté"]
    assert taken.buffer is texts.buffer
    assert taken.equal(Texts.of(["dritté", "one", "dritté"]))
    assert not taken.equal(Texts.of(["dritté", "one", "two"]))
    assert len(Texts.of([])) == 0
