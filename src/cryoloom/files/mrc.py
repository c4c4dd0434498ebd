"""Headers of MRC2014 and CCP4 files, read in either byte order and written.

Format: Cheng et al., J. Struct. Biol. 192 (2015) 146. A corrupt header may state any size:
readers check it against the size of the file before they allocate memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

ByteOrder = Literal["<", ">"]

HEADER_BYTES = 1024
# NumPy types by MRC mode, without byte order
PIXEL_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
# modes that hold no real numbers of whole bytes
OTHER_PIXEL_TYPES = {3: "complex int16", 4: "complex float32", 16: "RGB", 101: "4-bit integers"}
ORDER_NAMES: dict[ByteOrder, str] = {"<": "little", ">": "big"}

_STAMPS: dict[bytes, ByteOrder] = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}
_IMOD_STAMP = 1146047817
_SIDE_LIMIT = 1 << 20  # more columns or rows make no sense


class MeaninglessHeader(ValueError):
    """A header whose sizes and mode make no sense in either byte order; the message gives them."""


@dataclass(frozen=True, slots=True)
class MrcHeader:
    """The header of an MRC file.

    Attributes:
        fields: structured NumPy scalar with the names of MRC2014 (nx, mode, cella, ...).
        order: byte order in which the header makes sense.
        stamp: the two bytes by which the file states its byte order.
    """

    fields: np.ndarray
    order: ByteOrder
    stamp: bytes

    @classmethod
    def parse(cls, raw: bytes | bytearray) -> MrcHeader:
        """Header from the first 1024 bytes of a file; the stamp decides between byte orders if both make sense.

        Raises:
            MeaninglessHeader: if neither does.
        """
        stamp = bytes(raw[212:214])
        first: ByteOrder = _STAMPS.get(stamp, "<")
        orders: tuple[ByteOrder, ...] = (first, "<", ">")
        for order in orders:
            fields = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order), count=1)[0]
            if _plausible(fields):
                return cls(fields, order, stamp)
        fields = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(first), count=1)[0]
        nx, ny, nz, mode = (int(fields[name]) for name in ("nx", "ny", "nz", "mode"))
        raise MeaninglessHeader(f"sides {nx}, {ny}, {nz} and mode {mode}")

    @property
    def stated_order(self) -> ByteOrder | None:
        """Byte order that the stamp states; None where the stamp is not one of the format's."""
        return _STAMPS.get(self.stamp)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sections, rows, columns."""
        return int(self.fields["nz"]), int(self.fields["ny"]), int(self.fields["nx"])

    @property
    def mode(self) -> int:
        """MRC mode: a key of `PIXEL_TYPES` or `OTHER_PIXEL_TYPES`."""
        return int(self.fields["mode"])

    @property
    def extended_bytes(self) -> int:
        """Length of the extended header as stated, which may be negative in a damaged file."""
        return int(self.fields["nsymbt"])

    @property
    def pixel_type(self) -> np.dtype:
        """Type of a value with its byte order; bytes that IMOD wrote are unsigned unless its flag says otherwise.

        Raises:
            KeyError: for a mode that is not in `PIXEL_TYPES`.
        """
        imod_stamp, imod_flags = np.frombuffer(self.fields.tobytes(), np.dtype("i4").newbyteorder(self.order), 2, 152)
        if self.mode == 0 and imod_stamp == _IMOD_STAMP and not imod_flags & 1:
            return np.dtype("u1")
        return np.dtype(self.order + PIXEL_TYPES[self.mode])

    @property
    def axes(self) -> tuple[int, int, int]:
        """MAPC, MAPR, MAPS: which axis (1 = x, 2 = y, 3 = z) runs along columns, rows and sections."""
        return int(self.fields["mapc"]), int(self.fields["mapr"]), int(self.fields["maps"])

    @property
    def voxel_angstrom(self) -> tuple[float, float, float]:
        """Cell length over sampling along x, y and z; 0 where the sampling is not given."""
        pairs = zip(("x", "y", "z"), ("mx", "my", "mz"), strict=True)
        x, y, z = (float(self.fields["cella"][a]) / n if (n := int(self.fields[m])) > 0 else 0.0 for a, m in pairs)
        return x, y, z


def _plausible(fields: np.ndarray) -> bool:
    nx, ny, nz, mode = (int(fields[name]) for name in ("nx", "ny", "nz", "mode"))
    known = mode in PIXEL_TYPES or mode in OTHER_PIXEL_TYPES
    return known and min(nx, ny, nz) > 0 and max(nx, ny) < _SIDE_LIMIT


class PixelStatistics(NamedTuple):
    """Lowest, highest and mean value and standard deviation of the values in a file, for its header."""

    low: float
    high: float
    mean: float
    deviation: float

    @staticmethod
    def of(values: np.ndarray) -> PixelStatistics:
        """Statistics of an array [sections, rows, columns], summed section by section in float64."""
        mean = float(values.mean(dtype=np.float64))
        square = sum(float(np.square(section, dtype=np.float64).sum()) for section in values) / values.size
        return PixelStatistics(float(values.min()), float(values.max()), mean, math.sqrt(max(0.0, square - mean**2)))


def new_header(
    shape: tuple[int, int, int],
    dtype: np.dtype,
    pixel_size: float,
    statistics: PixelStatistics,
    *,
    label: str,
    images: bool,
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> bytes:
    """Header of a new little-endian file without extended header. It carries no date: equal data give equal bytes.

    Args:
        shape: sections, rows, columns.
        dtype: type of the values, one of `PIXEL_TYPES`.
        pixel_size: angstrom.
        images: whether the sections are images of a stack; else they make up one volume.
        origin_angstrom: (x, y, z) of the centre of the first voxel.
    """
    sections, rows, columns = shape
    modes = {name: mode for mode, name in PIXEL_TYPES.items()}
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    header["nx"], header["ny"], header["nz"] = columns, rows, sections
    header["mx"], header["my"], header["mz"] = columns, rows, 1 if images else sections
    header["mode"] = modes[np.dtype(dtype).str[1:]]
    header["cella"] = tuple(pixel_size * int(header[m]) for m in ("mx", "my", "mz"))
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = statistics
    header["ispg"] = 0 if images else 1
    header["origin"] = origin_angstrom
    header["nversion"], header["map"], header["machst"] = 20141, b"MAP ", (0x44, 0x44, 0, 0)
    header["label"][0], header["nlabl"] = label.encode(), 1
    return header.tobytes()
