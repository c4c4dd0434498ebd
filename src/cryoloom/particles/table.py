"""The content of a particle file, independent of the file format: one NumPy column per quantity.

Formats (`particles.formats`) translate a file to this table and back; checks, CTF, images and poses use only this
table. Reading one does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np

from cryoloom.particles.errors import listed
from cryoloom.particles.texts import Texts

Quantity = Literal[
    "pixel_size",
    "box",
    "voltage_kv",
    "spherical_aberration_mm",
    "amplitude_contrast",
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "astigmatism_radian",
    "phase_shift_radian",
    "b_factor_angstrom2",
    "scale",
    "ctf_premultiplied",
    "phase_flipped",
    "half_set",
    "class_number",
    "log_likelihood",
    "probability",
    "angular_error_degrees",
    "shift_error_angstrom",
    "misfit",
]
"""Quantities that a file may give for each image. Lengths are in angstrom (`pixel_size`: of the image in its file;
`box`: pixels), flags are 0 or 1, `half_set` is 1 or 2, `class_number` counts from 1, `log_likelihood` is in nats,
`misfit` in standard deviations."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column of numbers that is parsed on demand.

    Attributes:
        label: the column's name in the file, for errors.
        read: maps rows of the file, int64 [N], to float64 [N]; raises BadInput for values that are not finite numbers.
    """

    label: str
    read: Callable[[np.ndarray], np.ndarray]

    @staticmethod
    def of(label: str, values: np.ndarray) -> Numbers:
        """A column that is in memory, with a value for each row of the file."""
        return Numbers(label, lambda rows: np.asarray(values, dtype=np.float64)[rows])

    def negated(self) -> Numbers:
        """The column with every value multiplied by -1; 0 stays 0."""
        return Numbers(self.label, lambda rows: 0.0 - self.read(rows))


@dataclass(frozen=True, slots=True)
class PoseColumns:
    """The poses of a file, parsed on demand; the only place where a table has poses.

    Attributes:
        rotations: maps rows of the file to R, float64 [N, 3, 3]; None where the file has no orientations.
        shifts: maps rows of the file to t, float64 [N, 2] (x, y; content moved by +t); None where it has no shifts.
        shifts_in_pixels: t is in pixels of the image in its file; else in angstrom.
        missing: columns of this format whose absence makes orientations or shifts unavailable.
    """

    rotations: Callable[[np.ndarray], np.ndarray] | None
    shifts: Callable[[np.ndarray], np.ndarray] | None
    shifts_in_pixels: bool = False
    missing: tuple[str, ...] = ()


Effect = Literal["beam tilt", "higher aberrations", "anisotropic magnification"]


@dataclass(frozen=True, slots=True)
class UnmodelledEffect:
    """An effect on the images that a file states and the image model does not have, and the columns that state it."""

    effect: Effect
    columns: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.effect} ({', '.join(self.columns)})"


@dataclass(frozen=True, slots=True)
class OpticsGroup:
    """Microscope, box and pixel size of an optics group; None where unknown.

    Attributes:
        name: name of the group.
        pixel_size: pixel size of the images in their file, angstrom; box: their side, pixels.
        voltage_kv, spherical_aberration_mm, amplitude_contrast: as in `CTFParameters`.
    """

    name: str
    pixel_size: float | None = None
    box: int | None = None
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImageResults:
    """Results of a run for each of N images, to be written; None for those that it does not give.

    Attributes:
        R: [N, 3, 3], image frame to volume frame; t: [N, 2], angstrom (x, y; content moved by +t).
        half_set: 1 or 2, [N]; class_number: from 1, [N].
        log_likelihood: nats, [N]; probability: of the pose (or class) among its candidates, [N].
        angular_error_degrees, shift_error_angstrom: radii that hold 68 % of the pose's posterior, [N].
        misfit: standard deviations by which the likelihood lies below that expected of a correct pose, [N].
        further: more columns, [N] each, by their names in the file.
    """

    R: np.ndarray | None = None
    t: np.ndarray | None = None
    half_set: np.ndarray | None = None
    class_number: np.ndarray | None = None
    log_likelihood: np.ndarray | None = None
    probability: np.ndarray | None = None
    angular_error_degrees: np.ndarray | None = None
    shift_error_angstrom: np.ndarray | None = None
    misfit: np.ndarray | None = None
    further: Mapping[str, np.ndarray] = field(default_factory=dict)

    def named(self) -> dict[str, np.ndarray]:
        """All arrays that are not None, by attribute or by the name in `further`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "further"}
        return {name: values for name, values in own.items() if values is not None} | dict(self.further)

    def take(self, rows: np.ndarray) -> ImageResults:
        """The results of some images, in the order given."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "further"}
        return ImageResults(
            **{name: None if values is None else values[rows] for name, values in own.items()},
            further={name: values[rows] for name, values in self.further.items()},
        )

    def check(self, count: int, path: Path) -> None:
        """Raise ValueError unless there is one finite value for each of the `count` images written to `path`."""
        if (self.R is None) != (self.t is None):
            raise ValueError("poses need both R and t")
        for name, values in self.named().items():
            if len(values) != count:
                raise ValueError(f"column {name} has {len(values)} values for the {count} rows written")
            if np.asarray(values).dtype.kind == "f":
                bad = np.flatnonzero(~np.isfinite(values).reshape(count, -1).all(1))
                if len(bad):
                    found = values[bad[0]]
                    raise ValueError(f"column {name} is {found} in row {bad[0] + 1} of {path}: expected finite numbers")


@dataclass(frozen=True, slots=True, eq=False)
class ParticleTable:
    """Metadata of N images of a particle file; pixels are not read.

    Attributes:
        path: path of the file; format: name of its format.
        stacks: names of the image files, as the particle file writes them.
        stack: stack of each image, index into `stacks`, int64 [N].
        index: index of each image in its stack, from 0, int64 [N]; -1 stands for the only image of its file.
        group: optics group of each image, index into `optics`, int64 [N].
        optics: one entry for each optics group.
        numbers: columns of numbers by quantity; those that the file does not have are absent.
        poses: orientations and shifts, parsed on demand.
        columns: every column of the file as text, by the file's own name, with a row for each row of the file.
        rows: row in the file of each image, from 0, int64 [N].
        lines: line in the file of each row of the file, from 1, int64; None for a file without lines.
        labels: column name of each quantity in this format, including those that the file does not have.
        stack_paths: where each of `stacks` was found; empty until then.
        corrected: columns whose sign in the file is not the format's, as the user stated, in the format's sign; they
            take the place of those in `numbers`, here and in files that are written.
        results: results of a run, written in place of the file's values.
        original: tables of the file that its own format needs to write it again; used by nothing else.
        unmodelled: effects on the images that the file states and the image model does not have.
        notes: oddities that do not prevent reading.
    """

    path: Path
    format: str
    stacks: tuple[str, ...]
    stack: np.ndarray
    index: np.ndarray
    group: np.ndarray
    optics: tuple[OpticsGroup, ...]
    numbers: Mapping[Quantity, Numbers]
    poses: PoseColumns
    columns: Mapping[str, Texts]
    rows: np.ndarray
    lines: np.ndarray | None
    labels: Mapping[Quantity, str]
    stack_paths: tuple[Path, ...] = ()
    corrected: Mapping[Quantity, Numbers] = field(default_factory=dict)
    results: ImageResults = field(default_factory=ImageResults)
    original: object = None
    unmodelled: tuple[UnmodelledEffect, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        groups = f"{len(self.optics)} optics group{'s' if len(self.optics) != 1 else ''}"
        stacks = f"{len(self.stacks):,} stack{'s' if len(self.stacks) != 1 else ''}"
        return f"ParticleTable({len(self):,} images in {stacks}, {groups}, {len(self.columns)} columns, '{self.path}')"

    def values(self, quantity: Quantity) -> np.ndarray | None:
        """A quantity of each image, float64 [N], or None where the file does not have it.

        Raises:
            BadInput: for values that are not finite numbers, with rows.
        """
        column = self.corrected.get(quantity, self.numbers.get(quantity))
        return None if column is None else column.read(self.rows)

    def label(self, quantity: Quantity) -> str:
        """Column name of a quantity, whether or not the file has it."""
        return self.numbers[quantity].label if quantity in self.numbers else self.labels.get(quantity, quantity)

    def texts(self, name: str) -> Texts:
        """A column of the file, by the file's own name, as text [N]."""
        return self.columns[name].take(self.rows)

    def take(self, rows: np.ndarray) -> ParticleTable:
        """Some images, in the order given; rows and lines still count in the file."""
        return replace(
            self,
            stack=self.stack[rows],
            index=self.index[rows],
            group=self.group[rows],
            rows=self.rows[rows],
            results=self.results.take(rows),
        )

    def place(self, images: np.ndarray) -> str:
        """Position of some images in the file, for messages: 'row 1, 2 (line 30, 31)'."""
        return place(self.rows[images], self.lines)

    def image_name(self, image: int | np.integer) -> str:
        """Name of one image, for messages: its number in the stack, from 1, and the stack's name."""
        name, index = self.stacks[self.stack[image]], int(self.index[image])
        return name if index < 0 else f"{index + 1:06d}@{name}"


def place(rows: np.ndarray, lines: np.ndarray | None) -> str:
    """Position of some rows of a file, counted from 0, for messages: 'row 1, 2 (line 30, 31)'."""
    words = f"row {listed((rows + 1).tolist())}"
    return words if lines is None else f"{words} (line {listed(lines[rows].tolist())})"
