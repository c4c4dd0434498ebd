"""A column of text stored as slices of one byte buffer; decimal numbers are parsed from it without Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

# rows parsed at a time: their characters stay in the processor's cache
_CHUNK = 1 << 15
# longest text that the vectorised parser takes
_WIDTH = 24
# powers of ten that float64 holds exactly, and the mantissa up to which one division is correctly rounded
# (Clinger, PLDI 1990)
_POWERS = 10.0 ** np.arange(23)
_EXACT = 1 << 53
_HASH_FACTOR = np.uint64(0x100000001B3)


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """N texts in UTF-8, each a slice of a shared buffer.

    Attributes:
        buffer: uint8 [bytes].
        start: first byte of each text, integer [N].
        end: byte after each text, integer [N].
    """

    buffer: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @staticmethod
    def of(values: Iterable[str]) -> Texts:
        """The texts of an iterable, in a buffer of their own."""
        encoded = [value.encode() for value in values]
        end = np.cumsum([len(e) for e in encoded], dtype=np.int64)
        start = np.concatenate(([0], end[:-1])) if len(end) else end
        return Texts(np.frombuffer(b"".join(encoded), dtype=np.uint8), start, end)

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        shown = ", ".join(repr(self[i]) for i in range(min(3, len(self))))
        return f"Texts({len(self):,}: {shown}{', ...' if len(self) > 3 else ''})"

    def __getitem__(self, i: int | np.integer) -> str:
        return self.buffer[int(self.start[i]) : int(self.end[i])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (value.decode() for value in self.encoded())

    def encoded(self, first: int = 0, last: int | None = None) -> list[bytes]:
        """Rows `first` to `last` (exclusive) as bytes."""
        start, end = self.start[first:last], self.end[first:last]
        if not len(start):
            return []
        low = int(start.min())
        part = self.buffer[low : int(end.max())].tobytes()
        places = zip((start.astype(np.int64) - low).tolist(), (end.astype(np.int64) - low).tolist(), strict=True)
        return [part[s:e] for s, e in places]

    def take(self, rows: np.ndarray) -> Texts:
        """Some rows, in the order given; the buffer is shared."""
        return Texts(self.buffer, self.start[rows], self.end[rows])

    def equal(self, other: Texts) -> bool:
        """True where both hold the same texts, byte for byte."""
        return len(self) == len(other) and self.encoded() == other.encoded()

    def characters(self, width: int) -> np.ndarray:
        """The first `width` bytes of each text, uint8 [width, N]; 0 beyond its end."""
        length = self.end.astype(np.int64) - self.start
        out = np.zeros((width, len(self)), dtype=np.uint8)
        start = self.start.astype(np.int64)
        for i in range(min(width, int(length.max(initial=0)))):
            inside = length > i
            out[i] = np.where(inside, self.buffer[np.where(inside, start + i, 0)], 0)
        return out

    def numbers(self) -> np.ndarray:
        """The texts as float64 [N], correctly rounded; NaN where a text is not a number."""
        out = np.empty(len(self), dtype=np.float64)
        for first in range(0, len(self), _CHUNK):
            rows = slice(first, first + _CHUNK)
            out[rows] = _parse(Texts(self.buffer, self.start[rows], self.end[rows]))
        return out

    def factorize(self) -> tuple[np.ndarray, list[str]]:
        """Index of each text among the distinct values, int64 [N], and these values in order of first use."""
        if not len(self):
            return np.zeros(0, dtype=np.int64), []
        digests = np.concatenate(
            [
                _digest(Texts(self.buffer, self.start[i : i + _CHUNK], self.end[i : i + _CHUNK]))
                for i in range(0, len(self), _CHUNK)
            ]
        )
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        label = rank[inverse.reshape(-1)]
        if not self._labelled_by(label, first[order]):  # two texts with the same digest: extremely rare, but possible
            known: dict[str, int] = {}
            label = np.array([known.setdefault(value, len(known)) for value in self], dtype=np.int64)
            return label, list(known)
        return label, [self[int(i)] for i in first[order]]

    def _labelled_by(self, label: np.ndarray, first: np.ndarray) -> bool:
        """True where each text equals the first of its label."""
        for i in range(0, len(self), _CHUNK):
            mine = Texts(self.buffer, self.start[i : i + _CHUNK], self.end[i : i + _CHUNK])
            same = self.take(first[label[i : i + _CHUNK]])
            width = int((mine.end - mine.start).max(initial=0))
            if (mine.end - mine.start != same.end - same.start).any():
                return False
            if (mine.characters(width) != same.characters(width)).any():
                return False
        return True


def _digest(texts: Texts) -> np.ndarray:
    """A hash of each text (FNV-1a), uint64 [N]."""
    length = texts.end.astype(np.int64) - texts.start
    characters = texts.characters(int(length.max(initial=0)))
    out = np.full(len(texts), 0xCBF29CE484222325, dtype=np.uint64)
    for i, row in enumerate(characters):
        out = np.where(length > i, (out ^ row) * _HASH_FACTOR, out)
    return out


def _parse(texts: Texts) -> np.ndarray:
    """The texts as float64 [N]: sign, digits and one point by correctly rounded arithmetic, all others by `float`."""
    length = texts.end.astype(np.int64) - texts.start
    width = min(int(length.max(initial=0)), _WIDTH)
    characters = texts.characters(width)
    mantissa = np.zeros(len(texts), dtype=np.int64)
    decimals, digits = (np.zeros(len(texts), dtype=np.int8) for _ in range(2))
    point, other = (np.zeros(len(texts), dtype=np.bool_) for _ in range(2))
    for i, c in enumerate(characters):
        digit = c - 48  # wraps around below '0'
        is_digit = digit < 10
        np.multiply(mantissa, 10, out=mantissa, where=is_digit)
        np.add(mantissa, digit, out=mantissa, where=is_digit)
        digits += is_digit
        decimals += is_digit & point
        is_point = c == 46
        other |= ~(is_digit | (is_point & ~point) | (c == 0)) & (((c != 45) & (c != 43)) | (i > 0))
        point |= is_point
    simple = ~other & (length <= width) & (digits > 0) & (digits <= 18) & (mantissa <= _EXACT)
    value = mantissa / _POWERS[np.minimum(decimals, 22)]
    if width:
        value = np.where(characters[0] == 45, -value, value)
    for i in np.flatnonzero(~simple):
        value[i] = _number(texts[i])
    return value


def _number(text: str) -> float:
    """A decimal number with a point, as C reads it; NaN for anything else, such as 1_000 or a decimal comma."""
    try:
        return float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        return np.nan
