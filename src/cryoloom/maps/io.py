"""Density maps on disk: MRC/CCP4 (plain, gzip, bzip2) to `DensityMap` and back.

The header is checked against the size of the file before memory is allocated: a corrupt header may state any size.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from cryoloom.files.durable import durable_file
from cryoloom.files.mrc import (
    HEADER_BYTES,
    ORDER_NAMES,
    OTHER_PIXEL_TYPES,
    PIXEL_TYPES,
    MeaninglessHeader,
    MrcHeader,
    PixelStatistics,
    new_header,
)

log = logging.getLogger(__name__)

_LONGEST_SIDE = 65536
# deflate can't expand beyond 1032:1; up to 64 MiB any ratio is harmless
_EXPANSION, _HARMLESS_BYTES = 1032, 64 * 2**20
_PIXEL_RANGE = (0.05, 200.0)
_LABEL = "cryoloom: density map"


@dataclass(frozen=True, slots=True, repr=False)
class DensityMap:
    """A density map.

    Attributes:
        data: float32 [z, y, x].
        pixel_size: side of the cubic voxel, angstrom.
        origin_angstrom: (x, y, z) of the centre of voxel [0, 0, 0] in the frame of the file.
    """

    data: Tensor
    pixel_size: float
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __repr__(self) -> str:
        z, y, x = self.data.shape
        sides = f"{x}^3" if x == y == z else f"{x} x {y} x {z}"
        return f"DensityMap({sides} voxels, {self.pixel_size:.4g} Å/voxel)"


def read_map(path: str | Path, pixel_size: float | None = None, cubic: bool = True) -> DensityMap:
    """Reads an MRC or CCP4 map of any real mode, byte order and axis order; gzip and bzip2 are recognised by content.

    Args:
        path: file to read.
        pixel_size: angstrom; used in place of the header's voxel size.
        cubic: refuse maps whose three sides differ.

    Returns:
        The map with its axes in the order [z, y, x]. The origin is the header's ORIGIN field or, where that is zero,
        NSTART times the voxel size (as in ChimeraX).

    Raises:
        ValueError: for a file that is not a map, is corrupt, truncated or larger than it can be, for voxels that are
            not cubic, of unknown size or not orthogonal, and for values that are NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"map {path}: no such file; check the path")
    with _open_stream(path) as (stream, compressed):
        start = _read_exactly(stream, HEADER_BYTES, path, "the header")
        header = _parse_header(start, path)
        _check_header(header, path)
        expected = math.prod(header.shape) * header.pixel_type.itemsize
        _check_size(path, HEADER_BYTES + header.extended_bytes + expected, compressed)
        _read_exactly(stream, header.extended_bytes, path, "the extended header")
        raw = _read_exactly(stream, expected, path, "the density")
        if stream.read(1):
            log.warning("map %s: bytes beyond the %d announced by its header are ignored", path, expected)
    data = np.frombuffer(raw, header.pixel_type).reshape(header.shape)
    axes = _axis_order(header, path)
    data = np.ascontiguousarray(np.transpose(data, axes), dtype=np.float32)
    if cubic and len(set(data.shape)) > 1:
        z, y, x = data.shape
        raise ValueError(f"map {path}: sides x, y, z = {x}, {y}, {z} differ; expected a cube: pad or crop it first")
    _check_finite(data, path)
    voxel = _voxel_size(header, path, pixel_size)
    return DensityMap(torch.from_numpy(data), voxel, _origin(header, voxel))


def write_map(path: str | Path, density: DensityMap) -> None:
    """Writes a float32 MRC2014 volume (space group 1, axes x, y, z) durably; equal maps give equal bytes.

    Raises:
        ValueError: for data that is not [z, y, x], is NaN or infinite, a pixel size that is not positive, or a name
            ending in .gz or .bz2.
    """
    path = Path(path)
    if path.suffix.lower() in (".gz", ".bz2"):
        raise ValueError(f"map {path}: compressed maps are read but not written; give a name ending in .mrc")
    data = np.ascontiguousarray(density.data.detach().cpu().numpy(), dtype=np.float32)
    if data.ndim != 3:
        raise ValueError(f"map {path}: data of shape {data.shape}; expected three axes [z, y, x]")
    if not (math.isfinite(density.pixel_size) and density.pixel_size > 0):
        raise ValueError(f"map {path}: pixel size {density.pixel_size} angstrom; expected a positive number")
    _check_finite(data, path)
    statistics = PixelStatistics.of(data)
    header = new_header(
        data.shape,
        data.dtype,
        density.pixel_size,
        statistics,
        label=_LABEL,
        images=False,
        origin_angstrom=density.origin_angstrom,
    )
    with durable_file(path) as file:
        file.write(header)
        file.write(data.data)


class _open_stream:
    """A context that opens a file according to its magic bytes; gives (stream, compressed)."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            magic = file.read(3)
        self.compressed = magic[:2] == b"\x1f\x8b" or magic == b"BZh"
        opener = gzip.open if magic[:2] == b"\x1f\x8b" else bz2.open if magic == b"BZh" else open
        self.stream: IO[bytes] = opener(path, "rb")  # type: ignore[assignment]

    def __enter__(self) -> tuple[IO[bytes], bool]:
        return self.stream, self.compressed

    def __exit__(self, *_: object) -> None:
        self.stream.close()


def _read_exactly(stream: IO[bytes], count: int, path: Path, what: str) -> bytearray:
    """Read `count` bytes; memory grows only with the bytes that are there."""
    out = bytearray()
    try:
        while len(out) < count:
            part = stream.read(min(count - len(out), 2**24))
            if not part:
                raise ValueError(f"map {path}: {what} ends after {len(out)} of {count} bytes; copy the file again")
            out += part
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"map {path}: {what} can't be decompressed ({error}); copy the file again") from error
    return out


def _parse_header(raw: bytearray, path: Path) -> MrcHeader:
    """Header of a map; refuses sides and modes that make no sense and logs a byte-order stamp that does not fit."""
    try:
        header = MrcHeader.parse(raw)
    except MeaninglessHeader as error:
        raise _not_a_map(path, str(error)) from None
    if max(header.shape) > _LONGEST_SIDE:
        raise _not_a_map(path, "sides {2}, {1}, {0}".format(*header.shape))
    if header.order != header.stated_order:
        log.warning(
            "map %s: byte-order stamp 0x%s does not fit the header; read as %s-endian",
            path,
            header.stamp.hex(),
            ORDER_NAMES[header.order],
        )
    return header


def _not_a_map(path: Path, found: str) -> ValueError:
    return ValueError(
        f"map {path}: not an MRC or CCP4 map: the header gives {found}; "
        f"expected sides of 1 to {_LONGEST_SIDE} and one of the modes {sorted(PIXEL_TYPES)}"
    )


def _check_header(header: MrcHeader, path: Path) -> None:
    """Refuses what is not one volume of real numbers."""
    sections, rows, columns = header.shape
    if header.mode not in PIXEL_TYPES:
        kind = OTHER_PIXEL_TYPES[header.mode]
        raise ValueError(f"map {path}: mode {header.mode} ({kind}) is not a real density; expected mode 2")
    if header.extended_bytes < 0:
        raise ValueError(
            f"map {path}: extended header of {header.extended_bytes} bytes; expected 0 or more: the header is corrupt"
        )
    if sections == 1:
        raise ValueError(f"map {path}: one section of {columns} x {rows}: an image, not a map")
    group = int(header.fields["ispg"])
    if group >= 401:
        raise ValueError(f"map {path}: space group {group} marks a stack of volumes; expected one volume")


def _check_size(path: Path, claimed: int, compressed: bool) -> None:
    found = path.stat().st_size
    if not compressed and found < claimed:
        raise ValueError(f"map {path}: {found} bytes, but the header announces {claimed}: truncated; copy it again")
    if compressed and claimed > max(_HARMLESS_BYTES, _EXPANSION * found):
        raise ValueError(
            f"map {path}: {found} compressed bytes can't hold the {claimed} that the header announces: "
            f"more than {_EXPANSION}-fold; unpack it yourself if you trust it"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if claimed > memory:
        raise ValueError(f"map {path}: {claimed / 2**30:.1f} GiB do not fit this machine's {memory / 2**30:.1f} GiB")


def _axis_order(header: MrcHeader, path: Path) -> tuple[int, int, int]:
    """Which of the axes (section, row, column) are z, y and x."""
    stored = list(header.axes[::-1])
    if stored == [0, 0, 0]:  # written before the fields existed
        stored = [3, 2, 1]
    if sorted(stored) != [1, 2, 3]:
        raise ValueError(f"map {path}: MAPC, MAPR, MAPS = {stored[::-1]}; expected 1, 2, 3 in any order: it is corrupt")
    return stored.index(3), stored.index(2), stored.index(1)


def _check_finite(data: np.ndarray, path: Path) -> None:
    # the sum is finite unless a value is not (or the sum overflows): one pass and no mask in the usual case
    if math.isfinite(float(data.sum(dtype=np.float64))):
        return
    bad = ~np.isfinite(data)
    if bad.any():
        z, y, x = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"map {path}: {int(bad.sum())} of {data.size} values are NaN or infinite, the first at "
            f"x, y, z = {x}, {y}, {z}; expected finite numbers: write the map again"
        )


def _voxel_size(header: MrcHeader, path: Path, pixel_size: float | None) -> float:
    angles = [float(header.fields["cellb"][s]) for s in ("alpha", "beta", "gamma")]
    if any(not math.isclose(a, 90.0, abs_tol=1e-3) for a in angles) and angles != [0.0, 0.0, 0.0]:
        raise ValueError(f"map {path}: cell angles {angles} degrees; expected 90: resample it on an orthogonal grid")
    if pixel_size is not None:
        if not (math.isfinite(pixel_size) and pixel_size > 0):
            raise ValueError(f"map {path}: pixel size {pixel_size} given; expected a positive number of angstrom")
        return float(pixel_size)
    sizes = header.voxel_angstrom
    low, high = _PIXEL_RANGE
    shown = ", ".join(f"{s:g}" for s in sizes)
    if not all(math.isfinite(s) and low <= s <= high for s in sizes):
        raise ValueError(
            f"map {path}: voxel size {shown} angstrom in the header; expected {low:g} to {high:g}: "
            "give the true one with --pixel-size"
        )
    if max(sizes) > min(sizes) * 1.001:
        raise ValueError(
            f"map {path}: voxel sides {shown} angstrom differ; expected a cubic voxel: resample the map, "
            "or give --pixel-size if the header is wrong"
        )
    # the header holds the cell in float32: digits beyond the sixth are noise
    return float(f"{sum(sizes) / 3:.6g}")


def _origin(header: MrcHeader, voxel: float) -> tuple[float, float, float]:
    origin = [float(header.fields["origin"][a]) for a in ("x", "y", "z")]
    if all(math.isfinite(o) for o in origin) and any(origin):
        return origin[0], origin[1], origin[2]
    # NSTART counts along columns, rows and sections
    axes = list(header.axes)
    axes = axes if sorted(axes) == [1, 2, 3] else [1, 2, 3]
    start = [int(header.fields[s]) for s in ("nxstart", "nystart", "nzstart")]
    x, y, z = (float(start[axes.index(a)]) * voxel for a in (1, 2, 3))
    return x, y, z
