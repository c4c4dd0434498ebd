"""Density maps on disk: MRC/CCP4 (plain, gzip, bzip2) to `DensityMap` and back.

The header is checked against the size of the file before any memory is taken: a header's numbers are claims.
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
from typing import IO, Literal

import mrcfile
import numpy as np
import torch
from mrcfile.dtypes import HEADER_DTYPE
from torch import Tensor

_Order = Literal["<", ">"]
log = logging.getLogger(__name__)

HEADER_BYTES = 1024
_MODES = {0: np.dtype("i1"), 1: np.dtype("i2"), 2: np.dtype("f4"), 6: np.dtype("u2"), 12: np.dtype("f2")}
_OTHER_MODES = {3: "complex int16", 4: "complex float32", 101: "4-bit"}
_LONGEST_SIDE = 65536
# deflate can't expand beyond 1032:1; what is within 64 MiB is harmless at any ratio
_EXPANSION, _HARMLESS_BYTES = 1032, 64 * 2**20
_PIXEL_RANGE = (0.05, 200.0)
_LABEL = "cryoloom: density map"


@dataclass(frozen=True, slots=True)
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


def read_map(path: str | Path, pixel_size: float | None = None, cubic: bool = True) -> DensityMap:
    """Reads an MRC or CCP4 map of any real mode, byte order and axis order; gzip and bzip2 are recognised by content.

    Args:
        path: file to read.
        pixel_size: angstrom; used in place of the header's voxel size.
        cubic: refuse maps whose three sides differ.

    Returns:
        The map with axes put to [z, y, x]. The origin is the header's ORIGIN field, or NSTART times the voxel where
        that is zero (as ChimeraX takes it).

    Raises:
        ValueError: for a file that is not a map, is corrupt, truncated or larger than it can be, for voxels that are
            not cubic, of unknown size or not orthogonal, and for values that are NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"map {path}: no such file; check the path")
    with _open_stream(path) as (stream, compressed):
        start = _read_exactly(stream, HEADER_BYTES, path, "the header")
        header, order = _parse_header(start, path)
        shape, kind, extended = _check_header(header, order, path)
        expected = math.prod(shape) * kind.itemsize
        _check_size(path, HEADER_BYTES + extended + expected, compressed)
        _read_exactly(stream, extended, path, "the extended header")
        raw = _read_exactly(stream, expected, path, "the density")
        if stream.read(1):
            log.warning("map %s: bytes beyond the %d announced by its header are ignored", path, expected)
    data = np.frombuffer(raw, kind).reshape(shape)
    axes = _axis_order(header, path)
    data = np.ascontiguousarray(np.transpose(data, axes), dtype=np.float32)
    if cubic and len(set(data.shape)) > 1:
        z, y, x = data.shape
        raise ValueError(f"map {path}: sides x, y, z = {x}, {y}, {z} differ; expected a cube: pad or crop it first")
    _check_finite(data, path)
    voxel = _voxel_size(header, path, pixel_size)
    return DensityMap(torch.from_numpy(data), voxel, _origin(header, voxel))


def write_map(path: str | Path, density: DensityMap) -> None:
    """Writes a float32 MRC2014 volume (space group 1, axes x, y, z) atomically: a temporary file, fsync, os.replace.

    The label carries no date, so equal maps give equal bytes.

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with mrcfile.new(temporary, overwrite=True) as file:
            header = file.header
            if header is None:
                raise RuntimeError(f"mrcfile gave no header for {temporary}")
            file.set_data(data)
            file.set_volume()
            file.voxel_size = density.pixel_size
            header.ispg = 1
            header.origin.x, header.origin.y, header.origin.z = density.origin_angstrom
            header.label[:] = b""
            header.label[0] = _LABEL.encode()
            header.nlabl = 1
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _open_stream:
    """Opens a file by its magic bytes; gives (stream, compressed) and closes it."""

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
    """`count` bytes, memory growing only with what is there."""
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


def _plausible(header: np.ndarray) -> bool:
    sides = [int(header[s]) for s in ("nx", "ny", "nz")]
    known = int(header["mode"]) in _MODES or int(header["mode"]) in _OTHER_MODES
    return known and all(0 < n <= _LONGEST_SIDE for n in sides)


def _parse_header(raw: bytearray, path: Path) -> tuple[np.ndarray, _Order]:
    """Header in the byte order in which it makes sense; the machine stamp decides when both do."""
    stamps: dict[int, _Order] = {0x44: "<", 0x11: ">"}
    stamp = stamps.get(raw[212])
    orders: dict[_Order, np.ndarray] = {
        order: np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0] for order in stamps.values()
    }
    sensible: list[_Order] = [order for order, header in orders.items() if _plausible(header)]
    if not sensible:
        found = orders[stamp or "<"]
        raise ValueError(
            f"map {path}: not an MRC or CCP4 map: header gives sides {found['nx']}, {found['ny']}, {found['nz']} "
            f"(expected 1 to {_LONGEST_SIDE}) and mode {found['mode']} (expected one of {sorted(_MODES)})"
        )
    order = stamp if stamp is not None and stamp in sensible else sensible[0]
    if order != stamp:
        log.warning(
            "map %s: byte-order stamp %02x does not fit the header; read as %s-endian",
            path,
            raw[212],
            "little" if order == "<" else "big",
        )
    return orders[order], order


def _check_header(header: np.ndarray, order: _Order, path: Path) -> tuple[tuple[int, int, int], np.dtype, int]:
    """Shape [section, row, column], dtype and length of the extended header."""
    mode, extended = int(header["mode"]), int(header["nsymbt"])
    columns, rows, sections = (int(header[s]) for s in ("nx", "ny", "nz"))
    if mode not in _MODES:
        raise ValueError(f"map {path}: mode {mode} ({_OTHER_MODES[mode]}) is not a real density; expected mode 2")
    if extended < 0:
        raise ValueError(f"map {path}: extended header of {extended} bytes; expected 0 or more: the header is corrupt")
    if sections == 1:
        raise ValueError(f"map {path}: one section of {columns} x {rows}: an image, not a map")
    if int(header["ispg"]) >= 401:
        raise ValueError(f"map {path}: space group {header['ispg']} marks a stack of volumes; expected one volume")
    return (sections, rows, columns), _MODES[mode].newbyteorder(order), extended


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


def _axis_order(header: np.ndarray, path: Path) -> tuple[int, int, int]:
    """Which of the axes (section, row, column) are z, y and x."""
    stored = [int(header[s]) for s in ("maps", "mapr", "mapc")]
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


def _voxel_size(header: np.ndarray, path: Path, pixel_size: float | None) -> float:
    angles = [float(header["cellb"][s]) for s in ("alpha", "beta", "gamma")]
    if any(not math.isclose(a, 90.0, abs_tol=1e-3) for a in angles) and angles != [0.0, 0.0, 0.0]:
        raise ValueError(f"map {path}: cell angles {angles} degrees; expected 90: resample it on an orthogonal grid")
    if pixel_size is not None:
        if not (math.isfinite(pixel_size) and pixel_size > 0):
            raise ValueError(f"map {path}: pixel size {pixel_size} given; expected a positive number of angstrom")
        return float(pixel_size)
    pairs = zip(("x", "y", "z"), ("mx", "my", "mz"), strict=True)
    sizes = [float(header["cella"][a]) / int(header[m]) if int(header[m]) > 0 else 0.0 for a, m in pairs]
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


def _origin(header: np.ndarray, voxel: float) -> tuple[float, float, float]:
    origin = [float(header["origin"][a]) for a in ("x", "y", "z")]
    if all(math.isfinite(o) for o in origin) and any(origin):
        return origin[0], origin[1], origin[2]
    # NSTART counts along columns, rows and sections
    axes = [int(header[s]) for s in ("mapc", "mapr", "maps")]
    axes = axes if sorted(axes) == [1, 2, 3] else [1, 2, 3]
    start = [int(header[s]) for s in ("nxstart", "nystart", "nzstart")]
    x, y, z = (float(start[axes.index(a)]) * voxel for a in (1, 2, 3))
    return x, y, z
