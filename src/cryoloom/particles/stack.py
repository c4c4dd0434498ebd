"""MRC image stacks: headers are checked before memory is allocated, and images are read with pread.

Format: MRC2014, Cheng et al., J. Struct. Biol. 192 (2015) 146. A memory-mapped file that is truncated while it is read
kills the process, whereas a short pread can be reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.files.mrc import (
    HEADER_BYTES,
    ORDER_NAMES,
    OTHER_PIXEL_TYPES,
    PIXEL_TYPES,
    MeaninglessHeader,
    MrcHeader,
)
from cryoloom.particles.errors import BadInput

_MAGIC = (
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"PK\x03\x04", "a zip file"),
    (b"II*\x00", "a TIFF file"),
    (b"MM\x00*", "a TIFF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x89PNG", "a PNG file"),
)
# box sides beyond this are not particle images but a misread header
_MAX_SIDE = 16384
_READ_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class StackHeader:
    """What is needed to read a stack.

    Attributes:
        path: path of the file.
        box: side of the square images, pixels.
        count: number of images.
        dtype: pixel type with its byte order.
        offset: byte at which the first image begins.
        size: size of the file in bytes.
        pixel_size: pixel size in the header, angstrom; 0 if unset or implausible.
        notes: oddities that do not prevent reading, without the file's name.
    """

    path: Path
    box: int
    count: int
    dtype: np.dtype
    offset: int
    size: int
    pixel_size: float
    notes: tuple[str, ...]

    @property
    def image_bytes(self) -> int:
        """Bytes of one image in the file."""
        return self.box * self.box * self.dtype.itemsize


def read_header(path: Path | str) -> StackHeader:
    """Header of an MRC stack (mode 0, 1, 2, 6 or 12; either byte order), checked against the size of the file.

    Raises:
        BadInput: for files that are not MRC stacks, unknown modes, images that are not square, absurd dimensions or
            extended headers, and files shorter than their header says.
    """
    path = Path(path)
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            raw = f.read(HEADER_BYTES)
    except FileNotFoundError:
        raise BadInput.report("An image stack is missing.", file=path, fix="give its folder with --datadir") from None
    except OSError as e:
        raise BadInput.report("An image stack can't be read.", file=path, found=e.strerror) from None
    _check_kind(path, raw, size)
    header = _parse(path, raw)
    notes = _stamp_notes(header)
    dtype = _pixel_type(path, header)
    _check_shape(path, header)
    (nz, ny, nx), extended = header.shape, header.extended_bytes
    # Python integers: no overflow, nothing allocated
    expected = HEADER_BYTES + extended + nx * ny * nz * dtype.itemsize
    if extended < 0 or HEADER_BYTES + extended > size:
        raise BadInput.report(
            "The extended header of the stack is impossible.",
            file=path,
            found=f"{extended} bytes in a file of {size} bytes",
            fix="the header is damaged: copy the file again",
        )
    if size < expected:
        raise BadInput.report(
            "The image stack is truncated.",
            file=path,
            found=f"{size} bytes",
            expected=f"{expected} bytes for {nz} images of {nx} x {ny} pixels, {dtype.itemsize} bytes each",
            fix="copy the file again",
        )
    if size > expected:
        notes.append(f"{size - expected} bytes follow the last image; they are ignored.")
    return StackHeader(
        path=path,
        box=nx,
        count=nz,
        dtype=dtype,
        offset=HEADER_BYTES + extended,
        size=size,
        pixel_size=_pixel_size(header),
        notes=tuple(notes),
    )


def _check_kind(path: Path, raw: bytes, size: int) -> None:
    if size == 0:
        raise BadInput.report("The image stack is empty.", file=path, found="0 bytes", fix="copy the file again")
    for magic, kind in _MAGIC:
        if raw.startswith(magic):
            fix = "unpack it first" if kind.split()[-2] in ("gzip", "bzip2", "xz", "zstd", "zip") else None
            raise BadInput.report(
                f"The image stack is {kind}, not an MRC file.", file=path, expected="an MRC stack", fix=fix
            )
    if not raw.strip(b"\t\n\r\f") or all(32 <= b < 127 or b in b"\t\n\r\f" or b >= 192 for b in raw):
        raise BadInput.report(
            "The image stack is a text file, not an MRC file.",
            file=path,
            found=repr(raw[:40].decode("latin-1")),
            fix="check which file was renamed",
        )
    if size < HEADER_BYTES:
        raise BadInput.report(
            "The header of the image stack is cut short.",
            file=path,
            found=f"{size} bytes",
            expected=f"at least {HEADER_BYTES} bytes",
            fix="copy the file again",
        )


def _parse(path: Path, raw: bytes) -> MrcHeader:
    try:
        return MrcHeader.parse(raw)
    except MeaninglessHeader as error:
        raise BadInput.report(
            "The file is not an MRC stack: its header makes no sense in either byte order.",
            file=path,
            found=str(error),
            expected=f"positive dimensions and mode {_modes()}",
            fix="check the path, or copy the file again",
        ) from None


def _modes() -> str:
    *first, last = (str(mode) for mode in PIXEL_TYPES)
    return f"{', '.join(first)} or {last}"


def _stamp_notes(header: MrcHeader) -> list[str]:
    """A note if the byte-order stamp differs from the order in which the header makes sense."""
    if header.stated_order == header.order:
        return []
    said = f"is 0x{header.stamp.hex()}" if header.stated_order is None else "says the opposite"
    return [
        f"the byte-order stamp {said}; read as {ORDER_NAMES[header.order]}-endian, which makes the header plausible."
    ]


def _pixel_type(path: Path, header: MrcHeader) -> np.dtype:
    if header.mode in OTHER_PIXEL_TYPES:
        raise BadInput.report(
            "The pixel type of the stack is not supported.",
            file=path,
            found=f"MRC mode {header.mode}, {OTHER_PIXEL_TYPES[header.mode]}",
            expected=f"mode {_modes()} (int8, int16, float32, uint16, float16)",
            fix="convert it, e.g. with: relion_image_handler or newstack -mode 2",
        )
    return header.pixel_type


def _check_shape(path: Path, header: MrcHeader) -> None:
    nz, ny, nx = header.shape
    if nx != ny:
        raise BadInput.report(
            "The images of the stack are not square.",
            file=path,
            found=f"{nx} x {ny} pixels, {nz} images",
            expected="square images",
            fix="extract the particles again in square boxes",
        )
    if nx > _MAX_SIDE:
        raise BadInput.report(
            "The header of the stack claims absurd dimensions.",
            file=path,
            found=f"{nx} x {ny} x {nz}",
            expected=f"sides up to {_MAX_SIDE} pixels",
            fix="the header is damaged: copy the file again",
        )
    if header.axes not in ((1, 2, 3), (0, 0, 0)):
        raise BadInput.report(
            "The axes of the stack are permuted.",
            file=path,
            found=f"MAPC, MAPR, MAPS = {header.axes}",
            expected="1, 2, 3",
            fix="write the stack again with its images as sections",
        )


def _pixel_size(header: MrcHeader) -> float:
    size = header.voxel_angstrom[0]
    return size if 0.05 < size < 100 else 0.0


def stack_ends(header: StackHeader) -> Iterator[bytes]:
    """Bytes of the header, the first image and the last image, for a fingerprint of the stack.

    Raises:
        BadInput: if the file is gone or has changed its size.
    """
    handle = _open(header)
    try:
        yield os.pread(handle, HEADER_BYTES, 0)
        for image in (0, header.count - 1):
            yield _read_run(handle, header, image, 1).tobytes()
    finally:
        os.close(handle)


def _open(header: StackHeader) -> int:
    try:
        handle = os.open(header.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as e:
        raise BadInput.report("An image stack can't be opened any more.", file=header.path, found=e.strerror) from None
    try:
        _check_size(header, os.fstat(handle).st_size)
    except BadInput:
        os.close(handle)
        raise
    return handle


def read_images(header: StackHeader, indices: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` [B, D, D] float32 with the images of 0-based `indices`; runs of neighbours are read together.

    Raises:
        BadInput: if the file is gone, has shrunk or changed its size since its header was read.
    """
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    most = max(1, _READ_BYTES // header.image_bytes)
    handle = _open(header)
    try:
        start = 0
        while start < len(ordered):
            stop = start + 1
            while stop < len(ordered) and ordered[stop] == ordered[stop - 1] + 1 and stop - start < most:
                stop += 1
            out[order[start:stop]] = _read_run(handle, header, int(ordered[start]), stop - start)
            start = stop
    finally:
        os.close(handle)


def _check_size(header: StackHeader, size: int) -> None:
    """Raise BadInput unless the file has the size that it had when it was opened."""
    if size != header.size:
        raise BadInput.report(
            "An image stack changed while it was in use.",
            file=header.path,
            found=f"{size} bytes",
            expected=f"{header.size} bytes, as when it was opened",
            fix="let nothing write to the stack during the run; restore it and resume",
        )


def _read_run(handle: int, header: StackHeader, first: int, count: int) -> np.ndarray:
    wanted = count * header.image_bytes
    buffer = bytearray(wanted)
    view, got = memoryview(buffer), 0
    while got < wanted:
        position = header.offset + first * header.image_bytes + got
        n = os.preadv(handle, [view[got:]], position)
        if n == 0:  # the file ends here, before the size that was checked a moment ago
            _check_size(header, position)
        got += n
    return np.frombuffer(buffer, dtype=header.dtype).reshape(count, header.box, header.box)
