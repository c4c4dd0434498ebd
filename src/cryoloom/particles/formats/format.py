"""Interface of particle file formats: how files are recognised, read to a neutral table and written from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryoloom.particles.table import ParticleTable


@dataclass(frozen=True, slots=True)
class Format:
    """A particle file format.

    Attributes:
        name: short name, as in `ParticleTable.format`.
        description: for lists of formats, e.g. "RELION STAR file (1.x to 5)".
        suffixes: suffixes of its files, lower case with the dot.
        read: returns the table of a file. Raises BadInput with file, row, what was found and what was expected. Images
            are not looked for, and columns of numbers are parsed on demand.
        write: writes a table to a new file whose folder exists. Values of `table.results`, `table.corrected` and
            `table.optics` replace those of the file that the table came from; all other columns of a file of the same
            format are kept byte for byte. `table.stack_paths` says where the images are. Raises OSError where nothing
            can be written.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], ParticleTable]
    write: Callable[[Path, ParticleTable], None]
