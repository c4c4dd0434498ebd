"""What the user states about the particles, under the names that all layers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class StatedInput:
    """Values that replace those of the particle file, and what to do with images that can't be used.

    Attributes:
        datadir: folder that image names are relative to, tried before the particle file's own folder and its parents.
        pixel_size: pixel size of the extracted images, angstrom; None: from the file, as for the next three.
        voltage_kv: acceleration voltage, kV.
        spherical_aberration_mm: spherical aberration, mm.
        amplitude_contrast: amplitude contrast, 0 to 1.
        b_factor_sign: sign in the file of the B-factors by which the CTF falls off: "positive" as in RELION and in
            exp(-B k^2 / 4); "negative" as in exports of M, where all B-factors of the file are multiplied by -1.
        no_ctf: the images carry no CTF; CTF columns are not read and the CTF is 1.
        on_bad: whether images with NaN, infinities or no contrast are refused or left out.
        on_duplicates: whether rows that name the same image are refused, all kept, or all dropped but the first.
    """

    datadir: str | None = None
    pixel_size: float | None = None
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None
    b_factor_sign: Literal["positive", "negative"] = "positive"
    no_ctf: bool = False
    on_bad: Literal["error", "drop"] = "error"
    on_duplicates: Literal["error", "keep", "drop"] = "error"
