"""Arrays as PNG images within a page, and the colours that numbers get. No plotting library: its import alone would
cost more than the whole report."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

# Anchors of a perceptually uniform map, dark to light (viridis: Smith & van der Walt, 2015)
VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


def png_bytes(pixels: np.ndarray) -> bytes:
    """PNG file of uint8 pixels [H, W] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA), first row at the top.

    Raises:
        ValueError: for another shape or dtype.
    """
    image = pixels[..., None] if pixels.ndim == 2 else pixels
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in _COLOUR_TYPES or 0 in image.shape:
        raise ValueError(f"pixels of shape {pixels.shape} and type {pixels.dtype}; expected uint8 [H, W], 3 or 4 last")
    height, width, channels = image.shape
    header = _header(width, height, _COLOUR_TYPES[channels])
    # each row is stored as its difference to the row above (filter 2): half the size for smooth images
    rows = image.reshape(height, -1)
    lines = np.full((height, 1 + rows.shape[1]), 2, dtype=np.uint8)
    lines[0, 1:] = rows[0]
    lines[1:, 1:] = rows[1:] - rows[:-1]
    data = zlib.compress(lines.tobytes(), 4)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def shaded_png_bytes(pixels: np.ndarray, shades: int = 48) -> bytes:
    """PNG file of a shaded body, uint8 RGBA [H, W, 4] opaque or empty, in a palette of its own: an eighth of the size.

    Colours of equal brightness are taken for one, which is true of one body under one light.

    Raises:
        ValueError: for another shape or dtype, or more shades than a palette holds.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 4 or 0 in pixels.shape:
        raise ValueError(f"pixels of shape {pixels.shape} and type {pixels.dtype}; expected uint8 [H, W, 4]")
    if not 1 <= shades <= 255:
        raise ValueError(f"{shades} shades; expected 1 to 255")
    seen = pixels[..., 3] > 127
    rgb = pixels[..., :3].astype(np.float64)
    bright = rgb.sum(-1)
    low, high = (float(bright[seen].min()), float(bright[seen].max())) if seen.any() else (0.0, 0.0)
    level = 1 + np.minimum(shades - 1, ((bright - low) / max(high - low, 1e-9) * shades).astype(np.int64))
    index = np.where(seen, level, 0)
    count = np.bincount(index.ravel(), minlength=shades + 1).clip(min=1)
    palette = np.stack([np.bincount(index.ravel(), rgb[..., c].ravel(), shades + 1) / count for c in range(3)], -1)
    palette[0] = 0
    height, width = index.shape
    lines = np.zeros((height, 1 + width), dtype=np.uint8)
    lines[:, 1:] = index
    return (
        _SIGNATURE
        + _chunk(b"IHDR", _header(width, height, 3))
        + _chunk(b"PLTE", (palette + 0.5).astype(np.uint8).tobytes())
        + _chunk(b"tRNS", b"\0")
        + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )


def _header(width: int, height: int, colour_type: int) -> bytes:
    """The IHDR chunk's data: 8 bits a channel, plain compression and filter, not interlaced."""
    return struct.pack(">II", width, height) + bytes((8, colour_type, 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(pixels: np.ndarray) -> str:
    """`png_bytes` as a data: address for the src of an image."""
    return _address(png_bytes(pixels))


def shaded_uri(pixels: np.ndarray) -> str:
    """`shaded_png_bytes` as a data: address."""
    return _address(shaded_png_bytes(pixels))


def _address(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode("ascii")


def window(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as grey levels, uint8: `low` and below black, `high` and above white."""
    span = high - low
    if not span > 0:
        return np.full(values.shape, 128, dtype=np.uint8)
    return (np.clip((values - low) / span, 0, 1) * 255 + 0.5).astype(np.uint8)


def colourise(fraction: np.ndarray, anchors: tuple[str, ...] = VIRIDIS) -> np.ndarray:
    """Fractions [...] in [0, 1] as RGB uint8 [..., 3], linear between equidistant anchor colours."""
    table = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in anchors], dtype=np.float64)
    at = np.linspace(0, 1, len(anchors))
    channels = [np.interp(fraction, at, table[:, i]) for i in range(3)]
    return (np.stack(channels, -1) + 0.5).astype(np.uint8)


def hex_colour(fraction: float, anchors: tuple[str, ...] = VIRIDIS) -> str:
    """`colourise` of one number, as '#rrggbb'."""
    return "#" + "".join(f"{c:02x}" for c in colourise(np.array(fraction), anchors))


def gradient(anchors: tuple[str, ...] = VIRIDIS) -> str:
    """CSS gradient of a colour map, left to right."""
    return f"linear-gradient(to right, {', '.join(anchors)})"
