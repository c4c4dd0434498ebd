"""Maps on disk: real files by other programs, every header fault, bit-equal output."""

import bz2
import gzip
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryoloom.maps.io import DensityMap, read_map, write_map


def some_map(box: int = 12) -> DensityMap:
    data = torch.randn(box, box, box, generator=torch.Generator().manual_seed(1))
    return DensityMap(data, 2.75, (1.5, -20.0, 3.25))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_map(tmp_path / "good.mrc", some_map())
    return tmp_path / "good.mrc"


def altered(path: Path, offset: int, value: bytes) -> Path:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(value)] = value
    out = path.with_name("altered.mrc")
    out.write_bytes(raw)
    return out


def int32(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def float32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_round_trip_keeps_everything(good: Path) -> None:
    back = read_map(good)
    assert torch.equal(back.data, some_map().data)
    assert back.pixel_size == 2.75
    assert back.origin_angstrom == (1.5, -20.0, 3.25)


def test_written_file_is_valid_and_free_of_dates(good: Path, tmp_path: Path) -> None:
    assert mrcfile.validate(good)
    with mrcfile.open(good) as file:
        assert file.is_volume()
        assert int(file.header.ispg) == 1
        assert int(file.header.nlabl) == 1
        assert file.header.label[0] == b"cryoloom: density map"
    write_map(tmp_path / "again.mrc", some_map())
    assert good.read_bytes() == (tmp_path / "again.mrc").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_failed_write_leaves_the_old_file(good: Path) -> None:
    before = good.read_bytes()
    broken = some_map()
    broken.data[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 1728 values are NaN"):
        write_map(good, broken)
    assert good.read_bytes() == before
    assert [p.name for p in good.parent.iterdir()] == ["good.mrc"]


def test_float64_is_stored_as_float32_and_gz_names_refused(tmp_path: Path) -> None:
    m = some_map()
    write_map(tmp_path / "m.mrc", DensityMap(m.data.double(), m.pixel_size))
    assert read_map(tmp_path / "m.mrc").data.dtype == torch.float32
    with pytest.raises(ValueError, match="not written"):
        write_map(tmp_path / "m.mrc.gz", m)


@pytest.mark.parametrize("name", ["EMD-3197.map", "EMD-3197.map.bz2", "emd_3197.map.gz"])
def test_emdb_map_in_three_packings(shared_data: Path, name: str) -> None:
    m = read_map(shared_data / "formats/mrc" / name)
    assert m.data.shape == (20, 20, 20)
    assert m.pixel_size == 11.4
    assert m.origin_angstrom == pytest.approx((-22.8, 0, 0))
    assert float(m.data.mean()) == pytest.approx(0.78361, abs=1e-4)


def test_content_not_the_name_decides_the_packing(good: Path) -> None:
    packed = good.with_name("packed.mrc")
    packed.write_bytes(gzip.compress(good.read_bytes()))
    assert torch.equal(read_map(packed).data, some_map().data)
    packed.write_bytes(bz2.compress(good.read_bytes()))
    assert torch.equal(read_map(packed).data, some_map().data)


def test_permuted_axes_are_put_right(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "formats/mrc/iota_yzx.ccp4.gz"
    with pytest.raises(ValueError, match="differ"):
        read_map(path)
    m = read_map(path, pixel_size=1.0, cubic=False)
    # columns are y (1), rows z (2), sections x (4); the values count z by 1 and x by 42
    assert m.data.tolist() == [[[60, 102, 144, 186]], [[61, 103, 145, 187]]]
    assert m.origin_angstrom == (1.0, 20.0, -3.0)
    original = some_map(6)
    for mapc, mapr, maps in ((1, 2, 3), (2, 1, 3), (3, 1, 2), (2, 3, 1), (3, 2, 1), (1, 3, 2)):
        # array axis (section, row, column) i holds volume axis: z=0, y=1, x=2 in the array [z, y, x]
        stored = original.data.permute(3 - maps, 3 - mapr, 3 - mapc)
        write_map(tmp_path / "p.mrc", DensityMap(stored.contiguous(), 2.0))
        permuted = altered(tmp_path / "p.mrc", 64, int32(mapc, mapr, maps))
        assert torch.equal(read_map(permuted).data, original.data)


@pytest.mark.parametrize("name", ["betaGal_ngl.mrc", "emd_1997_groel.map", "emd_3488_hemoglobin.mrc", "emd_5625.map"])
def test_real_maps_agree_with_mrcfile(shared_data: Path, name: str) -> None:
    path = shared_data / "maps" / name
    m = read_map(path)
    with mrcfile.open(path) as file:
        assert np.array_equal(m.data.numpy(), file.data)
        assert m.pixel_size == pytest.approx(float(file.voxel_size.x), rel=1e-5)


def test_big_endian_and_wrong_stamp(good: Path, caplog: pytest.LogCaptureFixture) -> None:
    with mrcfile.open(good) as file:
        header, data = file.header.copy(), file.data
    big = good.with_name("big.mrc")
    header = header.astype(header.dtype.newbyteorder(">"))
    header["machst"] = (0x11, 0x11, 0, 0)
    big.write_bytes(header.tobytes() + data.astype(">f4").tobytes())
    assert torch.equal(read_map(big).data, some_map().data)
    assert not caplog.records
    stamped = altered(big, 212, b"\x44\x44")
    m = read_map(stamped)
    assert torch.equal(m.data, some_map().data)
    assert m.pixel_size == 2.75
    assert "byte-order" in caplog.text


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (0, int32(60000, 60000, 60000), "truncated"),
        (0, int32(-5), "sides"),
        (12, int32(4), "complex"),
        (12, int32(77), "mode 77"),
        (64, int32(1, 1, 3), "MAPC"),
        (92, int32(-80), "extended header"),
        (92, int32(2**31 - 1), "truncated"),
        (88, int32(401), "stack of volumes"),
        (52, float32(90, 112, 90), "cell angles"),
        (40, float32(0, 0, 0), "--pixel-size"),
        (40, float32(1e9, 1e9, 1e9), "--pixel-size"),
        (40, float32(float("nan")), "--pixel-size"),
        (40, float32(33.0, 33.0, 36.0), "differ"),
        (28, int32(0, 0, 0), "--pixel-size"),
        (1024 + 4 * 13, float32(float("nan"), float("inf")), r"2 of 1728 .* x, y, z = 1, 1, 0"),
        (8, int32(11), None),
        (8, int32(1), "image"),
    ],
)
def test_corrupt_headers(good: Path, offset: int, value: bytes, match: str | None) -> None:
    path = altered(good, offset, value)
    if match is None:
        with pytest.raises(ValueError, match="expected a cube"):
            read_map(path)
        assert read_map(path, cubic=False, pixel_size=1.0).data.shape == (11, 12, 12)
        return
    with pytest.raises(ValueError, match=match):
        read_map(path)


def test_pixel_size_argument_overrides_the_header(good: Path) -> None:
    path = altered(good, 40, float32(0, 0, 0))
    assert read_map(path, pixel_size=1.25).pixel_size == 1.25
    with pytest.raises(ValueError, match="positive"):
        read_map(good, pixel_size=0.0)


def test_truncated_short_empty_and_missing(good: Path) -> None:
    raw = good.read_bytes()
    cut = good.with_name("cut.mrc")
    for content, match in (
        (raw[:-1], "truncated"),
        (raw[:1000], "header ends"),
        (b"", "header ends"),
        (gzip.compress(raw)[:-100], "decompress"),
        (gzip.compress(raw[:-9]), "density ends"),
        (b"data_particles loop_ " * 80, "not an MRC"),
    ):
        cut.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            read_map(cut)
    with pytest.raises(ValueError, match="no such file"):
        read_map(good.with_name("absent.mrc"))


def test_trailing_bytes_are_said(good: Path, caplog: pytest.LogCaptureFixture) -> None:
    good.write_bytes(good.read_bytes() + b"xx")
    read_map(good)
    assert "beyond" in caplog.text


def test_gzip_bomb_is_refused_before_allocating(good: Path) -> None:
    raw = bytearray(good.read_bytes()[:1024])
    raw[:12] = int32(2000, 2000, 2000)
    bomb = good.with_name("bomb.mrc.gz")
    bomb.write_bytes(gzip.compress(bytes(raw) + bytes(10**6)))
    assert os.path.getsize(bomb) < 5000
    with pytest.raises(ValueError, match="1032-fold"):
        read_map(bomb)


@pytest.mark.parametrize(
    "name",
    [
        "test_data_corrupt_header.map",
        "float16.mrc",
        "sav_img_mrc_bigendian.mrc",
        "bsoft_OneImage_badvoxel.mrc",
        "5i55_tiny.ccp4",
    ],
)
def test_files_that_are_no_map_here(shared_data: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        read_map(shared_data / "formats/mrc" / name)
