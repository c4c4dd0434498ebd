"""A set of particle images on disk and what is known about each: the door through which all data comes in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from cryoloom.particles.checks import (
    data_flags,
    drop_duplicates,
    drop_unusable,
    group_frames,
    note_unused,
    particle_rows,
)
from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.image_names import ImagePlaces, locate_images
from cryoloom.particles.input_poses import InputPoses
from cryoloom.particles.optics import Rows, ctf_parameters, pixel_sizes
from cryoloom.particles.optics import no_ctf as unit_ctf
from cryoloom.particles.rescale import Rescaling
from cryoloom.particles.stack import read_images, stack_ends
from cryoloom.particles.star import read_star, write_star
from cryoloom.particles.star_output import relion31_tables
from cryoloom.particles.stated import StatedInput
from cryoloom.physics.ctf import CTFParameters
from cryoloom.physics.rotations import from_euler

if TYPE_CHECKING:
    from cryoloom.particles.feed import ImageFeed

MINIMUM_PARTICLES = 2
# below this many images no resolution or pose statistic is worth much
FEW_PARTICLES = 500


@dataclass(frozen=True, slots=True, eq=False)
class ParticleSet:
    """N particle images: their metadata in memory, their pixels on disk.

    Attributes:
        path: of the STAR file.
        table: every column of the particle block as text, in the original order.
        optics: the optics table as text, or None (RELION 3.0).
        box: side of the images as `read` returns them, pixels.
        pixel_size: of those images, angstrom.
        ctf: CTF parameters [N], float64.
        group: 0-based optics group [N], int64; group_names: of the groups.
        notes: what the user should be told about this input.
        rows: 0-based row in the file of each particle [N], int64 (rows may have been dropped); lines: its line there.
        places: stack and index of each image.
        rescaling: of each optics group whose images differ from `box` and `pixel_size`; None where none does.
        stated: what the user stated in place of the file.
        has_ctf: False where the CTF was switched off.
        ctf_premultiplied: images were multiplied by their CTF: an image is C^2 times its slice plus C times noise.
        phase_flipped: the signs of the CTF were corrected: an image is |C| times its slice.
    """

    path: Path
    table: pd.DataFrame
    optics: pd.DataFrame | None
    box: int
    pixel_size: float
    ctf: CTFParameters
    group: np.ndarray
    group_names: tuple[str, ...]
    notes: tuple[str, ...]
    rows: np.ndarray
    lines: np.ndarray
    places: ImagePlaces
    rescaling: tuple[Rescaling | None, ...]
    stated: StatedInput
    has_ctf: bool = True
    ctf_premultiplied: bool = False
    phase_flipped: bool = False

    def __len__(self) -> int:
        return len(self.table)

    def images(
        self,
        *,
        particle_diameter: float | None = None,
        box: int | None = None,
        device: str = "auto",
        seed: int = 1,
        cache_bytes: int = 384 << 20,
    ) -> ImageFeed:
        """The images as `cryoloom.search` and others take them: normalised Fourier coefficients with CTF and noise.

        Args:
            particle_diameter: longest extent of the particle, angstrom; estimated by default.
            box: working box in pixels, to which images are Fourier-cropped; by default that of the images.
            device: "auto" (a GPU if there is one), "cpu" or "cuda".
            seed: chooses the sample on which contrast, diameter and noise are measured.
            cache_bytes: memory for images that are kept; the others are read again when they are needed.

        Raises:
            BadInput: for a box or a diameter that can't be used with these images.
        """
        from cryoloom.particles.feed import feed_of  # it builds on this module

        return feed_of(
            self,
            particle_diameter_angstrom=particle_diameter,
            box=box,
            device=device,
            seed=seed,
            cache_bytes=cache_bytes,
        )

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Pixel values [B, D, D] float32 of some rows, in the order asked for.

        Reads with pread in the order of the files, so threads may call it at once. Values are those of the file, but
        for groups that are rescaled to the set's pixel size.

        Raises:
            BadInput: if a stack is gone or has changed its size.
        """
        rows = np.asarray(rows, dtype=np.int64)
        out = np.empty((len(rows), self.box, self.box), dtype=np.float32)
        stack, index, group = self.places.stack[rows], self.places.index[rows], self.group[rows]
        for s in np.unique(stack):
            header = self.places.stacks[s]
            for g in np.unique(group[stack == s]):
                mine = np.flatnonzero((stack == s) & (group == g))
                rescaling = self.rescaling[g]
                images = np.empty((len(mine), header.box, header.box), dtype=np.float32)
                read_images(header, index[mine], images)
                out[mine] = images if rescaling is None else rescaling.apply(images)
        return out

    def input_poses(self) -> InputPoses:
        """Poses written in the file.

        Raises:
            BadInput: if the columns of angles or shifts are absent or hold no numbers.
        """
        rows = self._rows()
        missing = [c for c in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi") if c not in self.table]
        if missing:
            raise BadInput.report(
                "The particles bring no poses.",
                file=self.path,
                found=f"no {listed(missing)}",
                fix="take the STAR file of a refinement, or let the poses be found",
            )
        angles = np.stack([rows.numbers(c) for c in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")], -1)
        if {"rlnOriginXAngst", "rlnOriginYAngst"} <= set(self.table):
            origin = np.stack([rows.numbers("rlnOriginXAngst"), rows.numbers("rlnOriginYAngst")], -1)
        elif {"rlnOriginX", "rlnOriginY"} <= set(self.table):
            origin = np.stack([rows.numbers("rlnOriginX"), rows.numbers("rlnOriginY")], -1)
            origin *= self.file_pixel_sizes()[:, None]
        else:
            raise BadInput.report(
                "The particles bring angles but no shifts.",
                file=self.path,
                expected="rlnOriginXAngst and rlnOriginYAngst (RELION 3.1), or rlnOriginX and rlnOriginY in pixels",
            )
        return InputPoses(from_euler(torch.from_numpy(angles)), torch.from_numpy(-origin))

    def half_sets(self) -> np.ndarray | None:
        """rlnRandomSubset, int64 [N] of 1 and 2, or None where the column is absent."""
        if "rlnRandomSubset" not in self.table:
            return None
        values = self._rows().numbers("rlnRandomSubset")
        bad = np.flatnonzero((values != 1) & (values != 2))
        if len(bad):
            raise BadInput.report(
                "rlnRandomSubset holds other values than 1 and 2.",
                file=self.path,
                where=self._rows().place(bad),
                found=listed([f"{values[i]:g}" for i in bad]),
            )
        return values.astype(np.int64)

    def fingerprint(self) -> str:
        """sha256 over the STAR file, which rows are used, and each stack's size, header, first and last image.

        Times of modification do not enter: a copy has the fingerprint of its original.
        """
        digest = hashlib.sha256(self.path.read_bytes())
        digest.update(self.rows.astype("<i8").tobytes())
        for header in self.places.stacks:
            digest.update(f"{header.size} {header.count} {header.box}".encode())
            for part in stack_ends(header):
                digest.update(part)
        return digest.hexdigest()

    def place(self, rows: np.ndarray) -> str:
        """Words for some rows of the set, with their rows and lines in the file."""
        return f"row {listed(list(self.rows[rows] + 1))} (line {listed(list(self.lines[rows]))})"

    def _rows(self) -> Rows:
        return Rows(
            path=self.path,
            table=self.table,
            lines=self.lines,
            optics=self.optics,
            group=self.group,
            group_names=self.group_names,
        )

    def file_pixel_sizes(self) -> np.ndarray:
        """Angstrom per pixel of each image in its file, before any rescaling, [N]."""
        headers = np.array([s.pixel_size for s in self.places.stacks])[self.places.stack]
        return pixel_sizes(self._rows(), headers, self.stated.pixel_size)

    def file_boxes(self) -> np.ndarray:
        """Side of each image in its file, before any rescaling, int64 [N]."""
        return np.array([s.box for s in self.places.stacks], dtype=np.int64)[self.places.stack]


def open_particles(path: Path | str, stated: StatedInput | None = None, *, scan: bool = True) -> ParticleSet:
    """Open a RELION STAR file (1.x to 5) and check everything that can be checked before computing.

    Args:
        path: of the STAR file.
        stated: what the user states in place of the file, and what to do with unusable images.
        scan: read all pixels once (about 0.05 CPU-s for 1000 images of 64 px) to find bad images now, not later.

    Raises:
        BadInput: naming file, row, what was found, what was expected and what to do.
    """
    path = Path(path)
    _check_format(path)
    star = read_star(path)
    stated = stated or StatedInput()
    rows = particle_rows(star)
    notes = list(star.notes)
    places = locate_images(rows, None if stated.datadir is None else Path(stated.datadir), notes)
    keep = np.ones(len(rows.table), dtype=bool)
    drop_duplicates(rows, places, stated.on_duplicates, keep, notes)
    note_unused(places, notes)
    frames = group_frames(rows, places, stated.pixel_size)
    ctf = unit_ctf(len(rows.table)) if stated.no_ctf else ctf_parameters(rows, stated, notes)
    if scan:
        drop_unusable(rows, places, stated.on_bad, keep, notes)
    if keep.sum() < MINIMUM_PARTICLES:
        raise BadInput.report(
            "There are too few particles.",
            file=path,
            found=f"{keep.sum()} of {len(keep)} rows are usable",
            expected=f"at least {MINIMUM_PARTICLES}",
        )
    if keep.sum() < FEW_PARTICLES:
        notes.append(f"Only {keep.sum()} particles: expect a map of low resolution, if any.")
    premultiplied, flipped = data_flags(rows, notes)
    box, size, rescaling = frames.common(notes)
    used = np.flatnonzero(keep)
    return ParticleSet(
        path=path,
        table=rows.table if keep.all() else rows.table.iloc[used].reset_index(drop=True),
        optics=rows.optics,
        box=box,
        pixel_size=size,
        ctf=ctf[torch.from_numpy(used)],
        group=rows.group[used],
        group_names=rows.group_names,
        notes=tuple(notes),
        rows=used,
        lines=rows.lines[used],
        places=ImagePlaces(places.stacks, places.stack[used], places.index[used]),
        rescaling=rescaling,
        stated=stated,
        has_ctf=not stated.no_ctf,
        ctf_premultiplied=premultiplied,
        phase_flipped=flipped,
    )


def _check_format(path: Path) -> None:
    if path.suffix in (".cs", ".csg"):
        raise BadInput.report(
            "cryoSPARC files can't be read yet.",
            file=path,
            expected="a RELION STAR file",
            fix="convert it with csparc2star.py (pyem)",
        )
    if path.suffix != ".star":
        raise BadInput.report(
            "The particles must be given as a STAR file.",
            file=path,
            found=f"a name that ends in {path.suffix!r}",
            expected="a name that ends in .star",
        )


def write_particles(
    path: Path | str, particles: ParticleSet, columns: dict[str, np.ndarray], rows: np.ndarray | None = None
) -> None:
    """Write a RELION 3.1 STAR file: optics and particles, every column and the row order kept, atomically.

    Args:
        path: of the new file; its folder must exist.
        columns: added or put in place of old ones; name (without underscore) to values for the rows written. Numbers
            are written with six decimals, integers and text as they are.
        rows: of the set that are written, in that order; all if left out.

    Raises:
        BadInput: if the folder can't be written.
        ValueError: for columns of the wrong length.
    """
    path = Path(path)
    chosen = np.arange(len(particles)) if rows is None else np.asarray(rows, dtype=np.int64)
    optics, table = relion31_tables(path, particles, columns, chosen)
    try:
        write_star(path, [("optics", optics), ("particles", table)])
    except OSError as e:
        raise BadInput.report(
            "The particle file can't be written.", file=path, found=e.strerror, fix="choose another folder"
        ) from None
