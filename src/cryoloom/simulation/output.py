"""Writing a simulated set: an image stack filled in any order, and its STAR files, without holding either in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import torch
from mrcfile.dtypes import HEADER_DTYPE
from torch import Tensor

from cryoloom.physics.ctf import CTFParameters
from cryoloom.simulation.truth import MICROSCOPES, Truth

_MODES = {"float32": 2, "float16": 12}
_STAR_CHUNK = 10000


@dataclass(frozen=True, slots=True)
class PixelSums:
    """What the header says of a batch's pixels: extremes, sum and sum of squares."""

    low: float
    high: float
    total: float
    squares: float

    @staticmethod
    def of(images: Tensor) -> PixelSums:
        """Counted where the images are: on a GPU this costs nothing, on the host a pass each."""
        sums = (images.sum(dtype=torch.float64), images.square().sum(dtype=torch.float64))
        low, high = images.aminmax()
        return PixelSums(*torch.stack([low.double(), high.double(), *sums]).tolist())


class StackWriter:
    """An MRC image stack of known size, filled in any order; it takes its name only when it is complete.

    Use as a context manager; an exception inside leaves no file.
    """

    def __init__(self, path: Path, count: int, box: int, pixel_size: float, dtype: str) -> None:
        self.path, self.count, self.box, self.pixel_size, self.dtype = path, count, box, pixel_size, np.dtype(dtype)
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: IO[bytes] | None = None
        self._written = 0
        self._low, self._high, self._sum, self._squares = np.inf, -np.inf, 0.0, 0.0

    def __enter__(self) -> StackWriter:
        self._file = open(self._temporary, "wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        assert self._file is not None
        try:
            if kind is None:
                if self._written != self.count:
                    raise ValueError(f"{self.path}: {self._written} images written; expected {self.count}")
                self._file.seek(0)
                self._file.write(self._header())
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._temporary, self.path)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, rows: np.ndarray, images: np.ndarray, sums: PixelSums) -> None:
        """Writes images [B, D, D] as the given rows, ascending."""
        assert self._file is not None
        data = np.ascontiguousarray(images, dtype=self.dtype)
        self._low, self._high = min(self._low, sums.low), max(self._high, sums.high)
        self._sum += sums.total
        self._squares += sums.squares
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for first, part in zip(rows[np.r_[0, breaks]], np.split(data, breaks), strict=True):
            self._file.seek(1024 + int(first) * self.box**2 * self.dtype.itemsize)
            self._file.write(part.data.cast("B"))
        self._written += len(rows)

    def _header(self) -> bytes:
        header = np.zeros((), HEADER_DTYPE)
        n, box, side = self.count, self.box, self.box * self.pixel_size
        values = self.count * self.box**2
        mean = self._sum / values
        header["nx"], header["ny"], header["nz"] = box, box, n
        header["mx"], header["my"], header["mz"] = box, box, 1  # a stack of images: one section to a cell
        header["mode"] = _MODES[self.dtype.name]
        header["cella"] = (side, side, self.pixel_size)
        header["cellb"] = (90, 90, 90)
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
        header["dmin"], header["dmax"], header["dmean"] = self._low, self._high, mean
        header["rms"] = np.sqrt(max(0.0, self._squares / values - mean**2))
        header["nversion"], header["map"], header["machst"] = 20141, b"MAP ", (0x44, 0x44, 0, 0)
        header["label"][0], header["nlabl"] = b"cryoloom: simulated particles", 1  # no date: equal sets, equal bytes
        return header.tobytes()


def write_star(path: Path, truth: Truth, box: int, pixel_size: float, stack: str, with_truth: bool) -> None:
    """RELION 3.1 STAR of the set: optics and CTF, with poses, shifts and states only if `with_truth`."""
    names, columns = _ctf_columns(truth.ctf)
    if with_truth:
        names += ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"]
        columns += [*truth.euler_degrees.T, *(-truth.t_angstrom.T + 0.0)]
    tags = ["rlnImageName", "rlnMicrographName", *names, *(["rlnClassNumber"] if with_truth else []), "rlnOpticsGroup"]
    values = np.stack(columns, -1)
    row_format = " ".join(["%.6f"] * len(names))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(_optics(int(truth.group.max()) + 1, box, pixel_size))
        file.write(_loop("particles", tags))
        for start in range(0, len(truth), _STAR_CHUNK):
            file.writelines(
                f"{i + 1:06d}@{stack} mic{truth.micrograph[i] + 1:05d}.mrc {row_format % tuple(values[i])} "
                f"{f'{truth.state[i]} ' if with_truth else ''}{truth.group[i] + 1}\n"
                for i in range(start, min(start + _STAR_CHUNK, len(truth)))
            )
        file.write("\n")
    os.replace(temporary, path)


def _ctf_columns(ctf: CTFParameters) -> tuple[list[str], list[np.ndarray]]:
    u, v, axis, phase, b = (getattr(ctf, field.name).numpy() for field in fields(ctf)[:5])
    names = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor"]
    return names, [u, v, np.degrees(axis), np.degrees(phase), b]


def _optics(groups: int, box: int, pixel_size: float) -> str:
    tags = [
        "rlnOpticsGroup",
        "rlnOpticsGroupName",
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
        "rlnImagePixelSize",
        "rlnImageSize",
        "rlnImageDimensionality",
    ]
    rows = []
    for g in range(groups):
        m = MICROSCOPES[g % len(MICROSCOPES)]
        optics = f"{m.voltage_kv} {m.spherical_aberration_mm} {m.amplitude_contrast}"
        rows.append(f"{g + 1} opticsGroup{g + 1} {optics} {pixel_size:.6f} {box} 2\n")
    return _loop("optics", tags) + "".join(rows) + "\n"


def _loop(block: str, tags: Sequence[str]) -> str:
    return f"\n# version 30001\n\ndata_{block}\n\nloop_\n" + "".join(f"_{t} #{i}\n" for i, t in enumerate(tags, 1))
