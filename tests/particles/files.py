"""Small particle sets written byte by byte, sharing no code with the package, so that each can be spoilt by a test."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def mrc_bytes(
    images: np.ndarray,
    mode: int = 2,
    order: str = "<",
    pixel_size: float = 0.0,
    extended: bytes = b"",
    stamp: bytes | None = None,
) -> bytes:
    """An MRC stack of images [N, Y, X]."""
    n, y, x = images.shape
    header = bytearray(1024)
    header[:40] = np.array([x, y, n, mode, 0, 0, 0, x, y, n], f"{order}i4").tobytes()
    header[40:64] = np.array([pixel_size * x, pixel_size * y, pixel_size * n, 90, 90, 90], f"{order}f4").tobytes()
    header[64:76] = np.array([1, 2, 3], f"{order}i4").tobytes()
    struct.pack_into(f"{order}i", header, 92, len(extended))
    header[208:212] = b"MAP "
    header[212:216] = stamp if stamp is not None else {"<": b"\x44\x44\0\0", ">": b"\x11\x11\0\0"}[order]
    return bytes(header) + extended + images.astype(order + MODES[mode]).tobytes()


@dataclass(frozen=True)
class StarText:
    """A STAR file of optics and particles whose parts a test replaces before it is written."""

    optics_columns: tuple[str, ...] = (
        "rlnOpticsGroup",
        "rlnOpticsGroupName",
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
        "rlnImagePixelSize",
        "rlnImageSize",
    )
    optics_rows: tuple[str, ...] = ("1 glacios 200.0 2.7 0.1 3.5 16",)
    columns: tuple[str, ...] = (
        "rlnImageName",
        "rlnDefocusU",
        "rlnDefocusV",
        "rlnDefocusAngle",
        "rlnOpticsGroup",
        "someUnknownColumn",
    )
    rows: tuple[str, ...] = ()

    def text(self) -> str:
        """The file; without an optics table where there are no optics columns (RELION 3.0)."""
        optics = _block("optics", self.optics_columns, self.optics_rows) if self.optics_columns else ""
        return optics + _block("particles" if optics else "images", self.columns, self.rows)

    def first_line(self) -> int:
        """Line number of the first particle."""
        return self.text().split("\n").index(self.rows[0]) + 1


def _block(name: str, columns: tuple[str, ...], rows: tuple[str, ...]) -> str:
    head = "".join(f"_{c} #{i}\n" for i, c in enumerate(columns, 1))
    return f"\ndata_{name}\n\nloop_\n{head}" + "".join(f"{row}\n" for row in rows) + "\n"


def particle_row(number: int, stack: str = "stack.mrcs", defocus: float = 15000.0, group: int = 1) -> str:
    """A row for `StarText.columns`; the number is the image's, from 1."""
    return f"{number:06d}@{stack} {defocus + number:.3f} {defocus - number:.3f} 33.25 {group} text{number}"


def noise_images(count: int = 6, box: int = 16, seed: int = 5) -> np.ndarray:
    """White noise of mean 10 and s.d. 2, float32 [N, D, D]."""
    return np.random.default_rng(seed).normal(10, 2, (count, box, box)).astype(np.float32)
