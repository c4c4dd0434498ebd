"""From rlnImageName (``000012@folder/stack.mrcs``) to stacks and image indices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.optics import Rows
from cryoloom.particles.stack import StackHeader, read_header


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


def candidates(name: str, star: Path, datadir: Path | None) -> list[Path]:
    """Where a stack of that name may be, best first: the data folder, the STAR's folder, its parents, here.

    RELION writes names relative to the project's folder, which is a parent of the STAR's.
    """
    path = Path(name)
    roots = [] if datadir is None else [datadir]
    if path.is_absolute():
        return [path, *(root / path.name for root in roots)]
    folder = star.resolve().parent
    found = [p for root in roots for p in (root / path, root / path.name)]
    return [*found, folder / path, *(parent / path for parent in list(folder.parents)[:4]), Path.cwd() / path]


def locate_images(rows: Rows, datadir: Path | None, notes: list[str]) -> ImagePlaces:
    """Stack and index of each particle; every header is read and checked, no pixel is; `notes` gains oddities.

    Raises:
        BadInput: for a missing column, malformed names, missing stacks (the first five), bad headers, and indices
            outside their stack (with rows).
    """
    if "rlnImageName" not in rows.table:
        raise BadInput.report(
            "The particle table has no column rlnImageName.", file=rows.path, found=listed(list(rows.table), 30)
        )
    names, number = _split(rows)
    named, unique = pd.factorize(names)
    paths = _find(rows, [str(u) for u in unique], datadir)
    # two names may lead to one file: its images must be known as the same
    which, _ = pd.factorize(np.array([str(p.resolve()) for p in paths], dtype=object))
    _, first = np.unique(which, return_index=True)
    stacks = tuple(read_header(paths[i]) for i in first)
    stack = which[named]
    _note_stacks(rows, [str(u) for u in unique], paths=paths, stacks=stacks, datadir=datadir, notes=notes)
    index = np.where(number > 0, number - 1, number)
    count = np.array([s.count for s in stacks])[stack]
    alone = number == -1  # a name without '@' is the one image of its file
    index = np.where(alone & (count == 1), 0, index)
    bad = np.flatnonzero((number == 0) | (index >= count) | (index < 0))
    if len(bad):
        i = bad[0]
        raise BadInput.report(
            f"{len(bad)} row(s) name an image that its stack does not hold.",
            file=rows.path,
            where=f"column rlnImageName, {rows.place(bad)}",
            found=f"{rows.table['rlnImageName'].iloc[i]} in a stack of {count[i]} images",
            expected=f"images 1 to {count[i]}, written as 000001@{unique[named[i]]}",
            fix="check that this STAR file belongs to this stack",
        )
    return ImagePlaces(stacks, stack.astype(np.int64), index.astype(np.int64))


def _note_stacks(
    rows: Rows,
    names: list[str],
    paths: list[Path],
    stacks: tuple[StackHeader, ...],
    datadir: Path | None,
    notes: list[str],
) -> None:
    """Oddities of headers, once each however many stacks share one; and folders that nobody stated."""
    said: dict[str, list[str]] = {}
    for header in stacks:
        for note in header.notes:
            said.setdefault(note, []).append(header.path.name)
    notes += [f"{listed(names, 2)}: {note}" for note, names in said.items()]
    beside = rows.path.resolve().parent
    elsewhere = [p for n, p in zip(names, paths, strict=True) if p.resolve() != (beside / n).resolve()]
    if elsewhere and datadir is None:
        notes.append(f"{len(elsewhere)} stack(s) were not found beside the STAR file but as {listed(elsewhere, 1)}.")


def _split(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """File names [N] and image numbers [N] (1-based; -1 where the name has no number)."""
    names, numbers, bad = [], [], []
    for i, value in enumerate(rows.table["rlnImageName"]):
        number, at, name = value.partition("@")
        if not at:
            number, name = "-1", value
        elif not (number.isascii() and number.isdigit()):
            bad.append(i)
            number = "0"
        if not name or name in ("<NA>", "nan", "None"):
            bad.append(i)
        names.append(name)
        numbers.append(int(number[:18]))
    if bad:
        raise BadInput.report(
            f"{len(bad)} image name(s) can't be read.",
            file=rows.path,
            where=f"column rlnImageName, {rows.place(np.array(bad))}",
            found=listed([repr(rows.table["rlnImageName"].iloc[i]) for i in bad]),
            expected="number@stack, e.g. 000001@particles.mrcs",
        )
    return np.array(names, dtype=object), np.array(numbers, dtype=np.int64)


def _find(rows: Rows, names: list[str], datadir: Path | None) -> list[Path]:
    if datadir is not None and not datadir.is_dir():
        raise BadInput.report("The data folder does not exist.", file=datadir, fix="check --datadir")
    found = {name: next((p for p in candidates(name, rows.path, datadir) if p.is_file()), None) for name in names}
    missing = [name for name, p in found.items() if p is None]
    if missing:
        tried = candidates(missing[0], rows.path, datadir)
        raise BadInput.report(
            f"{len(missing)} of {len(names)} image stacks are missing.",
            file=rows.path,
            found=f"no {listed(missing)}",
            expected=f"the first at one of: {', '.join(map(str, dict.fromkeys(tried)))}",
            fix="state the folder that the names are relative to with --datadir",
        )
    return [p for p in found.values() if p is not None]
