"""Image names: split as written, stacks found where RELION would have them, numbers checked against the stack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoloom.particles.errors import BadInput
from cryoloom.particles.formats.relion.image_names import split
from cryoloom.particles.image_names import candidates, find_stacks, locate_images
from cryoloom.particles.particle_set import read_table
from cryoloom.particles.texts import Texts

from .conftest import SmallSet
from .files import mrc_bytes, noise_images

LINES = np.arange(100) + 10


def test_names_are_split_into_stacks_and_numbers_from_zero() -> None:
    names = ["000012@a/s.mrcs", "1@b.mrcs", "alone.mrc", "3@a/s.mrcs", "0@b.mrcs", "000000000000000000000007@b.mrcs"]
    stacks, stack, index = split(Texts.of([*names, "2@with@sign.mrcs"]), Path("x.star"), LINES)
    assert stacks == ("a/s.mrcs", "b.mrcs", "alone.mrc", "with@sign.mrcs")
    assert stack.tolist() == [0, 1, 2, 0, 1, 1, 3]
    # -1: the only image of its file; -2: number 0, which no stack holds
    assert index.tolist() == [11, 0, -1, 2, -2, -2, 1]


@pytest.mark.parametrize("name", ["x1@s.mrcs", "@s.mrcs", "1@", "1.5@s.mrcs", "-1@s.mrcs", "１@s.mrcs", "<NA>", ""])
def test_names_that_are_none_are_refused_with_row_and_line(name: str) -> None:
    with pytest.raises(BadInput, match=r"row 2 \(line 11\)"):
        split(Texts.of(["1@s.mrcs", name]), Path("x.star"), LINES)


def test_stacks_are_looked_for_from_the_data_folder_outwards(tmp_path: Path) -> None:
    star = tmp_path / "a" / "b" / "c" / "x.star"
    found = candidates("f/s.mrcs", star, Path("/data"))
    assert found[:3] == [Path("/data/f/s.mrcs"), Path("/data/s.mrcs"), tmp_path / "a/b/c/f/s.mrcs"]
    assert found[3:5] == [tmp_path / "a/b/f/s.mrcs", tmp_path / "a/f/s.mrcs"]
    assert found[-1] == Path.cwd() / "f/s.mrcs"
    assert candidates("/f/s.mrcs", star, Path("/data")) == [Path("/f/s.mrcs"), Path("/data/s.mrcs")]


def test_two_names_of_one_file_are_one_stack(small: SmallSet) -> None:
    rows = [f"{i + 1}@{'stack.mrcs' if i % 2 else './stack.mrcs'} 15000 15000 0 1 x" for i in range(6)]
    text = small.star.read_text()
    for old, new in zip(small.content.rows, rows, strict=True):
        text = text.replace(old, new)
    small.star.write_text(text)
    table = read_table(small.star)
    assert len(table.stacks) == 2
    places = locate_images(table, find_stacks(table, None), [])
    assert len(places.stacks) == 1
    assert places.stack.tolist() == [0] * 6
    assert places.index.tolist() == list(range(6))


def test_a_name_without_number_needs_a_file_of_one_image(small: SmallSet) -> None:
    (small.star.parent / "one.mrc").write_bytes(mrc_bytes(noise_images(1), pixel_size=3.5))
    small.star.write_text(small.star.read_text().replace("000003@stack.mrcs", "one.mrc"))
    table = read_table(small.star)
    assert locate_images(table, find_stacks(table, None), []).index.tolist() == [0, 1, 0, 3, 4, 5]
    small.star.write_text(small.star.read_text().replace("one.mrc", "stack.mrcs"))
    table = read_table(small.star)
    with pytest.raises(BadInput, match="row 3"):
        locate_images(table, find_stacks(table, None), [])
