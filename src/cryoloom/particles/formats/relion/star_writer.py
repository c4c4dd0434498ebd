"""Tables written as the blocks of a STAR file, in RELION's dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryoloom.files.durable import write_durably
from cryoloom.particles.texts import Texts

# characters that make quotes necessary
_SPECIAL = re.compile(rb"""['"#\s]""")
# rows formatted at a time
_CHUNK = 1 << 13


def write_star(path: Path | str, tables: Sequence[tuple[str, Mapping[str, Texts]]]) -> None:
    """Write tables, each a name and columns of text by tag, as a STAR file, atomically.

    Raises:
        OSError: if the file can't be written; an older file of that name is then left as it was.
        ValueError: for a value that can't be quoted.
    """
    parts = []
    for name, columns in tables:
        parts.append(f"\n# version 30001\n\ndata_{name}\n\nloop_\n".encode())
        parts += [f"_{tag} #{i}\n".encode() for i, tag in enumerate(columns, 1)]
        count = len(next(iter(columns.values()))) if columns else 0
        for first in range(0, count, _CHUNK):
            values = [_quoted_column(column.encoded(first, first + _CHUNK)) for column in columns.values()]
            parts.append(b"".join(b" ".join(row) + b"\n" for row in zip(*values, strict=True)))
        parts.append(b"\n")
    write_durably(Path(path), b"".join(parts))


def _quoted_column(values: list[bytes]) -> list[bytes]:
    # one search in the joined text spares millions of short ones
    plain = _SPECIAL.search(b"\0".join(values)) is None and all(values)
    return values if plain else [_quoted(v) for v in values]


def _quoted(value: bytes) -> bytes:
    if value and not _SPECIAL.search(value):
        return value
    for quote in sorted((b"'", b'"'), key=lambda q: q in value):
        # a quote inside closes the value only before white space
        if b"\n" not in value and re.search(quote + rb"(\s|$)", value) is None:
            return quote + value + quote
    raise ValueError(
        f"{value.decode()!r} can't be written in a STAR file: it contains line ends or both kinds of quotes"
    )
