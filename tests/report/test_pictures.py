"""Pictures of maps and directions: axes, hands and colours are those that the captions state."""

import base64
import gzip
import io
import struct
import zlib

import mrcfile
import numpy as np
import pytest
import torch

from cryoloom.maps.io import DensityMap, write_map
from cryoloom.physics.rotations import random_rotations, to_euler
from cryoloom.report.map_views import MapView, view_map
from cryoloom.report.panels.local_resolution import local_resolution_row
from cryoloom.report.png import VIRIDIS, colourise, hex_colour, png_bytes, shaded_png_bytes, window
from cryoloom.report.spheres import FINE_TO_COARSE, direction_map
from cryoloom.report.spheres import view_map as view_directions
from cryoloom.report.surface import VIEWER_SIDE, cut_out, draw_surface, viewer_file


def decode(png: bytes) -> np.ndarray:
    """Pixels of a PNG, by the standard and without the package."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, header, palette = 8, b"", b"", b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        header, data = (body if kind == b"IHDR" else header), data + (body if kind == b"IDAT" else b"")
        palette = body if kind == b"PLTE" else palette
        at += 12 + size
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", header)
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    assert depth == 8
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    out = np.zeros((height, width * channels), np.uint8)
    for i, row in enumerate(rows):
        assert row[0] == (0 if palette else 2)
        out[i] = row[1:] + (out[i - 1] if i and not palette else 0)
    if palette:  # index 0 is transparent
        colours = np.concatenate(
            [np.frombuffer(palette, np.uint8).reshape(-1, 3)[out], np.where(out, 255, 0)[..., None]], -1
        )
        return colours.astype(np.uint8)
    return out.reshape(height, width, channels)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (6, 4, 3), (5, 7, 4)])
def test_png_gives_its_pixels_back(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(decode(png_bytes(pixels)).reshape(shape), pixels)


def test_a_palette_keeps_a_shaded_body() -> None:
    """What is empty stays so, and shades of one colour come back within half a step of brightness."""
    light = np.linspace(0.1, 1, 600).reshape(20, 30)
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[..., :3] = (light[..., None] * [150, 190, 230]).astype(np.uint8)
    pixels[..., 3] = np.where(np.arange(30) % 7 == 0, 0, 255)
    found = decode(shaded_png_bytes(pixels, shades=40))
    np.testing.assert_array_equal(found[..., 3], pixels[..., 3])
    seen = pixels[..., 3] > 0
    assert np.abs(found[seen].astype(int) - pixels[seen]).max() <= 0.9 * 230 / 40 / 2 + 1
    assert not found[~seen].any()
    empty = np.zeros((4, 5, 4), np.uint8)
    np.testing.assert_array_equal(decode(shaded_png_bytes(empty)), empty)
    for bad, shades in ((np.zeros((3, 3, 3), np.uint8), 40), (empty, 256)):
        with pytest.raises(ValueError, match="expected"):
            shaded_png_bytes(bad, shades)


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.zeros((3, 3, 2), np.uint8), np.zeros((0, 3), np.uint8)])
def test_png_refuses_other_arrays(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        png_bytes(bad)


def test_colours_run_through_their_anchors() -> None:
    assert [hex_colour(i / 9) for i in range(10)] == list(VIRIDIS)
    np.testing.assert_array_equal(colourise(np.array([0.0, 1.0]))[1], [0xFD, 0xE7, 0x25])
    np.testing.assert_array_equal(window(np.array([-1.0, 0, 1, 2, 9]), 0, 2), [0, 0, 128, 255, 255])
    assert (window(np.zeros((2, 2)), 1, 1) == 128).all()


def blobs(box: int, *centres: tuple[float, float, float], width: float = 2.0) -> torch.Tensor:
    """Gaussians at (x, y, z) in voxels from the centre."""
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.zeros(box, box, box)
    for cx, cy, cz in centres:
        volume += torch.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * width**2))
    return volume


def test_slices_and_projections_have_the_axes_of_their_names(tmp_path) -> None:
    write_map(tmp_path / "m.mrc", DensityMap(blobs(24, (6, 3, -4)), 2.0))
    view = view_map(tmp_path / "m.mrc")
    assert view is not None
    brightest = [np.unravel_index(p.argmax(), p.shape) for p in view.projections]
    # (row, column) = (second, first) letter of XY, XZ, YZ
    assert brightest == [(15, 18), (8, 18), (8, 15)]
    through = [float(p.max()) for p in view.slices]
    distance = [4, 3, 6]  # of the blob from the central planes z, y, x
    np.testing.assert_allclose(through, [np.exp(-d * d / 8) for d in distance], rtol=1e-4)
    assert view_map(tmp_path / "absent.mrc") is None


def test_large_maps_are_reduced(tmp_path) -> None:
    write_map(tmp_path / "m.mrc", DensityMap(blobs(120, (10, 0, 0), width=6), 1.5))
    view = view_map(tmp_path / "m.mrc")
    assert view is not None
    assert view.small.shape == (96, 96, 96)
    assert view.small_pixel_size == pytest.approx(1.875)
    assert np.unravel_index(int(view.small.argmax()), view.small.shape) == (48, 48, 56)


def test_surface_level_parts_molecule_from_solvent() -> None:
    g = torch.Generator().manual_seed(1)
    molecule = blobs(40, (4, 0, 0), (-4, 2, 0), width=4) > 0.4
    volume = molecule.float() + 0.1 * torch.randn(40, 40, 40, generator=g)
    mask = (blobs(40, (0, 0, 0), width=9) > 0.4).float()
    surface = cut_out(volume, mask, 3.0)
    assert surface is not None
    assert 0.3 < surface.level < 0.7
    assert surface.data.shape == (VIEWER_SIDE,) * 3
    # the cube is that of the mask and a margin
    width = int((mask > 0.05).any(0).any(0).sum())
    assert surface.pixel_size * VIEWER_SIDE == pytest.approx(3.0 * (width + 4))


def test_surface_of_nothing() -> None:
    assert cut_out(torch.zeros(16, 16, 16), None, 1.0) is None
    assert cut_out(torch.rand(16, 16, 16), torch.zeros(16, 16, 16), 1.0) is None


def test_viewer_gets_a_float32_map_of_the_right_size() -> None:
    surface = cut_out(blobs(64, (9, -5, 2), width=3), None, 2.5)
    assert surface is not None
    text = viewer_file(surface)
    assert text == viewer_file(surface)
    raw = gzip.decompress(base64.b64decode(text))
    with mrcfile.mrcinterpreter.MrcInterpreter(io.BytesIO(raw)) as file:
        assert file.data is not None
        assert file.header is not None
        assert file.data.dtype == np.float32
        np.testing.assert_allclose(file.data, surface.data, atol=surface.highest / 900)
        assert float(file.voxel_size.x) == pytest.approx(surface.pixel_size)
    assert len(text) < 100_000


def test_drawn_surfaces_show_what_their_names_say() -> None:
    """A far large blob, a near small one and one up to the right: seen from +z, -y and +x."""
    views = {
        # name: far, near, right-up, as (x, y, z)
        0: ((0, 0, -10), (0, 0, 10), (12, 12, 0)),
        1: ((0, 10, 0), (0, -10, 0), (12, 0, 12)),
        2: ((-10, 0, 0), (10, 0, 0), (0, 12, 12)),
    }
    for i, (far, near, corner) in views.items():
        volume = blobs(48, far, width=6) + blobs(48, near, corner, width=2.5)
        surface = cut_out(volume, None, 1.0)
        assert surface is not None
        pixels = draw_surface(surface)[i].astype(float)
        side = pixels.shape[0]
        seen, light = pixels[..., 3] > 0, pixels[..., :3].sum(-1)
        third = side // 3
        assert seen[:third, -third:].any(), f"view {i}: the blob to the upper right"
        assert not seen[:third, :third].any()
        assert not seen[-third:, -third:].any()
        middle = light[side // 2 - 4 : side // 2 + 4, side // 2 - 4 : side // 2 + 4].mean()
        ring = light[side // 2 - 4 : side // 2 + 4, side // 2 + 24 : side // 2 + 30]
        assert middle > 1.15 * ring.mean(), f"view {i}: what is near is brighter"


def test_views_stand_where_they_point() -> None:
    rng = np.random.default_rng(2)
    rot, tilt = rng.normal(90, 3, 2000), rng.normal(45, 3, 2000)
    found = view_directions(rot, tilt)
    light = found.pixels[..., :3].astype(int) @ [1, 2, 0]
    row, column = np.unravel_index(np.where(found.pixels[..., 3] > 0, light, 0).argmax(), light.shape)
    # latitude 45: Mollweide's y is 0.592, x is 90 / 180 of the parallel's half length 0.806
    assert (1 - row / 120, column / 240 - 1) == pytest.approx((0.592, 0.403), abs=0.04)
    assert found.highest > 20
    assert found.empty_share > 0.9
    corners = found.pixels[[0, 0, -1, -1], [0, -1, 0, -1], 3]
    assert not corners.any()


def test_even_views_look_even() -> None:
    angles = to_euler(random_rotations(20000, torch.Generator().manual_seed(3))).numpy()
    found = view_directions(angles[:, 0], angles[:, 1])
    assert found.highest < 1.8
    assert found.empty_share == 0
    # angles out of their ranges are directions all the same, and those that are not known are left out
    same = view_directions(np.append(angles[:, 0] + 180, np.nan), np.append(-angles[:, 1], 0.0))
    np.testing.assert_array_equal(same.pixels, found.pixels)


def test_directions_lie_on_the_disc() -> None:
    found = direction_map(((0, 0, 1, 5.0), (1, 0, 0, 10.0), (0, -1, 0, 5.0), (0, 0.6, -0.8, None)))
    assert found is not None
    (pole, x, y, tilted) = found.dots
    assert (pole.x, pole.y) == (0, 0)
    assert (x.x, x.y) == pytest.approx((1, 0))
    assert (y.x, y.y) == pytest.approx((0, -1))
    # -d of (0, 0.6, -0.8); Lambert: 0.6 / sqrt(1.8)
    assert (tilted.x, tilted.y) == pytest.approx((0, -0.447), abs=1e-3)
    assert tilted.resolution is None
    assert tilted.colour == "none"
    assert (found.finest, found.coarsest, found.scale_end, found.silent) == (5, 10, 10, 1)
    assert (pole.colour, x.colour) == (FINE_TO_COARSE[0], FINE_TO_COARSE[-1])
    side = found.pixels.shape[0]
    np.testing.assert_allclose(found.pixels[side // 2, side // 2, :3], [0xFD, 0xE7, 0x25], atol=25)
    np.testing.assert_allclose(found.pixels[side // 2, -3, :3], [0x44, 0x01, 0x54], atol=25)


def test_a_map_that_is_alike_in_all_directions_looks_so() -> None:
    found = direction_map(((0, 0, 1, 5.0), (1, 0, 0, 5.1)))
    assert found is not None
    assert found.scale_end == pytest.approx(6.5)
    assert direction_map(((0, 0, 1, None),)) is None
    assert direction_map(()) is None


def test_local_resolution_is_shown_within_the_mask() -> None:
    side = 20
    values = np.full((3, side, side), 6.0, np.float32)
    values[:, 10:] = 12.0
    inside = np.zeros((3, side, side), np.float32)
    inside[:, 5:15, 5:15] = 1
    zeros = np.zeros_like(values)
    local = MapView(side, 1.0, values, zeros, torch.zeros(4, 4, 4))
    mask = MapView(side, 1.0, inside, zeros, torch.zeros(4, 4, 4))
    found = local_resolution_row(local, mask)
    assert found is not None
    row, scale, _ = found
    assert (scale.low, scale.high) == ("6.00\u202fÅ", "12.0\u202fÅ")
    pixels = decode(base64.b64decode(row.pictures[0].uri.partition(",")[2]))
    assert (pixels[..., 3] > 0).sum() == 100
    # coarse above (rows go downwards on the page), fine below
    middle = pixels.shape[0] // 2
    np.testing.assert_array_equal(pixels[middle - 3, middle, :3], [0x44, 0x01, 0x54])
    np.testing.assert_array_equal(pixels[middle + 3, middle, :3], [0xFD, 0xE7, 0x25])
    assert local_resolution_row(MapView(side, 1.0, zeros, zeros, torch.zeros(4, 4, 4)), mask) is None
