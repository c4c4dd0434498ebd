"""What is checked, said or dropped when a set of particles is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.image_names import ImagePlaces
from cryoloom.particles.optics import Rows, assign_groups, pixel_sizes
from cryoloom.particles.rescale import Rescaling, common_frame
from cryoloom.particles.scan import HOT_SIGMA, scan_pixels
from cryoloom.particles.star import StarBlock, StarFile


def particle_rows(star: StarFile) -> Rows:
    """The particle table of a STAR file with its optics groups.

    The table is data_particles (RELION 3.1 and later) or else the only one with image names (3.0: data_images, data_).
    """
    block = star.block("particles") or _only_block_with_images(star)
    optics = star.block("optics")
    if "rlnTomoName" in block.table or "rlnTomoParticleName" in block.table:
        raise BadInput.report(
            "The STAR file describes tomographic particles, not single images.",
            file=star.path,
            found="rlnTomoName or rlnTomoParticleName",
            expected="one image for each row",
        )
    optics_table = None if optics is None else optics.table
    group, names = assign_groups(star.path, block.table, block.lines, optics_table)
    return Rows(
        path=star.path, table=block.table, lines=block.lines, optics=optics_table, group=group, group_names=names
    )


def _only_block_with_images(star: StarFile) -> StarBlock:
    found = [b for b in star.blocks if "rlnImageName" in b.table]
    if len(found) == 1:
        return found[0]
    raise BadInput.report(
        "The STAR file holds no particles." if not found else "The STAR file holds more than one table of images.",
        file=star.path,
        found="blocks " + listed([f"data_{b.name}" for b in star.blocks], 20),
        expected="data_particles, or one table with a column rlnImageName",
    )


def drop_duplicates(
    rows: Rows, places: ImagePlaces, on_duplicates: Literal["error", "keep", "drop"], keep: np.ndarray, notes: list[str]
) -> None:
    """Rows that name an image already named: refused, kept or taken out of `keep` [N] bool; said in `notes`."""
    _, first, inverse = np.unique(places.keys, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(inverse)))
    if not len(again):
        return
    if on_duplicates == "error":
        raise BadInput.report(
            f"{len(again)} row(s) name an image that an earlier row names.",
            file=rows.path,
            where=rows.place(again),
            found=listed([rows.table["rlnImageName"].iloc[i] for i in again]),
            expected="each image once: an image in both half sets makes their agreement meaningless",
            fix="state --on-duplicates drop (the first is kept) or --on-duplicates keep",
        )
    done = "dropped" if on_duplicates == "drop" else "kept"
    notes.append(f"{len(again)} rows repeat an image of an earlier row; they are {done}.")
    if on_duplicates == "drop":
        keep[again] = False


def drop_unusable(
    rows: Rows, places: ImagePlaces, on_bad: Literal["error", "drop"], keep: np.ndarray, notes: list[str]
) -> None:
    """Images with NaN, infinities or no contrast: refused or taken out of `keep` [N] bool; hot pixels are said."""
    scan = scan_pixels(places)
    kinds = ((scan.not_finite, "NaN or infinite pixels"), (scan.constant, "the same value in every pixel"))
    found = [(np.flatnonzero(bad), kind) for bad, kind in kinds if bad.any()]
    faults = [f"{len(bad)} image(s) with {kind}: {rows.place(bad)}" for bad, kind in found]
    if faults and on_bad == "error":
        raise BadInput.report(
            "Some images can't be used.",
            file=rows.path,
            where="; ".join(faults),
            expected="finite pixels with some contrast",
            fix="state --on-bad drop to leave these images out",
        )
    notes += [f"Dropped: {fault}." for fault in faults]
    keep &= ~(scan.not_finite | scan.constant)
    hot = np.flatnonzero(scan.hot & keep)
    if len(hot):
        notes.append(f"{len(hot)} image(s) have pixels beyond {HOT_SIGMA:g} s.d.; they are clipped: {rows.place(hot)}.")


def note_unused(places: ImagePlaces, notes: list[str]) -> None:
    """Says where stacks hold more images than the rows name."""
    held = sum(s.count for s in places.stacks)
    used = len(np.unique(places.keys))
    if used != held:
        rows = len(places.stack)
        notes.append(f"The {rows} rows name {used} of the {held} images in the stack(s); the others are unused.")


def data_flags(rows: Rows, notes: list[str]) -> tuple[bool, bool]:
    """Whether the columns say that images are CTF-premultiplied, and that their phases were flipped.

    Raises:
        BadInput: where some groups are so and others are not.
    """
    flags = []
    for columns, said in (
        (("rlnCtfDataAreCtfPremultiplied", "rlnCtfPremultiplied"), "premultiplied by their CTF"),
        (("rlnCtfDataArePhaseFlipped",), "phase-flipped"),
    ):
        column = next((c for c in columns if rows.has(c)), None)
        values = np.zeros(len(rows.table)) if column is None else rows.numbers(column)
        if len(set(values != 0)) > 1:
            raise BadInput.report(
                f"Only some of the images are {said}.",
                file=rows.path,
                where=f"column {column}",
                fix="process the groups apart",
            )
        flags.append(bool(values.any()))
        if flags[-1]:
            notes.append(f"The images are {said}, says {column}.")
    return flags[0], flags[1]


@dataclass(frozen=True, slots=True)
class GroupFrames:
    """Box (pixels) and pixel size (angstrom) of each optics group; 0 where a group has no images."""

    boxes: tuple[int, ...]
    pixel_sizes: tuple[float, ...]
    names: tuple[str, ...]

    def common(self, notes: list[str]) -> tuple[int, float, tuple[Rescaling | None, ...]]:
        """Box, pixel size and how each group is brought there; said in `notes`."""
        used = [i for i, b in enumerate(self.boxes) if b]
        box, size = common_frame([self.boxes[i] for i in used], [self.pixel_sizes[i] for i in used])
        rescaling: list[Rescaling | None] = [None] * len(self.boxes)
        for i in used:
            b, s = self.boxes[i], self.pixel_sizes[i]
            if b != box or abs(s / size - 1) > 1e-4:
                rescaling[i] = Rescaling.create(b, s, box, size)
                done = f"{b} px of {s:.4f} angstrom rescaled to {box} px of {size:.4f}"
                notes.append(f"Optics group {self.names[i]}: {done}.")
        return box, size, tuple(rescaling)


def group_frames(rows: Rows, places: ImagePlaces, pixel_size: float | None) -> GroupFrames:
    """Box and pixel size of each group, from stacks and STAR file, which must agree."""
    headers = places.stacks
    box = np.array([s.box for s in headers])[places.stack]
    sizes = pixel_sizes(rows, np.array([s.pixel_size for s in headers])[places.stack], pixel_size)
    if rows.has("rlnImageSize"):
        stated = rows.numbers("rlnImageSize")
        differ = np.flatnonzero(stated != box)
        if len(differ):
            i = differ[0]
            raise BadInput.report(
                "The STAR file and the image stack disagree on the box.",
                file=rows.path,
                where=f"{rows.place(differ)}, stack {headers[places.stack[i]].path}",
                found=f"rlnImageSize {stated[i]:g} in the STAR file, {box[i]} pixels in the stack",
                expected="one box",
                fix="check that this STAR file belongs to this stack; were the images rescaled?",
            )
    boxes, pixels = [], []
    for g, name in enumerate(rows.group_names):
        mine = rows.group == g
        if not mine.any():
            boxes.append(0)
            pixels.append(0.0)
            continue
        if len(set(box[mine])) > 1 or np.ptp(sizes[mine]) > 1e-4 * sizes[mine].min():
            raise BadInput.report(
                "The images of one optics group differ in box or pixel size.",
                file=rows.path,
                where=f"optics group {name}",
                found=f"boxes {listed(sorted(set(box[mine])))}, pixel sizes {listed(sorted(set(sizes[mine])))}",
                fix="put them into optics groups of their own",
            )
        boxes.append(int(box[mine][0]))
        pixels.append(float(sizes[mine][0]))
    return GroupFrames(tuple(boxes), tuple(pixels), rows.group_names)
