"""MRC headers in either byte order, beside what mrcfile makes of them."""

import io

import mrcfile
import numpy as np
import pytest

from cryoloom.files.mrc import HEADER_BYTES, MeaninglessHeader, MrcHeader, PixelStatistics, new_header


def header_of(shape=(3, 8, 8), dtype="<f4", images=True) -> bytes:
    values = np.arange(np.prod(shape)).astype(dtype)
    statistics = PixelStatistics.of(values)
    return new_header(shape, np.dtype(dtype), 1.5, statistics, label="a test", images=images)


@pytest.mark.parametrize("dtype", ["i1", "<i2", "<f4", "<u2", "<f2"])
@pytest.mark.parametrize("images", [True, False])
def test_new_headers_are_valid_and_read_back(tmp_path, dtype, images):
    values = np.arange(5 * 6 * 6).reshape(5, 6, 6).astype(dtype)
    raw = new_header((5, 6, 6), values.dtype, 1.5, PixelStatistics.of(values), label="a test", images=images)
    assert len(raw) == HEADER_BYTES
    path = tmp_path / "stack.mrc"
    path.write_bytes(raw + values.tobytes())
    if dtype != "<f2":  # mrcfile checks the mean with sums in half precision
        assert mrcfile.validate(path, print_file=io.StringIO())
    with mrcfile.open(path) as file:
        assert file.is_image_stack() == images
        assert file.is_volume() != images
        assert np.array_equal(file.data, values)
        assert float(file.voxel_size.x) == 1.5
        assert float(file.header.rms) == pytest.approx(values.astype(float).std())
    header = MrcHeader.parse(raw)
    assert header.shape == (5, 6, 6)
    assert header.pixel_type == values.dtype
    assert header.order == header.stated_order == "<"
    assert header.axes == (1, 2, 3)
    assert header.voxel_angstrom == (1.5, 1.5, 1.5)


def test_byte_order_is_that_in_which_the_header_makes_sense():
    little = header_of()
    big = bytearray(np.frombuffer(little, "<i4").byteswap().tobytes())
    big[212:214] = little[212:214]
    assert MrcHeader.parse(big).shape == (3, 8, 8)
    assert MrcHeader.parse(big).order == ">"
    assert MrcHeader.parse(big).stated_order == "<"  # wrongly
    assert MrcHeader.parse(big).pixel_type == np.dtype(">f4")


def test_bytes_of_imod_are_unsigned_unless_flagged():
    raw = bytearray(header_of(dtype="i1"))
    assert MrcHeader.parse(raw).pixel_type == np.dtype("i1")
    raw[152:160] = np.array([1146047817, 0], "<i4").tobytes()
    assert MrcHeader.parse(raw).pixel_type == np.dtype("u1")
    raw[156:160] = np.array([1], "<i4").tobytes()
    assert MrcHeader.parse(raw).pixel_type == np.dtype("i1")


def test_nonsense_is_refused_with_its_numbers():
    raw = bytearray(header_of())
    raw[12:16] = np.array([77], "<i4").tobytes()
    with pytest.raises(MeaninglessHeader, match="sides 8, 8, 3 and mode 77"):
        MrcHeader.parse(raw)
