"""From RELION's columns to numbers: optics groups, pixel sizes and CTF parameters, each checked for its unit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.stated import StatedInput
from cryoloom.physics.ctf import CTFParameters

# columns of RELION 3.0 that RELION 3.1 moved to the optics table
_OF_A_GROUP = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnImagePixelSize",
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The particle table with what is needed to read numbers from it and to name a faulty row.

    Attributes:
        path: of the STAR file.
        table: particle columns as text.
        lines: line number of each row in the file.
        optics: optics table as text, or None.
        group: 0-based optics group of each particle (row of `optics` where there is one); group_names: of the groups.
    """

    path: Path
    table: pd.DataFrame
    lines: np.ndarray
    optics: pd.DataFrame | None
    group: np.ndarray
    group_names: tuple[str, ...]

    def has(self, column: str) -> bool:
        """True where the particles or the optics table have the column."""
        return column in self.table or (self.optics is not None and column in self.optics)

    def numbers(self, column: str) -> np.ndarray:
        """The column as float64 [N], from the particles or, group by group, from the optics table.

        Raises:
            BadInput: for values that are empty, NaN, infinite or not numbers, with row and column.
        """
        if column in self.table:
            return parse_numbers(column_texts(self.table, column), column, self.path, self.lines)
        if self.optics is None:
            raise ValueError(f"no column {column} in {self.path}: test with has() first")
        texts = column_texts(self.optics, column)
        return parse_numbers(texts, f"{column} of the optics table", self.path, None)[self.group]

    def place(self, rows: np.ndarray) -> str:
        """Words for some rows of the table: 'rows 1, 2 (lines 30, 31)'."""
        return f"row {listed(list(rows + 1))} (line {listed(list(self.lines[rows]))})"


def column_texts(table: pd.DataFrame, column: str) -> np.ndarray:
    """Values of a column as text, object [N]."""
    return np.asarray(table[column], dtype=object)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def parse_numbers(texts: np.ndarray, column: str, path: Path, lines: np.ndarray | None) -> np.ndarray:
    """Text to float64 [N]; BadInput names the first rows that hold no finite number."""
    numbers = np.array([_number(t) for t in texts], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        where = f"column {column}, row {listed(list(bad + 1))}"
        if lines is not None:
            where += f" (line {listed(list(lines[bad]))})"
        raise BadInput.report(
            f"{len(bad)} value(s) of a needed column are not numbers.",
            file=path,
            where=where,
            found=listed([repr(texts[i]) for i in bad]),
            expected="a finite number",
            fix="remove these rows, or restore the values from the program that wrote the file",
        )
    return numbers


def assign_groups(
    path: Path, table: pd.DataFrame, lines: np.ndarray, optics: pd.DataFrame | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """0-based optics group [N] of each particle and the groups' names.

    Without an optics table (RELION 3.0) the rows that share microscope and pixel size make a group.
    """
    if optics is None:
        shared = [c for c in _OF_A_GROUP if c in table]
        group = table.groupby(shared, sort=False).ngroup().to_numpy() if shared else np.zeros(len(table))
        count = int(group.max()) + 1 if len(group) else 1
        return group.astype(np.int64), tuple(f"opticsGroup{i + 1}" for i in range(count))
    column = "rlnOpticsGroup"
    for kind, block in (("optics", optics), ("particle", table)):
        if column not in block:
            raise BadInput.report(f"The {kind} table has no column {column}.", file=path, found=listed(list(block), 30))
    numbers = parse_numbers(column_texts(optics, column), f"{column} of the optics table", path, None)
    if not len(numbers):
        raise BadInput.report("The optics table has no rows.", file=path)
    if len(set(numbers)) < len(numbers):
        raise BadInput.report("An optics group stands twice in data_optics.", file=path, found=listed(list(numbers)))
    wanted = parse_numbers(column_texts(table, column), column, path, lines)
    order = np.argsort(numbers)
    group = order[np.searchsorted(numbers[order], wanted).clip(max=len(numbers) - 1)]
    unknown = np.flatnonzero(numbers[group] != wanted)
    if len(unknown):
        raise BadInput.report(
            f"{len(unknown)} row(s) name an optics group that the optics table does not have.",
            file=path,
            where=f"column {column}, row {listed(list(unknown + 1))} (line {listed(list(lines[unknown]))})",
            found=f"group {listed(sorted({int(wanted[i]) for i in unknown}))}",
            expected=f"one of {listed([int(n) for n in numbers], 20)}",
            fix="add the group to data_optics, or correct the rows",
        )
    if "rlnOpticsGroupName" in optics:
        return group.astype(np.int64), tuple(column_texts(optics, "rlnOpticsGroupName"))
    return group.astype(np.int64), tuple(f"opticsGroup{int(n)}" for n in numbers)


def pixel_sizes(rows: Rows, header_pixel_size: np.ndarray, given: float | None) -> np.ndarray:
    """Angstrom per pixel of each particle, float64 [N]: the option's, the STAR's, or the stack header's.

    Args:
        header_pixel_size: of each particle's stack, [N]; 0 where the header has none.
        given: by the user.

    Raises:
        BadInput: where none is known, it is 0 or the placeholder 1, or STAR and header disagree.
    """
    if given is not None:
        if not 0.05 <= given <= 100:
            raise BadInput.report("The pixel size given is impossible.", found=f"{given} A", expected="0.05 to 100 A")
        return np.full(len(rows.table), float(given))
    if rows.has("rlnImagePixelSize"):
        source, sizes = "rlnImagePixelSize", rows.numbers("rlnImagePixelSize")
    elif rows.has("rlnDetectorPixelSize") and rows.has("rlnMagnification"):
        source = "rlnDetectorPixelSize x 1e4 / rlnMagnification"
        magnification = rows.numbers("rlnMagnification")
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = np.where(magnification > 0, rows.numbers("rlnDetectorPixelSize") * 1e4 / magnification, 0.0)
    else:
        source, sizes = "the stack's header", header_pixel_size
    doubtful = np.flatnonzero(~((sizes >= 0.05) & (sizes <= 100)) | (sizes == 1.0))
    if len(doubtful):
        raise BadInput.report(
            "The pixel size is not known.",
            file=rows.path,
            where=f"{source}, {rows.place(doubtful)}",
            found=f"{sizes[doubtful[0]]:g} angstrom (0 and 1 are placeholders)"
            if sizes[doubtful[0]] in (0, 1)
            else f"{sizes[doubtful[0]]:g} angstrom",
            expected="the pixel size of the extracted images, 0.05 to 100 angstrom",
            fix="state it with --pixel-size, also where it really is 1",
        )
    set_in_header = (header_pixel_size > 0) & (header_pixel_size != 1.0)
    differ = np.flatnonzero(set_in_header & (np.abs(header_pixel_size / sizes - 1) > 0.01))
    if len(differ):
        raise BadInput.report(
            "The STAR file and the image stack disagree on the pixel size.",
            file=rows.path,
            where=rows.place(differ),
            found=f"{sizes[differ[0]]:.4f} angstrom in the STAR file, {header_pixel_size[differ[0]]:.4f} in the stack",
            expected="one pixel size",
            fix="state the right one with --pixel-size",
        )
    return sizes


def _refuse(rows: Rows, column: str, values: np.ndarray, bad: np.ndarray, expected: str, fix: str) -> None:
    """BadInput where any of `bad` [N] is True."""
    if not bad.any():
        return
    found = np.flatnonzero(bad)
    raise BadInput.report(
        f"{len(found)} value(s) of {column} are out of range.",
        file=rows.path,
        where=f"column {column}, {rows.place(found)}",
        found=listed([f"{values[i]:g}" for i in found]),
        expected=expected,
        fix=fix,
    )


def _microscope(rows: Rows, column: str, given: float | None, option: str) -> np.ndarray:
    if given is not None:
        return np.full(len(rows.table), float(given))
    if rows.has(column):
        return rows.numbers(column)
    raise BadInput.report(
        f"The STAR file lacks {column}, which the CTF needs.",
        file=rows.path,
        found="no optics table (as in RELION 3.0) and no such column" if rows.optics is None else "no such column",
        expected=f"{column} in data_optics or for each particle",
        fix=f"state it with {option}",
    )


def _defocus(rows: Rows, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    if not rows.has("rlnDefocusU"):
        raise BadInput.report(
            "The STAR file has no CTF columns: rlnDefocusU is missing.",
            file=rows.path,
            found=listed(list(rows.table), 30),
            expected="rlnDefocusU, rlnDefocusV, rlnDefocusAngle",
            fix="take the STAR file written after CTF estimation, or state --no-ctf if the images carry none",
        )
    u = rows.numbers("rlnDefocusU")
    v = rows.numbers("rlnDefocusV") if rows.has("rlnDefocusV") else u
    if not rows.has("rlnDefocusV"):
        notes.append("rlnDefocusV is absent: taken equal to rlnDefocusU (no astigmatism).")
    for column, values in (("rlnDefocusU", u), ("rlnDefocusV", v)):
        fix = "underfocus is positive; if the images carry no CTF state --no-ctf"
        _refuse(rows, column, values=values, bad=values <= 0, expected="underfocus in angstrom, above 0", fix=fix)
        fix = "these look like um: multiply them by 10000"
        _refuse(rows, column, values=values, bad=values < 100, expected="underfocus in angstrom, e.g. 15000", fix=fix)
        fix = "these look like pm or worse: convert them to angstrom"
        _refuse(
            rows,
            column,
            values=values,
            bad=values > 5e5,
            expected="underfocus in angstrom, below 500000 (50 um)",
            fix=fix,
        )
    return u, v


def ctf_parameters(rows: Rows, given: StatedInput, notes: list[str]) -> CTFParameters:
    """CTF of every particle, float64 [N], angles in radians; `notes` gains what was assumed.

    Raises:
        BadInput: for missing columns (with the option that replaces them) and values outside their range, with the
            unit that they seem to be in.
    """
    u, v = _defocus(rows, notes)
    kv = _microscope(rows, "rlnVoltage", given.voltage_kv, "--voltage")
    fix = "these look like volts: divide by 1000, or state --voltage"
    _refuse(rows, "rlnVoltage", values=kv, bad=kv > 5000, expected="kilovolts, e.g. 300", fix=fix)
    _refuse(
        rows,
        "rlnVoltage",
        values=kv,
        bad=(kv < 10) | (kv > 1500),
        expected="kilovolts, 10 to 1500",
        fix="state --voltage",
    )
    cs = _microscope(rows, "rlnSphericalAberration", given.spherical_aberration_mm, "--cs")
    _refuse(
        rows,
        "rlnSphericalAberration",
        values=cs,
        bad=(cs < 0) | (cs > 20),
        expected="millimetres, e.g. 2.7",
        fix="state --cs",
    )
    w = _microscope(rows, "rlnAmplitudeContrast", given.amplitude_contrast, "--amplitude-contrast")
    fix = "these look like percent: divide by 100, or state --amplitude-contrast"
    _refuse(
        rows, "rlnAmplitudeContrast", values=w, bad=(w < 0) | (w > 1), expected="a share, e.g. 0.07 or 0.1", fix=fix
    )

    def optional(column: str, default: float) -> np.ndarray:
        return rows.numbers(column) if rows.has(column) else np.full(len(u), default)

    angle = optional("rlnDefocusAngle", 0.0)
    if not rows.has("rlnDefocusAngle") and (u != v).any():
        notes.append("rlnDefocusAngle is absent: taken as 0 degrees.")
    phase, b, scale = optional("rlnPhaseShift", 0.0), optional("rlnCtfBfactor", 0.0), optional("rlnCtfScalefactor", 1.0)
    values = (u, v, np.radians(angle), np.radians(phase), b, kv, cs, w, scale)
    return CTFParameters(*(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)) for x in values))


def no_ctf(count: int) -> CTFParameters:
    """Parameters whose CTF is 1 at every frequency: amplitude contrast 1, no defocus, no aberration."""
    return CTFParameters.create(
        np.zeros(count), spherical_aberration_mm=0.0, amplitude_contrast=1.0, dtype=torch.float64
    )
