"""STAR files as RELION 1.x to 5 writes them, read strictly: every fault is an error with its line.

The reader goes line by line, as RELION's own does. A general CIF parser counts values over a whole table, so a short
row followed by a long one passes unseen, refuses characters outside ASCII, and takes a value such as
``data_2020/mic.mrc`` for a new block.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cryoloom.particles.errors import BadInput

# a quote opens a value only at its start and closes it only before white space or the end of the line
_TOKEN = re.compile(r"""'(.*?)'(?=\s|$)|"(.*?)"(?=\s|$)|(\S+)""")
# what makes a value need quotes
_SPECIAL = re.compile(r"""['"#\s]""")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class StarBlock:
    """One data block: a table, or name-value pairs (a table of one row).

    Attributes:
        name: what follows ``data_``; may be empty.
        loop: True for a table.
        table: one column of text per tag (without its underscore), as written in the file.
        lines: line number in the file of each row, from 1.
        line: line number of the block's start.
    """

    name: str
    loop: bool
    table: pd.DataFrame
    lines: np.ndarray
    line: int


@dataclass(frozen=True, slots=True)
class StarFile:
    """The blocks of a STAR file in their order; `notes` are oddities that do not prevent reading."""

    path: Path
    blocks: tuple[StarBlock, ...]
    notes: tuple[str, ...]

    def block(self, name: str) -> StarBlock | None:
        """The block of that name, or None."""
        return next((b for b in self.blocks if b.name == name), None)


@dataclass(slots=True)
class _OpenBlock:
    """A block while it is being read."""

    name: str
    line: int
    loop: bool | None = None
    tags: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    # rows stay lines of text until the block closes: a list of values for each would cost twice the time
    rows: list[str] = field(default_factory=list)
    plain: bool = True
    lines: list[int] = field(default_factory=list)


def _tokens(line: str) -> list[str]:
    """Values of a line; a comment begins at a '#' that starts a value."""
    if "'" not in line and '"' not in line:
        values = line.split()
        if "#" in line:
            for i, value in enumerate(values):
                if value.startswith("#"):
                    return values[:i]
        return values
    values = []
    for match in _TOKEN.finditer(line):
        if match.group().startswith("#"):
            break
        values.append(next(g for g in match.groups() if g is not None))
    return values


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInput.report("The particle file does not exist.", file=path, fix="check the path") from None
    except IsADirectoryError:
        raise BadInput.report("A folder was given where a STAR file is needed.", file=path) from None
    except PermissionError:
        raise BadInput.report("The particle file may not be read.", file=path, fix="check its permissions") from None
    if not data.strip():
        raise BadInput.report("The STAR file is empty.", file=path, found=f"{len(data)} bytes")
    data = data.removeprefix(b"\xef\xbb\xbf")

    def place(position: int) -> str:
        line = data.count(b"\n", 0, position) + 1
        column = position - data.rfind(b"\n", 0, position)
        return f"line {line}, byte {column} of the line (byte {position + 1} of the file)"

    control = _CONTROL.search(data)
    if control:
        raise BadInput.report(
            "The STAR file holds binary bytes.",
            file=path,
            where=place(control.start()),
            found=f"byte 0x{data[control.start()]:02x}",
            expected="text in UTF-8",
            fix="give the text STAR file, not an image file or a damaged copy",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise BadInput.report(
            "The STAR file is not UTF-8 text.",
            file=path,
            where=place(e.start),
            found=f"byte 0x{data[e.start]:02x}",
            expected="text in UTF-8",
            fix="convert it, e.g. with: iconv -f latin1 -t utf-8",
        ) from None


def read_star(path: Path | str) -> StarFile:
    """All blocks of a STAR file, values as text.

    Raises:
        BadInput: for bytes that are not UTF-8 text, short or long rows, duplicate blocks or columns, values outside
            any block, or a table cut in its header; always with the line.
    """
    path = Path(path)
    text = _decode(path)
    blocks: list[_OpenBlock] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not (blocks and _is_plain_row(blocks[-1], line)):
            _read_line(path, blocks, number, line, last=number == len(lines))
            continue
        blocks[-1].rows.append(line)
        blocks[-1].lines.append(number)
    if not blocks:
        raise BadInput.report("The file holds no STAR data block.", file=path, expected="a line that begins with data_")
    notes = () if text.endswith("\n") else (f"{path.name}: the last line does not end: the file may have been cut.",)
    return StarFile(path, tuple(_close(path, b) for b in blocks), notes)


def _is_plain_row(block: _OpenBlock, line: str) -> bool:
    """True for nearly every line of a table that has begun: the right number of values, no quotes, no comment."""
    if not block.rows or "'" in line or '"' in line or "#" in line:
        return False
    return len(line.split()) == len(block.tags) > 1


def _read_line(path: Path, blocks: list[_OpenBlock], number: int, line: str, last: bool) -> None:
    values = _tokens(line)
    if not values:
        return
    first = values[0]
    if first.startswith("data_") and len(values) == 1:
        _start_block(path, blocks, first[5:], number)
        return
    if not blocks:
        raise BadInput.report(
            "The file does not begin as a STAR file does.",
            file=path,
            where=f"line {number}",
            found=repr(line.strip()[:60]),
            expected="a line that begins with data_",
        )
    block = blocks[-1]
    if first == "loop_" and len(values) == 1:
        if block.loop is not None:
            raise BadInput.report(
                "A block holds more than one table.", file=path, where=f"line {number}, block data_{block.name}"
            )
        block.loop = True
    elif first.startswith("_") and not block.rows:
        _add_tag(path, block, values, number)
    else:
        _add_row(path, block, line, number, last)


def _start_block(path: Path, blocks: list[_OpenBlock], name: str, number: int) -> None:
    earlier = next((b for b in blocks if b.name == name), None)
    if earlier is not None:
        raise BadInput.report(
            f"The block data_{name} stands twice in the STAR file.",
            file=path,
            where=f"lines {earlier.line} and {number}",
            expected="each block once",
            fix="keep the right one; files joined by hand must be joined into one table",
        )
    blocks.append(_OpenBlock(name, number))


def _add_tag(path: Path, block: _OpenBlock, values: list[str], number: int) -> None:
    tag = values[0][1:]
    where = f"line {number}, block data_{block.name}"
    if tag in block.tags:
        raise BadInput.report(f"The column {tag} stands twice.", file=path, where=where, expected="each column once")
    if block.loop:
        if len(values) > 1:
            raise BadInput.report(
                "A column's name is followed by more values.", file=path, where=where, found=" ".join(values[:5])
            )
        block.tags.append(tag)
        return
    if len(values) != 2:
        raise BadInput.report(
            "A name-value pair needs one value.", file=path, where=where, found=f"{len(values) - 1} values for {tag}"
        )
    block.loop = False
    block.tags.append(tag)
    block.pairs.append(values[1])
    if not block.lines:
        block.lines.append(number)


def _add_row(path: Path, block: _OpenBlock, line: str, number: int, last: bool) -> None:
    values = _tokens(line)
    if len(values) == len(block.tags) and block.loop:
        block.rows.append(line)
        block.lines.append(number)
        block.plain &= values == line.split()
        return
    where = f"line {number}, block data_{block.name}"
    if not block.loop or not block.tags:
        raise BadInput.report(
            "A line of the STAR file belongs to no table.", file=path, where=where, found=repr(" ".join(values)[:60])
        )
    kind = "short" if len(values) < len(block.tags) else "long"
    fix = "write values with spaces in quotes; restore the row from the program that wrote the file"
    if last and kind == "short":
        kind, fix = "cut", "the end of the file is missing: copy it again"
    raise BadInput.report(
        f"A row of the STAR file is {kind}.",
        file=path,
        where=where,
        found=f"{len(values)} values: {' '.join(values)[:80]}",
        expected=f"{len(block.tags)} values, one for each column",
        fix=fix,
    )


def _close(path: Path, block: _OpenBlock) -> StarBlock:
    if block.loop and not block.tags:
        raise BadInput.report("A table has no columns.", file=path, where=f"line {block.line}, block data_{block.name}")
    if not block.loop:
        values = block.pairs
    elif block.plain:
        values = "\n".join(block.rows).split()
    else:
        values = [v for line in block.rows for v in _tokens(line)]
    data = {tag: _shared(values[i :: len(block.tags)]) for i, tag in enumerate(block.tags)}
    table = pd.DataFrame(data, columns=pd.Index(block.tags, dtype=object))
    return StarBlock(block.name, bool(block.loop), table, np.array(block.lines, dtype=np.int64), block.line)


def _shared(values: Sequence[str]) -> np.ndarray:
    """A column as text, object [N], with each text kept once: repeated micrographs and defoci else cost gigabytes."""
    known: dict[str, str] = {}
    return np.array([known.setdefault(v, v) for v in values], dtype=object)


def _quoted(value: str) -> str:
    if value and not _SPECIAL.search(value):
        return value
    quote = '"' if "'" in value else "'"
    match = _TOKEN.match(f"{quote}{value}{quote}")
    if match is None or match.end() < len(value) + 2 or "\n" in value:
        raise ValueError(f"{value!r} can't be written in a STAR file: it holds line ends or both kinds of quotes")
    return f"{quote}{value}{quote}"


def _quoted_column(values: list[str]) -> list[str]:
    # one search in the joined text spares millions of short ones
    plain = _SPECIAL.search("\0".join(values)) is None and all(values)
    return values if plain else [_quoted(v) for v in values]


def _format(name: str, table: pd.DataFrame) -> str:
    lines = [f"\ndata_{name}\n\nloop_\n", *(f"_{tag} #{i}\n" for i, tag in enumerate(table.columns, 1))]
    columns = [_quoted_column(list(table[tag])) for tag in table.columns]
    lines += [" ".join(row) + "\n" for row in zip(*columns, strict=True)]
    return "".join(lines) + "\n"


def write_star(path: Path | str, tables: list[tuple[str, pd.DataFrame]]) -> None:
    """Write tables of text as the blocks of a STAR file, atomically: a reader sees the old file or the new one."""
    path = Path(path)
    text = "\n# version 30001\n" + "\n# version 30001\n".join(_format(name, table) for name, table in tables)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
