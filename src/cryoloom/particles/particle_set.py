"""A set of particle images on disk with the metadata of each; all data enter the program here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cryoloom.particles.checks import (
    GroupFrames,
    data_flags,
    drop_duplicates,
    drop_unusable,
    group_frames,
    note_unused,
)
from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.formats import format_of
from cryoloom.particles.image_names import ImagePlaces, find_stacks, locate_images, note_folders
from cryoloom.particles.input_poses import InputPoses
from cryoloom.particles.optics import ctf_parameters, pixel_sizes, with_stated_signs
from cryoloom.particles.optics import no_ctf as unit_ctf
from cryoloom.particles.rescale import Rescaling
from cryoloom.particles.stack import read_images, stack_ends
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.table import ImageResults, OpticsGroup, ParticleTable
from cryoloom.physics.ctf import CTFParameters

if TYPE_CHECKING:
    from cryoloom.particles.feed import ImageFeed

MINIMUM_PARTICLES = 2
# below this number of images, resolution and pose statistics mean little
FEW_PARTICLES = 500


@dataclass(frozen=True, slots=True, eq=False)
class ParticleSet:
    """N particle images: their metadata in memory, their pixels on disk.

    Attributes:
        table: metadata of the images in use, with optics groups and stacks as they were found.
        box: side of the images as `read` returns them, pixels.
        pixel_size: pixel size of those images, angstrom.
        ctf: CTF parameters [N], float64.
        notes: what the user should be told about this input.
        places: stack and index of each image.
        rescaling: how images of each optics group are brought to `box` and `pixel_size`; None if unchanged.
        stated: values stated by the user, which replace those of the file.
        has_ctf: False where the CTF was switched off.
        ctf_premultiplied: images were multiplied by their CTF: an image is C^2 times its slice plus C times noise.
        phase_flipped: the signs of the CTF were corrected: an image is |C| times its slice.
    """

    table: ParticleTable
    box: int
    pixel_size: float
    ctf: CTFParameters
    notes: tuple[str, ...]
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
        cache_bytes: int = 1 << 30,
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

    def __repr__(self) -> str:
        groups = f"{len(self.group_names)} optics group{'s' if len(self.group_names) != 1 else ''}"
        return (
            f"ParticleSet({len(self):,} images of {self.box} px, {self.pixel_size:.2f} Å/px, {groups}, '{self.path}')"
        )

    @property
    def path(self) -> Path:
        """The particle file."""
        return self.table.path

    @property
    def group(self) -> np.ndarray:
        """Optics group of each image, counted from 0, int64 [N]."""
        return self.table.group

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the optics groups."""
        return tuple(group.name for group in self.table.optics)

    @property
    def rows(self) -> np.ndarray:
        """Row of each image in the particle file, counted from 0, int64 [N]; some rows may have been dropped."""
        return self.table.rows

    def take(self, rows: np.ndarray) -> ParticleSet:
        """The set of some of the images, in the order given; rows of the file are counted as before."""
        rows = np.asarray(rows, dtype=np.int64)
        return replace(
            self, table=self.table.take(rows), ctf=self.ctf[torch.from_numpy(rows)], places=self.places.take(rows)
        )

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Pixel values [B, D, D] float32 of some images, in the order asked for.

        Reads with pread in the order of the files, so threads may call it at once. Values are those of the file, except
        in groups that are rescaled to the set's pixel size.

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
        """Poses written in the particle file, R [N, 3, 3] and t [N, 2] in angstrom; parsed at each call.

        Raises:
            BadInput: if the file has no orientations or shifts, or they are not numbers.
        """
        return InputPoses.of_table(self.table, self.file_pixel_sizes())

    def half_sets(self) -> np.ndarray | None:
        """Half set of each image in the particle file, int64 [N] of 1 and 2; None if the file has none.

        Raises:
            BadInput: for other values, with rows.
        """
        values = self.table.values("half_set")
        if values is None:
            return None
        bad = np.flatnonzero((values != 1) & (values != 2))
        if len(bad):
            raise BadInput.report(
                f"{self.table.label('half_set')} has values other than 1 and 2.",
                file=self.path,
                where=self.place(bad),
                found=listed([f"{values[i]:g}" for i in bad]),
            )
        return values.astype(np.int64)

    def fingerprint(self) -> str:
        """sha256 over the particle file, which rows are used, and each stack's size, header, first and last image.

        Modification times are not included: a copy has the fingerprint of its original.
        """
        digest = hashlib.sha256(self.path.read_bytes())
        digest.update(self.rows.astype("<i8").tobytes())
        for header in self.places.stacks:
            digest.update(f"{header.size} {header.count} {header.box}".encode())
            for part in stack_ends(header):
                digest.update(part)
        return digest.hexdigest()

    def place(self, rows: np.ndarray) -> str:
        """Rows and lines in the file of some images of the set, for messages."""
        return self.table.place(rows)

    def file_pixel_sizes(self) -> np.ndarray:
        """Pixel size of each image in its file, before any rescaling, angstrom, [N]."""
        headers = np.array([s.pixel_size for s in self.places.stacks])[self.places.stack]
        return pixel_sizes(self.table, headers, self.stated.pixel_size)


def open_particles(path: Path | str, stated: StatedInput | None = None, *, scan: bool = True) -> ParticleSet:
    """Open a particle file of any known format and check everything that can be checked before computing.

    Args:
        path: path of the particle file; its suffix determines the format (`particles.formats`).
        stated: values that replace those of the file, and what to do with unusable images.
        scan: read all pixels once (about 0.05 CPU-s for 1000 images of 64 px) to find bad images now instead of later.

    Raises:
        BadInput: naming file, row, what was found, what was expected and what to do.
    """
    path, stated = Path(path), stated or StatedInput()
    table = with_stated_signs(read_table(path), stated)
    notes = [f"Not part of the image model, which may limit the resolution: {e}." for e in table.unmodelled]
    notes += table.notes
    paths = find_stacks(table, None if stated.datadir is None else Path(stated.datadir))
    places = locate_images(table, paths, notes)
    if stated.datadir is None:
        note_folders(table, paths, notes)
    keep = np.ones(len(table), dtype=bool)
    drop_duplicates(table, places, stated.on_duplicates, keep, notes)
    note_unused(places, notes)
    frames = group_frames(table, places, stated.pixel_size)
    ctf = unit_ctf(len(table)) if stated.no_ctf else ctf_parameters(table, stated, notes)
    if scan:
        drop_unusable(table, places, stated.on_bad, keep, notes)
    _check_count(path, int(keep.sum()), len(keep), notes)
    premultiplied, flipped = data_flags(table, notes)
    box, size, rescaling = frames.common(notes)
    used = np.flatnonzero(keep)
    ctf = ctf[torch.from_numpy(used)]
    used_table = replace(table.take(used), stack_paths=paths)
    return ParticleSet(
        table=replace(used_table, optics=_resolved_optics(used_table, frames, None if stated.no_ctf else ctf)),
        box=box,
        pixel_size=size,
        ctf=ctf,
        notes=tuple(notes),
        places=places.take(used),
        rescaling=rescaling,
        stated=stated,
        has_ctf=not stated.no_ctf,
        ctf_premultiplied=premultiplied,
        phase_flipped=flipped,
    )


def read_table(path: Path | str) -> ParticleTable:
    """The table of a particle file of any known format; its images need not exist.

    Raises:
        BadInput: for an unknown format or faults of the file, with the place in it.
    """
    return format_of(Path(path)).read(Path(path))


def _check_count(path: Path, usable: int, rows: int, notes: list[str]) -> None:
    if usable < MINIMUM_PARTICLES:
        raise BadInput.report(
            "There are too few particles.",
            file=path,
            found=f"{usable} of {rows} rows are usable",
            expected=f"at least {MINIMUM_PARTICLES}",
        )
    if usable < FEW_PARTICLES:
        notes.append(f"Only {usable} particles: expect a map of low resolution, if any.")


def _resolved_optics(table: ParticleTable, frames: GroupFrames, ctf: CTFParameters | None) -> tuple[OpticsGroup, ...]:
    """The optics groups with box and pixel size as found, and the microscope of each group's first image."""
    found = []
    for g, group in enumerate(table.optics):
        mine = np.flatnonzero(table.group == g)
        if not len(mine):
            found.append(group)
            continue
        i = int(mine[0])
        microscope = (
            {}
            if ctf is None
            else {
                "voltage_kv": float(ctf.voltage_kv[i]),
                "spherical_aberration_mm": float(ctf.spherical_aberration_mm[i]),
                "amplitude_contrast": float(ctf.amplitude_contrast[i]),
            }
        )
        found.append(replace(group, pixel_size=frames.pixel_sizes[g], box=frames.boxes[g], **microscope))
    return tuple(found)


def write_particles(
    path: Path | str, particles: ParticleSet, results: ImageResults, rows: np.ndarray | None = None
) -> None:
    """Write a particle file in the format of its suffix: every column and the row order kept, atomically.

    Args:
        path: path of the new file; its folder must exist.
        results: values for the images written, which replace those of the file or are added to them.
        rows: images of the set to be written, in that order; all if left out.

    Raises:
        BadInput: if the file can't be written.
        ValueError: for results of the wrong length, or that are not finite.
    """
    path = Path(path)
    table = particles.table if rows is None else particles.table.take(np.asarray(rows, dtype=np.int64))
    try:
        format_of(path).write(path, replace(table, results=results))
    except OSError as e:
        raise BadInput.report(
            "The particle file can't be written.", file=path, found=e.strerror, fix="choose another folder"
        ) from None
