"""STAR files as RELION 1.x to 5 writes them, read strictly: every fault is an error with its line.

A general CIF parser counts values over a whole table, so a short row followed by a long one passes unseen; it refuses
characters outside ASCII, and takes a value such as ``data_2020/mic.mrc`` for a new block. This reader counts the
values of each line, as RELION does. Lines of a table without quotes and comments, nearly all of a large file, are
counted together by array operations; every other line is read alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryoloom.particles.errors import BadInput
from cryoloom.particles.texts import Texts

# a quote opens a value only at its start and closes it only before white space or the end of the line
_TOKEN = re.compile(rb"""'(.*?)'(?=\s|$)|"(.*?)"(?=\s|$)|(\S+)""")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_IS_CONTROL = np.array([_CONTROL.match(bytes([b])) is not None for b in range(128)] + [False] * 128)
# bytes tokenised together; the arrays of one piece stay in the processor's cache
_PIECE = 4 << 20


@dataclass(frozen=True, slots=True, eq=False)
class StarBlock:
    """One data block: a table, or name-value pairs (a table of one row).

    Attributes:
        name: what follows ``data_``; may be empty.
        loop: True for a table.
        columns: the text of each column by its tag (without underscore), as written in the file, without quotes.
        lines: line number in the file of each row, from 1, int64 [N].
        line: line number of the block's start.
    """

    name: str
    loop: bool
    columns: Mapping[str, Texts]
    lines: np.ndarray
    line: int

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        return f"StarBlock(data_{self.name}, {len(self):,} rows of {len(self.columns)} columns)"


@dataclass(frozen=True, slots=True)
class StarFile:
    """The blocks of a STAR file in their order; `notes` are oddities that do not prevent reading."""

    path: Path
    blocks: tuple[StarBlock, ...]
    notes: tuple[str, ...]

    def block(self, name: str) -> StarBlock | None:
        """The block of that name, or None."""
        return next((b for b in self.blocks if b.name == name), None)


def read_star(path: Path | str) -> StarFile:
    """All blocks of a STAR file, values as text.

    Raises:
        BadInput: for bytes that are not UTF-8 text, short or long rows, duplicate blocks or columns, values outside
            any block, or a table cut in its header; always with the line.
    """
    path = Path(path)
    data = _read_bytes(path)
    blocks = _Reader(path, data).read()
    if not blocks:
        raise BadInput.report(
            "The file contains no STAR data block.", file=path, expected="a line that begins with data_"
        )
    notes = ()
    if not data.endswith(b"\n"):
        notes = (f"{path.name}: the last line has no line end: the file may have been cut.",)
    return StarFile(path, tuple(_close(path, data, block) for block in blocks), notes)


def _read_bytes(path: Path) -> bytes:
    """The file, checked to be text in UTF-8."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInput.report("The particle file does not exist.", file=path, fix="check the path") from None
    except IsADirectoryError:
        raise BadInput.report("A folder was given where a STAR file is needed.", file=path) from None
    except PermissionError:
        raise BadInput.report("There is no permission to read the particle file.", file=path) from None
    if not data.strip():
        raise BadInput.report("The STAR file is empty.", file=path, found=f"{len(data)} bytes")
    data = data.removeprefix(b"\xef\xbb\xbf")

    def place(position: int) -> str:
        line = data.count(b"\n", 0, position) + 1
        column = position - data.rfind(b"\n", 0, position)
        return f"line {line}, byte {column} of the line (byte {position + 1} of the file)"

    if _has_control(data):
        control = _CONTROL.search(data)
        assert control is not None
        raise BadInput.report(
            "The STAR file contains binary bytes.",
            file=path,
            where=place(control.start()),
            found=f"byte 0x{data[control.start()]:02x}",
            expected="text in UTF-8",
            fix="give the text STAR file, not an image file or a damaged copy",
        )
    bad = None if data.isascii() else _first_undecodable(data)
    if bad is not None:
        raise BadInput.report(
            "The STAR file is not UTF-8 text.",
            file=path,
            where=place(bad),
            found=f"byte 0x{data[bad]:02x}",
            expected="text in UTF-8",
            fix="convert it, e.g. with: iconv -f latin1 -t utf-8",
        )
    return data


def _has_control(data: bytes) -> bool:
    """True where there are control characters other than tabs, line ends and form feeds."""
    characters = np.frombuffer(data, dtype=np.uint8)
    for start in range(0, len(data), _PIECE):
        piece = characters[start : start + _PIECE]
        if _IS_CONTROL[piece[piece < 32]].any() or (piece == 127).any():
            return True
    return False


def _pieces(data: bytes) -> list[tuple[int, int]]:
    """First and last byte (exclusive) of pieces of the file that end at line ends."""
    found, start = [], 0
    while start < len(data):
        end = len(data)
        if end - start > _PIECE:
            end = data.rfind(b"\n", start, start + _PIECE) + 1 or data.find(b"\n", start) + 1 or len(data)
        found.append((start, end))
        start = end
    return found


def _first_undecodable(data: bytes) -> int | None:
    for start, end in _pieces(data):
        try:
            data[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            return start + error.start
    return None


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a piece of the file and where their values are, all in bytes of the file.

    Attributes:
        start, end: of each line, without its line end.
        token_start, token_end: of each run of characters that are not white space.
        first: index of the first such run in or after each line.
        count: number of such runs in each line.
        special: whether the line has quotes or a comment sign.
    """

    start: np.ndarray
    end: np.ndarray
    token_start: np.ndarray
    token_end: np.ndarray
    first: np.ndarray
    count: np.ndarray
    special: np.ndarray

    @staticmethod
    def of(data: np.ndarray, start: int, end: int, dtype: np.dtype) -> _Lines:
        piece = data[start:end]
        blank = np.ones(len(piece) + 2, dtype=np.bool_)
        np.less_equal(piece, 32, out=blank[1:-1])  # control characters have been refused
        edges = np.flatnonzero(blank[1:] != blank[:-1])
        token_start = edges[::2]
        line_end = np.flatnonzero(piece == 10)
        if not len(piece) or piece[-1] != 10:
            line_end = np.append(line_end, len(piece))
        first = np.searchsorted(token_start, np.concatenate(([0], line_end[:-1] + 1)))
        # single quotes, double quotes, comment signs
        marks = np.flatnonzero((piece == 39) | (piece == 34) | (piece == 35))
        special = np.zeros(len(line_end), dtype=np.bool_)
        special[np.searchsorted(line_end, marks)] = True
        return _Lines(
            start=start + np.concatenate(([0], line_end[:-1] + 1)),
            end=start + line_end,
            token_start=(token_start + start).astype(dtype),
            token_end=(edges[1::2] + start).astype(dtype),
            first=first,
            count=np.diff(np.append(first, len(token_start))),
            special=special,
        )


@dataclass(slots=True)
class _OpenBlock:
    """A block while it is being read; rows are kept as arrays of the places of their values."""

    name: str
    line: int
    loop: bool | None = None
    tags: list[str] = field(default_factory=list)
    starts: list[np.ndarray] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)
    lines: list[np.ndarray] = field(default_factory=list)

    def add(self, places: list[tuple[int, int]], number: int, dtype: np.dtype) -> None:
        """Add the values of one line."""
        self.starts.append(np.array([start for start, _ in places], dtype=dtype))
        self.ends.append(np.array([end for _, end in places], dtype=dtype))
        self.lines.append(np.array([number], dtype=np.int64))

    @property
    def in_rows(self) -> bool:
        """True in a table of which at least one row has been read."""
        return bool(self.loop and self.lines)


class _Reader:
    """Goes through the file line by line, taking runs of plain rows together."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data
        self.dtype = np.dtype(np.uint32 if len(data) < 1 << 32 else np.int64)
        self.blocks: list[_OpenBlock] = []

    def read(self) -> list[_OpenBlock]:
        characters, number = np.frombuffer(self.data, dtype=np.uint8), 1
        for start, end in _pieces(self.data):
            lines = _Lines.of(characters, start, end, self.dtype)
            self._piece(lines, number, cut=self.data[end - 1 : end] != b"\n")
            number += len(lines.end)
        return self.blocks

    def _piece(self, lines: _Lines, number: int, cut: bool) -> None:
        """Read all lines of a piece; `number` is that of the first line, `cut` tells that the last has no line end."""
        count, i = len(lines.end), 0
        block: _OpenBlock | None = None
        stops = np.zeros(0, dtype=np.int64)
        while i < count:
            if self.blocks and self.blocks[-1].in_rows and block is not self.blocks[-1]:
                block = self.blocks[-1]
                plain = (lines.count == len(block.tags)) & ~lines.special & (len(block.tags) > 1)
                stops = np.append(np.flatnonzero(~plain), count)
            stop = i
            if block is not None and block is self.blocks[-1]:
                stop = int(stops[np.searchsorted(stops, i)])
            if block is not None and stop > i:
                tokens = slice(lines.first[i], lines.first[i] + (stop - i) * len(block.tags))
                block.starts.append(lines.token_start[tokens])
                block.ends.append(lines.token_end[tokens])
                block.lines.append(np.arange(number + i, number + stop, dtype=np.int64))
                i = stop
                continue
            if lines.count[i]:
                self._line(int(lines.start[i]), int(lines.end[i]), number + i, last=cut and i == count - 1)
            i += 1

    def _tokens(self, start: int, end: int) -> list[tuple[int, int]]:
        """First and last byte of the values of a line; a comment begins at a '#' that starts a value."""
        found = []
        for match in _TOKEN.finditer(self.data[start:end]):
            if match.group().startswith(b"#"):
                break
            found.append(tuple(start + place for place in match.span(match.lastindex or 0)))
        return found

    def _line(self, start: int, end: int, number: int, last: bool) -> None:
        places = self._tokens(start, end)
        if not places:
            return
        values = [self.data[s:e].decode() for s, e in places]
        first, alone = values[0], len(values) == 1
        if first.startswith("data_") and alone:
            self._start_block(first[5:], number)
            return
        if not self.blocks:
            raise BadInput.report(
                "The file does not begin like a STAR file.",
                file=self.path,
                where=f"line {number}",
                found=repr(self.data[start:end].decode().strip()[:60]),
                expected="a line that begins with data_",
            )
        block = self.blocks[-1]
        if first == "loop_" and alone:
            if block.loop is not None:
                raise BadInput.report(
                    "A block contains more than one table.", file=self.path, where=_where(number, block)
                )
            block.loop = True
        elif first.startswith("_") and not block.in_rows:
            self._add_tag(block, values, places, number)
        else:
            self._add_row(block, values, places, number=number, last=last)

    def _start_block(self, name: str, number: int) -> None:
        earlier = next((b for b in self.blocks if b.name == name), None)
        if earlier is not None:
            raise BadInput.report(
                f"The block data_{name} appears twice in the STAR file.",
                file=self.path,
                where=f"lines {earlier.line} and {number}",
                expected="each block once",
                fix="keep the right one; files joined by hand must be joined into one table",
            )
        self.blocks.append(_OpenBlock(name, number))

    def _add_tag(self, block: _OpenBlock, values: list[str], places: list[tuple[int, int]], number: int) -> None:
        tag, where = values[0][1:], _where(number, block)
        if tag in block.tags:
            raise BadInput.report(
                f"The column {tag} appears twice.", file=self.path, where=where, expected="each column once"
            )
        if block.loop:
            if len(values) > 1:
                raise BadInput.report(
                    "The name of a column is followed by further values.",
                    file=self.path,
                    where=where,
                    found=" ".join(values[:5]),
                )
            block.tags.append(tag)
            return
        if len(values) != 2:
            raise BadInput.report(
                "A name-value pair needs one value.",
                file=self.path,
                where=where,
                found=f"{len(values) - 1} values for {tag}",
            )
        block.loop = False
        block.tags.append(tag)
        block.add(places[1:], number, self.dtype)

    def _add_row(
        self, block: _OpenBlock, values: list[str], places: list[tuple[int, int]], *, number: int, last: bool
    ) -> None:
        if block.loop and len(values) == len(block.tags):
            block.add(places, number, self.dtype)
            return
        where = _where(number, block)
        if not block.loop or not block.tags:
            raise BadInput.report(
                "A line of the STAR file belongs to no table.",
                file=self.path,
                where=where,
                found=repr(" ".join(values)[:60]),
            )
        kind = "short" if len(values) < len(block.tags) else "long"
        fix = "write values that contain spaces in quotes; restore the row from the program that wrote the file"
        if last and kind == "short":
            kind, fix = "cut", "the end of the file is missing: copy it again"
        raise BadInput.report(
            f"A row of the STAR file is {kind}.",
            file=self.path,
            where=where,
            found=f"{len(values)} values: {' '.join(values)[:80]}",
            expected=f"{len(block.tags)} values, one for each column",
            fix=fix,
        )


def _where(number: int, block: _OpenBlock) -> str:
    return f"line {number}, block data_{block.name}"


def _close(path: Path, data: bytes, block: _OpenBlock) -> StarBlock:
    if block.loop and not block.tags:
        raise BadInput.report("A table has no columns.", file=path, where=f"line {block.line}, block data_{block.name}")
    none = np.zeros(0, dtype=np.int64)
    starts = np.concatenate(block.starts or [none])
    block.starts.clear()
    ends = np.concatenate(block.ends or [none])
    block.ends.clear()
    lines = np.concatenate(block.lines or [none])
    if not block.loop:  # pairs: one row, with each value on a line of its own
        lines = lines[:1]
    width = len(block.tags)
    buffer = np.frombuffer(data, dtype=np.uint8)
    columns = {tag: Texts(buffer, starts[i::width], ends[i::width]) for i, tag in enumerate(block.tags)}
    return StarBlock(block.name, bool(block.loop), columns, lines, block.line)
