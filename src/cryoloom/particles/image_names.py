"""Where the images of a particle table are: stacks found on disk, image numbers checked against them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.stack import StackHeader, read_header
from cryoloom.particles.table import ParticleTable


@dataclass(frozen=True, slots=True)
class ImagePlaces:
    """Where the images are: stack [N] (into `stacks`) and index [N] (0-based, in the stack), int64."""

    stacks: tuple[StackHeader, ...]
    stack: np.ndarray
    index: np.ndarray

    @property
    def keys(self) -> np.ndarray:
        """A number for each image, equal where rows name the same one, ascending by stack and index, int64 [N]."""
        return self.stack * (1 << 32) + self.index

    def take(self, rows: np.ndarray) -> ImagePlaces:
        """The places of some images, in the order given."""
        return ImagePlaces(self.stacks, self.stack[rows], self.index[rows])


def candidates(name: str, file: Path, datadir: Path | None) -> list[Path]:
    """Possible paths of a stack, best first: in the data folder, the particle file's, its parents, the current one.

    RELION writes names relative to the project folder, which is a parent of the STAR file's folder.
    """
    path = Path(name)
    roots = [] if datadir is None else [datadir]
    if path.is_absolute():
        return [path, *(root / path.name for root in roots)]
    folder = file.resolve().parent
    found = [p for root in roots for p in (root / path, root / path.name)]
    return [*found, folder / path, *(parent / path for parent in list(folder.parents)[:4]), Path.cwd() / path]


def find_stacks(table: ParticleTable, datadir: Path | None) -> tuple[Path, ...]:
    """The file of each of the table's stacks.

    Raises:
        BadInput: for missing stacks (the first five), with the places tried for the first.
    """
    if datadir is not None and not datadir.is_dir():
        raise BadInput.report("The data folder does not exist.", file=datadir, fix="check --datadir")
    tried = {name: candidates(name, table.path, datadir) for name in table.stacks}
    found = {name: next((p for p in paths if p.is_file()), None) for name, paths in tried.items()}
    missing = [name for name, p in found.items() if p is None]
    if missing:
        raise BadInput.report(
            f"{len(missing)} of {len(table.stacks)} image stacks are missing.",
            file=table.path,
            found=f"no {listed(missing)}",
            expected=f"the first at one of: {', '.join(map(str, dict.fromkeys(tried[missing[0]])))}",
            fix="state the folder that the names are relative to with --datadir",
        )
    return tuple(p for p in found.values() if p is not None)


def locate_images(table: ParticleTable, paths: tuple[Path, ...], notes: list[str]) -> ImagePlaces:
    """Stack and index of each image; all headers are checked, no pixels are read, oddities are added to `notes`.

    Args:
        paths: paths of the table's stacks (`find_stacks`); paths to the same file count as one stack.

    Raises:
        BadInput: for bad headers, and for images that are not in their stack (with rows).
    """
    known: dict[Path, int] = {}
    which = np.array([known.setdefault(p.resolve(), len(known)) for p in paths], dtype=np.int64)
    _, first = np.unique(which, return_index=True)
    stacks = tuple(read_header(paths[i]) for i in first)
    _note_headers(stacks, notes)
    stack = which[table.stack]
    count = np.array([s.count for s in stacks], dtype=np.int64)[stack]
    # -1: the particle file names a file that should hold one image
    index = np.where((table.index == -1) & (count == 1), 0, table.index)
    bad = np.flatnonzero((index < 0) | (index >= count))
    if len(bad):
        i = bad[0]
        raise BadInput.report(
            f"{len(bad)} row(s) name an image that is not in its stack.",
            file=table.path,
            where=table.place(bad),
            found=f"{_as_written(table, i)} in a stack of {count[i]} images",
            expected=f"images 1 to {count[i]}, as in 000001@{table.stacks[table.stack[i]]}",
            fix="check that this particle file belongs to this stack",
        )
    return ImagePlaces(stacks, stack, index.astype(np.int64))


def _as_written(table: ParticleTable, image: int) -> str:
    number, name = int(table.index[image]) + 1, table.stacks[table.stack[image]]
    return name if number == 0 else f"{max(number, 0):06d}@{name}"


def _note_headers(stacks: tuple[StackHeader, ...], notes: list[str]) -> None:
    """Note each oddity of the headers once, with the stacks that share it."""
    said: dict[str, list[str]] = {}
    for header in stacks:
        for note in header.notes:
            said.setdefault(note, []).append(header.path.name)
    notes += [f"{listed(names, 2)}: {note}" for note, names in said.items()]


def note_folders(table: ParticleTable, paths: tuple[Path, ...], notes: list[str]) -> None:
    """Note stacks that were found elsewhere than beside the particle file."""
    beside = table.path.resolve().parent
    elsewhere = [p for n, p in zip(table.stacks, paths, strict=True) if p.resolve() != (beside / n).resolve()]
    if elsewhere:
        notes.append(
            f"{len(elsewhere)} stack(s) were found elsewhere than beside the particle file: {listed(elsewhere, 1)}."
        )
