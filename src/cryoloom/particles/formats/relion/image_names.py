"""Splits rlnImageName (``000012@folder/stack.mrcs``) into stack names and image numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.table import place
from cryoloom.particles.texts import Texts

COLUMN = "rlnImageName"
# characters searched for the '@' by array operations; names with longer numbers or without '@' are parsed one by one
_WIDTH = 20
_NO_NAME = ("", "<NA>", "nan", "None")


def split(names: Texts, path: Path, lines: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of the stacks, and for each row its stack and its image counted from 0, int64 [N] each.

    The image is -1 where the name has no number (the only image of its file) and -2 for number 0, which does not exist.

    Raises:
        BadInput: for names without a stack or with an invalid number, with rows.
    """
    number, at = _numbers(names)
    stack, stacks = Texts(names.buffer, names.start + at.astype(names.start.dtype), names.end).factorize()
    unnamed = np.array([s in _NO_NAME for s in stacks], dtype=np.bool_)
    bad = np.flatnonzero((number < -1) | unnamed[stack]) if len(stacks) else np.zeros(0, dtype=np.int64)
    if len(bad):
        raise BadInput.report(
            f"{len(bad)} image name(s) can't be read.",
            file=path,
            where=f"column {COLUMN}, {place(bad, lines)}",
            found=listed([repr(names[i]) for i in bad]),
            expected="number@stack, e.g. 000001@particles.mrcs",
        )
    return tuple(stacks), stack, np.where(number == 0, -2, np.where(number > 0, number - 1, number))


def _numbers(names: Texts) -> tuple[np.ndarray, np.ndarray]:
    """Image number as written, int64 [N] (-1 without '@', -9 if invalid), and number of bytes before the stack name."""
    characters = names.characters(_WIDTH)
    is_at = characters == ord("@")
    at = np.where(is_at.any(0), is_at.argmax(0), -1)
    number, good = np.zeros(len(names), dtype=np.int64), np.ones(len(names), dtype=np.bool_)
    for i, c in enumerate(characters):
        before = i < at
        digit = c - 48
        good &= ~before | (digit < 10)
        number = np.where(before, number * 10 + digit, number)
    number = np.where(good & (at > 0), number, -9)
    after = at + 1
    for i in np.flatnonzero((at < 0) | (at > 18)):
        text, found, _ = names[i].partition("@")
        number[i], after[i] = -1, 0
        if found:
            number[i] = int(text[:18]) if text.isascii() and text.isdigit() else -9
            after[i] = len(text.encode()) + 1
    return number, after
