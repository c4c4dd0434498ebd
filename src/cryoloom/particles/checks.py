"""What is checked, noted or dropped when a set of particles is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.image_names import ImagePlaces
from cryoloom.particles.optics import pixel_sizes
from cryoloom.particles.rescale import Rescaling, common_frame
from cryoloom.particles.scan import HOT_SIGMA, scan_pixels
from cryoloom.particles.table import ParticleTable, Quantity


def drop_duplicates(
    table: ParticleTable,
    places: ImagePlaces,
    on_duplicates: Literal["error", "keep", "drop"],
    keep: np.ndarray,
    notes: list[str],
) -> None:
    """Refuse, keep or drop (from `keep` [N] bool) rows that repeat an image of an earlier row; adds to `notes`."""
    _, first, inverse = np.unique(places.keys, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(inverse)))
    if not len(again):
        return
    if on_duplicates == "error":
        raise BadInput.report(
            f"{len(again)} row(s) repeat an image of an earlier row.",
            file=table.path,
            where=table.place(again),
            found=listed([table.image_name(i) for i in again]),
            expected="each image once: an image in both half sets makes their agreement meaningless",
            fix="state --on-duplicates drop (the first is kept) or --on-duplicates keep",
        )
    done = "dropped" if on_duplicates == "drop" else "kept"
    notes.append(f"{len(again)} rows repeat an image of an earlier row; they are {done}.")
    if on_duplicates == "drop":
        keep[again] = False


def drop_unusable(
    table: ParticleTable, places: ImagePlaces, on_bad: Literal["error", "drop"], keep: np.ndarray, notes: list[str]
) -> None:
    """Refuse images with NaN, infinities or no contrast, or drop them from `keep` [N] bool; note hot pixels."""
    scan = scan_pixels(places)
    kinds = ((scan.not_finite, "NaN or infinite pixels"), (scan.constant, "the same value in every pixel"))
    found = [(np.flatnonzero(bad), kind) for bad, kind in kinds if bad.any()]
    faults = [f"{len(bad)} image(s) with {kind}: {table.place(bad)}" for bad, kind in found]
    if faults and on_bad == "error":
        raise BadInput.report(
            "Some images can't be used.",
            file=table.path,
            where="; ".join(faults),
            expected="finite pixels with some contrast",
            fix="state --on-bad drop to leave these images out",
        )
    notes += [f"Dropped: {fault}." for fault in faults]
    keep &= ~(scan.not_finite | scan.constant)
    hot = np.flatnonzero(scan.hot & keep)
    if len(hot):
        notes.append(
            f"{len(hot)} image(s) have pixels beyond {HOT_SIGMA:g} s.d.; they are clipped: {table.place(hot)}."
        )


def note_unused(places: ImagePlaces, notes: list[str]) -> None:
    """Note that stacks hold more images than the rows name."""
    held = sum(s.count for s in places.stacks)
    used = len(np.unique(places.keys))
    if used != held:
        rows = len(places.stack)
        notes.append(f"The {rows} rows name {used} of the {held} images in the stack(s); the others are unused.")


def data_flags(table: ParticleTable, notes: list[str]) -> tuple[bool, bool]:
    """Whether the file says that its images are CTF-premultiplied, and that their phases were flipped.

    Raises:
        BadInput: where this holds for some images only.
    """
    flags = []
    kinds: tuple[tuple[Quantity, str], ...] = (
        ("ctf_premultiplied", "premultiplied by their CTF"),
        ("phase_flipped", "phase-flipped"),
    )
    for quantity, kind in kinds:
        values = table.values(quantity)
        on = np.zeros(len(table), dtype=np.bool_) if values is None else values != 0
        if on.any() and not on.all():
            raise BadInput.report(
                f"Only some of the images are {kind}.",
                file=table.path,
                where=f"column {table.label(quantity)}",
                fix="process the groups separately",
            )
        flags.append(bool(on.any()))
        if flags[-1]:
            notes.append(f"The images are {kind}, according to {table.label(quantity)}.")
    return flags[0], flags[1]


@dataclass(frozen=True, slots=True)
class GroupFrames:
    """Box (pixels) and pixel size (angstrom) of each optics group; 0 where a group has no images."""

    boxes: tuple[int, ...]
    pixel_sizes: tuple[float, ...]
    names: tuple[str, ...]

    def common(self, notes: list[str]) -> tuple[int, float, tuple[Rescaling | None, ...]]:
        """Box and pixel size of the set, and how each group is rescaled to them; noted in `notes`."""
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


def group_frames(table: ParticleTable, places: ImagePlaces, pixel_size: float | None) -> GroupFrames:
    """Box and pixel size of each group, from stacks and particle file, which must agree."""
    headers = places.stacks
    box = np.array([s.box for s in headers])[places.stack]
    sizes = pixel_sizes(table, np.array([s.pixel_size for s in headers])[places.stack], pixel_size)
    stated = table.values("box")
    if stated is not None:
        differ = np.flatnonzero(stated != box)
        if len(differ):
            i = differ[0]
            raise BadInput.report(
                "The particle file and the image stack disagree on the box.",
                file=table.path,
                where=f"{table.place(differ)}, stack {headers[places.stack[i]].path}",
                found=f"{table.label('box')} {stated[i]:g} in the particle file, {box[i]} pixels in the stack",
                expected="one box",
                fix="check that this particle file belongs to this stack; were the images rescaled?",
            )
    boxes, pixels = [], []
    for g, group in enumerate(table.optics):
        mine = table.group == g
        if not mine.any():
            boxes.append(0)
            pixels.append(0.0)
            continue
        if len(set(box[mine])) > 1 or np.ptp(sizes[mine]) > 1e-4 * sizes[mine].min():
            raise BadInput.report(
                "The images of one optics group differ in box or pixel size.",
                file=table.path,
                where=f"optics group {group.name}",
                found=f"boxes {listed(sorted(set(box[mine])))}, pixel sizes {listed(sorted(set(sizes[mine])))}",
                fix="give them optics groups of their own",
            )
        boxes.append(int(box[mine][0]))
        pixels.append(float(sizes[mine][0]))
    return GroupFrames(tuple(boxes), tuple(pixels), tuple(g.name for g in table.optics))
