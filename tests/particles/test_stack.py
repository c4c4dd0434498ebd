"""Stacks of every kind that particles come in, read against mrcfile and against bytes written by hand."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryoloom.particles.errors import BadInput
from cryoloom.particles.stack import StackHeader, read_header, read_images

from .files import MODES, mrc_bytes, noise_images


def read_all(header: StackHeader) -> np.ndarray:
    out = np.empty((header.count, header.box, header.box), np.float32)
    read_images(header, np.arange(header.count), out)
    return out


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", sorted(MODES))
def test_modes_and_byte_orders(tmp_path: Path, mode: int, order: str) -> None:
    images = np.round(noise_images())
    images[0, 0, :2] = (0, 100) if mode == 6 else (-100, 100)
    path = tmp_path / "stack.mrcs"
    path.write_bytes(mrc_bytes(images, mode, order, pixel_size=2.5))
    header = read_header(path)
    assert (header.box, header.count, header.pixel_size) == (16, 6, pytest.approx(2.5))
    assert header.notes == ()
    np.testing.assert_array_equal(read_all(header), images)
    with mrcfile.open(path) as m:
        np.testing.assert_array_equal(read_all(header), m.data)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32, np.float16])
def test_stacks_written_by_mrcfile(tmp_path: Path, dtype: type) -> None:
    images = noise_images().astype(dtype)
    with mrcfile.new(tmp_path / "stack.mrcs") as m:
        m.set_data(images)
        m.set_image_stack()
        m.voxel_size = 1.34
    header = read_header(tmp_path / "stack.mrcs")
    assert header.pixel_size == pytest.approx(1.34)
    np.testing.assert_array_equal(read_all(header), images.astype(np.float32))


def test_unsigned_bytes_of_imod(tmp_path: Path) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    data = bytearray(mrc_bytes(images.astype(np.int8), mode=0))
    struct.pack_into("<2i", data, 152, 1146047817, 0)
    (tmp_path / "stack.mrcs").write_bytes(bytes(data))
    np.testing.assert_array_equal(read_all(read_header(tmp_path / "stack.mrcs")), images)
    struct.pack_into("<2i", data, 152, 1146047817, 1)  # flagged as signed
    (tmp_path / "stack.mrcs").write_bytes(bytes(data))
    np.testing.assert_array_equal(read_all(read_header(tmp_path / "stack.mrcs")), images.astype(np.int8))


@pytest.mark.parametrize("mode", [3, 4, 16, 101])
def test_modes_that_particles_do_not_have_are_named(tmp_path: Path, mode: int) -> None:
    data = bytearray(mrc_bytes(noise_images()))
    struct.pack_into("<i", data, 12, mode)
    (tmp_path / "stack.mrcs").write_bytes(bytes(data))
    with pytest.raises(BadInput, match=f"mode {mode}"):
        read_header(tmp_path / "stack.mrcs")


def test_permuted_axes_are_refused(tmp_path: Path) -> None:
    data = bytearray(mrc_bytes(noise_images()))
    data[64:76] = struct.pack("<3i", 2, 1, 3)  # x and y swapped: every pose would be mirrored
    (tmp_path / "stack.mrcs").write_bytes(bytes(data))
    with pytest.raises(BadInput, match="permuted"):
        read_header(tmp_path / "stack.mrcs")


def test_any_order_and_repeats(tmp_path: Path) -> None:
    images = noise_images(50)
    (tmp_path / "stack.mrcs").write_bytes(mrc_bytes(images))
    header = read_header(tmp_path / "stack.mrcs")
    rows = np.random.default_rng(1).integers(0, 50, 200)
    out = np.empty((200, 16, 16), np.float32)
    read_images(header, rows, out)
    np.testing.assert_array_equal(out, images[rows])


def test_runs_longer_than_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise_images(50)
    (tmp_path / "stack.mrcs").write_bytes(mrc_bytes(images))
    monkeypatch.setattr("cryoloom.particles.stack._READ_BYTES", 7 * 1024)
    np.testing.assert_array_equal(read_all(read_header(tmp_path / "stack.mrcs")), images)


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    images = noise_images(64)
    (tmp_path / "stack.mrcs").write_bytes(mrc_bytes(images))
    header = read_header(tmp_path / "stack.mrcs")

    def read(seed: int) -> bool:
        rows = np.random.default_rng(seed).permutation(64)
        out = np.empty((64, 16, 16), np.float32)
        read_images(header, rows, out)
        return np.array_equal(out, images[rows])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(64)))


@pytest.mark.parametrize(
    "name",
    [
        "formats/mrc/float16.mrc",
        "formats/mrc/sav_img_mrc_bigendian.mrc",
        "formats/xmipp/smallStack.mrcs",
        "formats/xmipp/singleImage.mrc",
        "stacks_real/bioem_20/bioem_20.mrcs",
        "stacks_real/empiar10076_7/empiar_10076_7.mrc",
        "stacks_real/relion31_5/relion31.mrcs",
        "stacks_real/trpv1_10/trpv1_small_stack.mrcs",
        "stacks_real/warptools_70S/warp70S_perimage.mrcs",
        "stacks_real/cryodrgn_et_ribosome/ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs",
        "stacks_sim_conventions/cryodrgn/hand.mrcs",
        "stacks_sim_conventions/relion_project/rln_proj_65.mrcs",
        "stacks_sim_conventions/tomodrgn_10076_DE/10076_classD_32_sim.mrcs",
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile says that machine stamps are missing; so do our notes
def test_files_of_other_programs(shared_data: Path, name: str) -> None:
    header = read_header(shared_data / name)
    with mrcfile.open(shared_data / name, permissive=True) as m:
        expected = np.asarray(m.data)
    np.testing.assert_array_equal(read_all(header), expected.reshape(-1, *expected.shape[-2:]).astype(np.float32))


def test_senseless_voxel_size_counts_as_unset(shared_data: Path) -> None:
    assert read_header(shared_data / "formats" / "mrc" / "bsoft_OneImage_badvoxel.mrc").pixel_size == 0
