"""What the figures of several panels share: pictures, rows of pictures, colour bars, ticks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoloom.report.map_views import PLANES
from cryoloom.report.png import data_uri, window

# resolutions that look like ticks, angstrom
RESOLUTION_TICKS = (*(200, 100, 60, 40, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2, 1.8, 1.6, 1.4, 1.2, 1),)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the page."""

    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PictureRow:
    """Pictures that belong together, with a name and a remark."""

    name: str
    remark: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A colour bar: CSS gradient and the labels at its ends."""

    gradient: str
    low: str
    high: str


def picture(pixels: np.ndarray, alt: str) -> Picture:
    """An array of pixels, first row at the top, as a picture."""
    return Picture(data_uri(pixels), alt, pixels.shape[1], pixels.shape[0])


def grey_pictures(planes: np.ndarray, what: str) -> tuple[Picture, ...]:
    """Three planes of a map in one grey scale."""
    low, high = (float(v) for v in np.percentile(planes, (1.0, 99.8)))
    pairs = zip(PLANES, planes, strict=True)
    return tuple(picture(window(plane, low, high)[::-1], f"{what}, {name}") for name, plane in pairs)
