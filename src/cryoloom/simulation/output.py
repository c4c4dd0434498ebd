"""Writing a simulated set: an image stack filled in any order, and its STAR files, without holding either in memory."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import torch
from torch import Tensor

from cryoloom.files.mrc import HEADER_BYTES, PixelStatistics, new_header
from cryoloom.particles.formats import format_of
from cryoloom.particles.formats.relion.columns import ANGLES, ORIGINS
from cryoloom.particles.table import ImageResults, Numbers, OpticsGroup, ParticleTable, PoseColumns, Quantity
from cryoloom.particles.texts import Texts
from cryoloom.simulation.truth import MICROSCOPES, Truth


@dataclass(frozen=True, slots=True)
class PixelSums:
    """Extremes, sum and sum of squares of the pixels of a batch, for the header of the stack."""

    low: float
    high: float
    total: float
    squares: float

    @staticmethod
    def of(images: Tensor) -> PixelSums:
        """Computed on the device of the images: on a GPU this costs nothing, on the CPU a pass for each number."""
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
        """Writes images [B, D, D] as the given rows, in ascending order."""
        assert self._file is not None
        data = np.ascontiguousarray(images, dtype=self.dtype)
        self._low, self._high = min(self._low, sums.low), max(self._high, sums.high)
        self._sum += sums.total
        self._squares += sums.squares
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for first, part in zip(rows[np.r_[0, breaks]], np.split(data, breaks), strict=True):
            self._file.seek(HEADER_BYTES + int(first) * self.box**2 * self.dtype.itemsize)
            self._file.write(part.data.cast("B"))
        self._written += len(rows)

    def _header(self) -> bytes:
        mean = self._sum / (self.count * self.box**2)
        variance = self._squares / (self.count * self.box**2) - mean**2
        return new_header(
            (self.count, self.box, self.box),
            self.dtype,
            self.pixel_size,
            PixelStatistics(self._low, self._high, mean, math.sqrt(max(0.0, variance))),
            label="cryoloom: simulated particles",
            images=True,
        )


def write_truth(path: Path, truth: Truth, box: int, pixel_size: float, stack: str, *, with_poses: bool) -> None:
    """Write the particle file of a simulated set: optics and CTF, with poses and states only if asked for.

    Raises:
        OSError: if the file can't be written.
    """
    format_of(path).write(path, _table(path, truth, box, pixel_size, stack=stack, with_poses=with_poses))


def _table(path: Path, truth: Truth, box: int, pixel_size: float, *, stack: str, with_poses: bool) -> ParticleTable:
    count = len(truth)
    quantities: tuple[Quantity, ...] = (
        "defocus_u_angstrom",
        "defocus_v_angstrom",
        "astigmatism_radian",
        "phase_shift_radian",
        "b_factor_angstrom2",
    )
    micrographs, micrograph = np.unique(truth.micrograph, return_inverse=True)
    names = Texts.of(f"mic{m + 1:05d}.mrc" for m in micrographs)
    results = ImageResults()
    if with_poses:
        # angles as they were drawn: from matrices the last digit would be lost where the tilt is near 0
        origins = 0.0 - truth.t_angstrom
        drawn: dict[str, np.ndarray] = dict(zip((*ANGLES, *ORIGINS), (*truth.euler_degrees.T, *origins.T), strict=True))
        results = ImageResults(class_number=truth.state, further=drawn)
    return ParticleTable(
        path=path,
        format="simulated",
        stacks=(stack,),
        stack=np.zeros(count, dtype=np.int64),
        index=np.arange(count),
        group=np.asarray(truth.group, dtype=np.int64),
        optics=tuple(_optics_group(g, box, pixel_size) for g in range(int(truth.group.max()) + 1)),
        numbers={q: Numbers.of(q, getattr(truth.ctf, q).numpy()) for q in quantities},
        poses=PoseColumns(None, None),
        columns={"rlnMicrographName": names.take(micrograph)},
        rows=np.arange(count),
        lines=None,
        labels={},
        results=results,
    )


def _optics_group(number: int, box: int, pixel_size: float) -> OpticsGroup:
    microscope = MICROSCOPES[number % len(MICROSCOPES)]
    return OpticsGroup(
        name=f"opticsGroup{number + 1}",
        pixel_size=pixel_size,
        box=box,
        voltage_kv=microscope.voltage_kv,
        spherical_aberration_mm=microscope.spherical_aberration_mm,
        amplitude_contrast=microscope.amplitude_contrast,
    )
