"""Every way in which particles can be bad gets what the table of bad input promises; names carry the row's number."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.particles.batches import ParticleSource
from cryoloom.particles.errors import BadInput
from cryoloom.particles.formats.relion.star import read_star
from cryoloom.particles.input_poses import InputPoses
from cryoloom.particles.particle_set import open_particles, write_particles
from cryoloom.particles.preprocess import measure
from cryoloom.particles.stack import read_header
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.table import ImageResults
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import random_rotations

from .conftest import SmallSet
from .files import mrc_bytes, noise_images, particle_row


def refused(call: Callable[[], object], *words: str) -> str:
    """The message of the BadInput that the call must raise; it must hold all words."""
    with pytest.raises(BadInput) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    return message


def spoil(small: SmallSet, **changes) -> Path:
    """The set's STAR file, written with other parts."""
    small.star.write_text(replace(small.content, **changes).text())
    return small.star


def with_column(small: SmallSet, column: str, values: list[str], old: str | None = None) -> Path:
    """The set's STAR file with a particle column added, or one replaced."""
    rows = [r.split() for r in small.content.rows]
    columns = list(small.content.columns)
    if old is None:
        columns.append(column)
        rows = [[*r, v] for r, v in zip(rows, values, strict=True)]
    else:
        i = columns.index(old)
        columns[i] = column
        rows = [[*r[:i], v, *r[i + 1 :]] for r, v in zip(rows, values, strict=True)]
    return spoil(small, columns=tuple(columns), rows=tuple(" ".join(r) for r in rows))


def with_optics(small: SmallSet, **values: str) -> Path:
    """The set's STAR file with other values in its one optics group."""
    row = dict(zip(small.content.optics_columns, small.content.optics_rows[0].split(), strict=True))
    return spoil(small, optics_rows=(" ".join({**row, **values}.values()),))


def without_optics(small: SmallSet, *columns: str) -> Path:
    """The set's STAR file with columns taken out of the optics table."""
    row = dict(zip(small.content.optics_columns, small.content.optics_rows[0].split(), strict=True))
    kept = {k: v for k, v in row.items() if k not in columns}
    return spoil(small, optics_columns=tuple(kept), optics_rows=(" ".join(kept.values()),))


def header_with(small: SmallSet, fields: dict[int, int]) -> Path:
    """The set's stack with int32 fields of its header replaced, by byte."""
    data = bytearray(small.stack.read_bytes())
    for position, value in fields.items():
        struct.pack_into("<i", data, position, value)
    small.stack.write_bytes(bytes(data))
    return small.star


def test_good_set_opens_without_a_note_on_its_files(small: SmallSet) -> None:
    particles = open_particles(small.star)
    assert particles.notes == ("Only 6 particles: expect a map of low resolution, if any.",)


def test_row01_missing_stacks_are_listed_five_at_a_time(small: SmallSet) -> None:
    rows = tuple(particle_row(1, f"gone{i}.mrcs") for i in range(7))
    message = refused(
        lambda: open_particles(spoil(small, rows=rows)), "7 of 7", "gone0.mrcs", "gone4.mrcs", "--datadir"
    )
    assert "gone5.mrcs" not in message
    assert "2 more" in message


def test_row01_missing_star_file(tmp_path: Path) -> None:
    refused(lambda: open_particles(tmp_path / "none.star"), "does not exist", "none.star")


def test_row02_relative_paths_are_tried_from_the_star_its_parents_and_datadir(small: SmallSet, tmp_path: Path) -> None:
    # as RELION does: names relative to the project, the STAR file in a job's folder below it
    job = tmp_path / "Extract" / "job007"
    job.mkdir(parents=True)
    star = job / "particles.star"
    star.write_text(small.content.text())
    particles = open_particles(star)
    assert particles.places.stacks[0].path.resolve() == small.stack.resolve()
    assert any(
        "found elsewhere than beside the particle file" in note and str(small.stack) in note for note in particles.notes
    )
    elsewhere = tmp_path.parent / "elsewhere"
    elsewhere.mkdir()
    moved = elsewhere / "stack.mrcs"
    small.stack.rename(moved)
    refused(lambda: open_particles(star), "missing", "stack.mrcs", "--datadir")
    assert open_particles(star, StatedInput(datadir=str(elsewhere))).places.stacks[0].path == moved
    refused(lambda: open_particles(star, StatedInput(datadir=str(elsewhere / "nowhere"))), "nowhere", "--datadir")


def test_row03_empty_files(small: SmallSet) -> None:
    small.stack.write_bytes(b"")
    refused(lambda: open_particles(small.star), "empty", "stack.mrcs", "0 bytes")
    small.star.write_bytes(b"")
    refused(lambda: open_particles(small.star), "empty", "particles.star")


def test_row04_text_renamed_to_a_stack(small: SmallSet) -> None:
    small.stack.write_text("x y value\n" + "1 2 3.5\n" * 400)
    refused(lambda: open_particles(small.star), "text file", "stack.mrcs")


@pytest.mark.parametrize("length", [10, 100, 1023])
def test_row05_header_cut_short(small: SmallSet, length: int) -> None:
    small.stack.write_bytes(small.stack.read_bytes()[:length])
    refused(lambda: open_particles(small.star), "cut short", f"{length} bytes", "1024")


@pytest.mark.parametrize("lost", [1, 1024, 3000])
def test_row06_truncated_stack(small: SmallSet, lost: int) -> None:
    whole = small.stack.read_bytes()
    small.stack.write_bytes(whole[:-lost])
    refused(lambda: open_particles(small.star), "truncated", f"{len(whole) - lost} bytes", f"{len(whole)} bytes")


@pytest.mark.parametrize("side", [60000, 16000])
def test_row07_absurd_header_is_refused_before_allocating(small: SmallSet, side: int) -> None:
    star = header_with(small, {0: side, 4: side, 8: side})
    tracemalloc.start()
    refused(lambda: open_particles(star), "stack.mrcs")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("extended", [-4, -2000, 2**31 - 1])
def test_row08_impossible_extended_header(small: SmallSet, extended: int) -> None:
    refused(lambda: open_particles(header_with(small, {92: extended})), "extended header", str(extended), "stack.mrcs")


def test_row08_a_true_extended_header_is_skipped(small: SmallSet) -> None:
    small.stack.write_bytes(mrc_bytes(small.images, pixel_size=3.5, extended=b"\x01" * 320))
    np.testing.assert_array_equal(open_particles(small.star).read(np.arange(6)), small.images)


def test_row09_gzip_bomb_is_refused_unread(small: SmallSet) -> None:
    small.stack.write_bytes(gzip.compress(bytes(64 << 20)))
    tracemalloc.start()
    refused(lambda: open_particles(small.star), "gzip", "unpack")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(("order", "stamp"), [("<", b"\x11\x11\0\0"), (">", b"\x44\x44\0\0"), ("<", b"\0\0\0\0")])
def test_row10_wrong_byte_order_stamp_is_said_and_overruled(small: SmallSet, order: str, stamp: bytes) -> None:
    small.stack.write_bytes(mrc_bytes(small.images, order=order, stamp=stamp, pixel_size=3.5))
    particles = open_particles(small.star)
    assert any("byte-order" in note for note in particles.notes)
    np.testing.assert_array_equal(particles.read(np.arange(6)), small.images)


def test_row10_header_without_sense_in_either_order(small: SmallSet) -> None:
    refused(lambda: open_particles(header_with(small, {12: 12345})), "byte order", "12345")


def test_row11_trailing_bytes_are_said(small: SmallSet) -> None:
    small.stack.write_bytes(small.stack.read_bytes() + b"\0" * 77)
    particles = open_particles(small.star)
    assert any("77 bytes follow" in note for note in particles.notes)
    np.testing.assert_array_equal(particles.read(np.arange(6)), small.images)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row12_nan_and_infinite_pixels(small: SmallSet, value: float) -> None:
    images = small.images.copy()
    images[[1, 4], 3, 3] = value
    small.stack.write_bytes(mrc_bytes(images, pixel_size=3.5))
    line = small.content.first_line()
    words = ("2 image(s)", "NaN", "row 2, 5", f"line {line + 1}, {line + 4}", "--on-bad")
    refused(lambda: open_particles(small.star), *words)
    particles = open_particles(small.star, StatedInput(on_bad="drop"))
    assert particles.rows.tolist() == [0, 2, 3, 5]
    assert list(particles.table.texts("someUnknownColumn")) == ["text1", "text3", "text4", "text6"]
    assert len(particles.ctf) == len(particles.group) == 4
    assert any("row 2, 5" in note for note in particles.notes)
    np.testing.assert_array_equal(particles.read(np.arange(4)), images[[0, 2, 3, 5]])


def test_row12_without_a_scan_the_batch_names_the_row(small: SmallSet) -> None:
    particles = open_particles(small.star)
    preprocessing = measure(particles, particle_diameter_angstrom=40, box=None, generator=torch.Generator())
    images = small.images.copy()
    images[4, 3, 3] = np.nan
    small.stack.write_bytes(mrc_bytes(images, pixel_size=3.5))
    source = ParticleSource(open_particles(small.star, scan=False), preprocessing, FourierDisc.create(16, 3.5), 0)
    refused(lambda: source.batch(np.arange(3, 6)), "row 5", "particles.star")


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_row13_images_without_contrast(small: SmallSet, value: float) -> None:
    images = small.images.copy()
    images[2] = value
    small.stack.write_bytes(mrc_bytes(images, pixel_size=3.5))
    refused(lambda: open_particles(small.star), "same value", "row 3", "--on-bad")
    assert open_particles(small.star, StatedInput(on_bad="drop")).rows.tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("place", [(8, 8), (0, 0)])
def test_row14_hot_pixels_are_said_and_clipped(tmp_path: Path, small: SmallSet, place: tuple[int, int]) -> None:
    images = noise_images(box=32)
    clean = images.copy()
    images[3][place] = 1e5
    rows = tuple(r for r in small.content.rows)
    star = with_optics(small, rlnImageSize="32")
    assert rows == small.content.rows
    found = []
    for pixels in (clean, images):
        small.stack.write_bytes(mrc_bytes(pixels, pixel_size=3.5))
        particles = open_particles(star)
        preprocessing = measure(particles, particle_diameter_angstrom=80, box=None, generator=torch.Generator())
        found.append(
            ParticleSource(particles, preprocessing, FourierDisc.create(32, 3.5), 0).batch(np.arange(6)).observed
        )
    assert any("20 s.d." in note and "row 4" in note for note in particles.notes)
    # one pixel at the clipping level, 8 to 10 s.d., changes no coefficient by more than that
    assert float((found[0] - found[1]).abs().max()) < 12
    assert torch.equal(found[0][:3], found[1][:3])


def test_row15_odd_boxes(small: SmallSet) -> None:
    images = noise_images(box=17)
    small.stack.write_bytes(mrc_bytes(images, pixel_size=3.5))
    particles = open_particles(with_optics(small, rlnImageSize="17"))
    assert particles.box == 17
    np.testing.assert_array_equal(particles.read(np.arange(6)), images)
    preprocessing = measure(particles, particle_diameter_angstrom=40, box=None, generator=torch.Generator())
    batch = ParticleSource(particles, preprocessing, FourierDisc.create(17, 3.5), 0).batch(np.arange(6))
    assert torch.isfinite(batch.observed.abs()).all()


def test_row16_images_that_are_not_square(small: SmallSet) -> None:
    small.stack.write_bytes(mrc_bytes(small.images[:, :12]))
    refused(lambda: open_particles(small.star), "not square", "16 x 12", "stack.mrcs")


def test_row17_star_and_stack_disagree(small: SmallSet) -> None:
    refused(lambda: open_particles(with_optics(small, rlnImageSize="20")), "20", "16 pixels in the stack", "box")
    star = with_optics(small, rlnImagePixelSize="1.75")
    refused(lambda: open_particles(star), "1.7500", "3.5000", "--pixel-size")
    assert open_particles(star, StatedInput(pixel_size=1.75)).pixel_size == 1.75


def two_groups(small: SmallSet, pixel_size: float, box: int) -> Path:
    """Rows 4 to 6 moved to a second group with a stack of its own."""
    (small.star.parent / "fine.mrcs").write_bytes(mrc_bytes(noise_images(3, box, 9), pixel_size=pixel_size))
    rows = [*small.content.rows[:3], *(particle_row(i, "fine.mrcs", group=2) for i in (1, 2, 3))]
    second = f"2 titan 300.0 2.7 0.1 {pixel_size} {box}"
    return spoil(small, optics_rows=(*small.content.optics_rows, second), rows=tuple(rows))


def test_row18_groups_of_other_boxes_are_rescaled_to_the_coarsest(small: SmallSet) -> None:
    particles = open_particles(two_groups(small, pixel_size=1.75, box=32))
    assert (particles.box, particles.pixel_size) == (16, 3.5)
    assert any("titan" in note and "32 px of 1.75" in note for note in particles.notes)
    assert particles.group.tolist() == [0, 0, 0, 1, 1, 1]
    images = particles.read(np.array([4, 0]))
    np.testing.assert_array_equal(images[1], small.images[0])
    # half the pixels over the same view: the coefficients that both have agree, the others are gone
    fine = np.fft.rfft2(noise_images(3, 32, 9)[1])[:7, :7] / 4
    np.testing.assert_allclose(np.fft.rfft2(images[0])[:7, :7], fine, atol=2e-4)


def test_row18_one_group_with_two_boxes_is_named(small: SmallSet) -> None:
    (small.star.parent / "other.mrcs").write_bytes(mrc_bytes(noise_images(3, 20), pixel_size=3.5))
    rows = (*small.content.rows[:3], *(particle_row(i, "other.mrcs") for i in (1, 2, 3)))
    columns = tuple(c for c in small.content.optics_columns if c != "rlnImageSize")
    star = spoil(small, rows=rows, optics_columns=columns, optics_rows=("1 glacios 200.0 2.7 0.1 3.5",))
    refused(lambda: open_particles(star), "glacios", "16, 20")


@pytest.mark.parametrize("number", [0, 7, 999999])
def test_row19_image_number_outside_its_stack(small: SmallSet, number: int) -> None:
    rows = (*small.content.rows[:5], particle_row(number))
    line = small.content.first_line() + 5
    refused(lambda: open_particles(spoil(small, rows=rows)), "row 6", f"line {line}", f"{number:06d}@", "1 to 6")


@pytest.mark.parametrize("name", ["-1@stack.mrcs", "one@stack.mrcs", "@stack.mrcs", "000001@", "1.5@stack.mrcs"])
def test_row19_malformed_image_names(small: SmallSet, name: str) -> None:
    rows = (small.content.rows[0].replace("000001@stack.mrcs", name), *small.content.rows[1:])
    refused(lambda: open_particles(spoil(small, rows=rows)), "row 1", name, "000001@particles.mrcs")


def test_row20_duplicate_images(small: SmallSet) -> None:
    star = spoil(small, rows=(*small.content.rows, small.content.rows[1], small.content.rows[3]))
    refused(lambda: open_particles(star), "row 7, 8", "000002@stack.mrcs", "--on-duplicates")
    assert len(open_particles(star, StatedInput(on_duplicates="keep"))) == 8
    dropped = open_particles(star, StatedInput(on_duplicates="drop"))
    assert dropped.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert any("2 rows repeat" in note and "dropped" in note for note in dropped.notes)


def test_row20_the_same_image_by_two_names(small: SmallSet) -> None:
    star = spoil(small, rows=(*small.content.rows, particle_row(1, "./stack.mrcs")))
    refused(lambda: open_particles(star), "row 7", "--on-duplicates")


def test_row21_fewer_rows_than_images(small: SmallSet) -> None:
    particles = open_particles(spoil(small, rows=small.content.rows[:4]))
    assert any("4 rows" in note and "4 of the 6 images" in note for note in particles.notes)


def edit_line(small: SmallSet, row: int, edit: Callable[[str], str]) -> int:
    """Edits one particle row in the file; its line number."""
    number = small.content.first_line() + row
    lines = small.star.read_text().split("\n")
    lines[number - 1] = edit(lines[number - 1])
    small.star.write_text("\n".join(lines))
    return number


def test_row22_short_row(small: SmallSet) -> None:
    line = edit_line(small, 2, lambda text: text.rsplit(" ", 1)[0])
    refused(lambda: open_particles(small.star), "short", f"line {line}", "5 values", "6 values")


def test_row23_long_row(small: SmallSet) -> None:
    line = edit_line(small, 3, lambda text: text + " more")
    refused(lambda: open_particles(small.star), "long", f"line {line}", "7 values")


def test_row23_a_short_row_made_good_by_a_long_one_is_still_seen(small: SmallSet) -> None:
    # as many values as there should be, all in the wrong columns from there on
    line = edit_line(small, 2, lambda text: text.rsplit(" ", 1)[0])
    edit_line(small, 3, lambda text: "text3 " + text)
    refused(lambda: open_particles(small.star), "short", f"line {line}")


def test_row24_last_line_cut(small: SmallSet) -> None:
    text = small.star.read_text().rstrip("\n")
    small.star.write_text(text[:-25])
    line = small.content.first_line() + 5
    refused(lambda: open_particles(small.star), "cut", f"line {line}", "copy it again")


def test_row24_a_last_value_that_may_be_cut_is_said(small: SmallSet) -> None:
    small.star.write_text(small.star.read_text().rstrip("\n")[:-1])
    assert any("may have been cut" in note for note in open_particles(small.star).notes)


def test_row25_duplicate_block(small: SmallSet) -> None:
    text = small.star.read_text()
    small.star.write_text(text + text[text.index("data_particles") :])
    refused(lambda: open_particles(small.star), "data_particles", "twice", "lines")


def test_row26_duplicate_column(small: SmallSet) -> None:
    columns = (*small.content.columns[:5], "rlnDefocusU")
    refused(lambda: open_particles(spoil(small, columns=columns)), "rlnDefocusU", "twice", "line")


@pytest.mark.parametrize(
    ("column", "option"),
    [
        ("rlnVoltage", "--voltage"),
        ("rlnSphericalAberration", "--cs"),
        ("rlnAmplitudeContrast", "--amplitude-contrast"),
    ],
)
def test_row27_missing_column_is_named_with_its_option(small: SmallSet, column: str, option: str) -> None:
    star = without_optics(small, column)
    refused(lambda: open_particles(star), column, option, "particles.star")
    particles = open_particles(star, StatedInput(voltage_kv=120, spherical_aberration_mm=2.0, amplitude_contrast=0.2))
    assert particles.ctf.voltage_kv.tolist() == [120.0] * 6
    assert particles.ctf.spherical_aberration_mm.tolist() == [2.0] * 6
    assert particles.ctf.amplitude_contrast.tolist() == [0.2] * 6


def test_row27_no_image_names(small: SmallSet) -> None:
    star = spoil(small, columns=("rlnSomethingElse", *small.content.columns[1:]))
    refused(lambda: open_particles(star), "rlnImageName", "rlnSomethingElse")


def test_row27_no_particle_table(small: SmallSet) -> None:
    small.star.write_text("data_model_general\n_rlnReferenceDimensionality 3\n")
    refused(lambda: open_particles(small.star), "no particles", "data_model_general")


def test_row28_latin1_bytes(small: SmallSet) -> None:
    data = small.star.read_bytes().replace(b"text3", b"t\xe9xt3")
    small.star.write_bytes(data)
    line = small.content.first_line() + 2
    refused(
        lambda: open_particles(small.star), f"line {line}", "0xe9", f"byte {data.index(0xE9) + 1} of the file", "iconv"
    )


@pytest.mark.parametrize("junk", [b"\x00", b"\x07", b"\x1b"])
def test_row28_binary_bytes(small: SmallSet, junk: bytes) -> None:
    small.star.write_bytes(small.star.read_bytes().replace(b"text3", b"t" + junk + b"xt3"))
    refused(lambda: open_particles(small.star), f"line {small.content.first_line() + 2}", f"0x{junk[0]:02x}", "binary")


def test_row28_a_stack_given_as_star_file(small: SmallSet) -> None:
    small.star.write_bytes(small.stack.read_bytes())
    refused(lambda: open_particles(small.star), "binary", "line 1")


@pytest.mark.parametrize("value", ["<NA>", "nan", "''", "inf", "None", "12,5"])
def test_row29_needed_values_that_are_no_numbers(small: SmallSet, value: str) -> None:
    values = ["15000", "15000", value, "15000", value, "15000"]
    line = small.content.first_line()
    star = with_column(small, "rlnDefocusU", values, old="rlnDefocusU")
    words = ("2 value(s)", "rlnDefocusU", "row 3, 5", f"line {line + 2}, {line + 4}", value.strip("'"))
    refused(lambda: open_particles(star), *words)


def test_row29_values_that_are_not_needed_may_be_empty(small: SmallSet) -> None:
    star = with_column(small, "someUnknownColumn", ["<NA>", "''", "nan", "a", "b", "c"], old="someUnknownColumn")
    assert list(open_particles(star).table.texts("someUnknownColumn")) == ["<NA>", "", "nan", "a", "b", "c"]


def test_row30_unknown_optics_group(small: SmallSet) -> None:
    rows = (*small.content.rows[:5], particle_row(6, group=3))
    line = small.content.first_line() + 5
    refused(lambda: open_particles(spoil(small, rows=rows)), "group 3", "row 6", f"line {line}", "one of 1")


def relion30(small: SmallSet, **extra: str) -> Path:
    """The set without an optics table, with columns of one value added."""
    columns = [c for c in small.content.columns if c != "rlnOpticsGroup"]
    rows = [" ".join([*(v for i, v in enumerate(r.split()) if i != 4), *extra.values()]) for r in small.content.rows]
    return spoil(small, optics_columns=(), columns=(*columns, *extra), rows=tuple(rows))


def test_row31_no_optics_table_is_relion30(small: SmallSet) -> None:
    star = relion30(
        small,
        rlnVoltage="300",
        rlnSphericalAberration="2.7",
        rlnAmplitudeContrast="0.1",
        rlnDetectorPixelSize="7.0",
        rlnMagnification="20000",
    )
    particles = open_particles(star)
    assert read_star(star).block("optics") is None
    assert particles.pixel_size == pytest.approx(3.5)
    assert particles.ctf.voltage_kv.tolist() == [300.0] * 6


def test_row31_values_missing_there_are_asked_for(small: SmallSet) -> None:
    star = relion30(small)
    refused(lambda: open_particles(star), "rlnVoltage", "RELION 3.0", "--voltage")
    refused(lambda: open_particles(star, StatedInput(voltage_kv=300)), "--cs")
    refused(
        lambda: open_particles(star, StatedInput(voltage_kv=300, spherical_aberration_mm=2.7)), "--amplitude-contrast"
    )
    open_particles(star, StatedInput(voltage_kv=300, spherical_aberration_mm=2.7, amplitude_contrast=0.1))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1.5"] * 6, ("um", "10000", "1.5")),
        (["15000"] * 5 + ["0"], ("row 6", "--no-ctf")),
        (["15000"] * 5 + ["-20000"], ("row 6", "-20000", "underfocus is positive")),
        (["1.5e7"] * 6, ("angstrom", "1.5e+07")),
    ],
)
@pytest.mark.parametrize("column", ["rlnDefocusU", "rlnDefocusV"])
def test_row32_defocus_in_other_units(small: SmallSet, column: str, values: list[str], words: tuple[str, ...]) -> None:
    refused(lambda: open_particles(with_column(small, column, values, old=column)), column, *words)


def test_row33_voltage_in_volts(small: SmallSet) -> None:
    star = with_optics(small, rlnVoltage="300000")
    refused(lambda: open_particles(star), "rlnVoltage", "300000", "volts", "divide by 1000")
    assert float(open_particles(star, StatedInput(voltage_kv=300)).ctf.voltage_kv[0]) == 300
    refused(lambda: open_particles(with_optics(small, rlnAmplitudeContrast="10")), "rlnAmplitudeContrast", "percent")
    refused(
        lambda: open_particles(with_optics(small, rlnSphericalAberration="2700")),
        "rlnSphericalAberration",
        "millimetres",
    )


@pytest.mark.parametrize("size", ["0", "1.0", "-3.5", "0.0001"])
def test_row34_pixel_size_that_is_a_placeholder(small: SmallSet, size: str) -> None:
    star = with_optics(small, rlnImagePixelSize=size)
    refused(lambda: open_particles(star), "rlnImagePixelSize", "--pixel-size")
    assert open_particles(star, StatedInput(pixel_size=1.0)).pixel_size == 1.0


def test_row34_without_a_column_the_header_decides(small: SmallSet) -> None:
    star = without_optics(small, "rlnImagePixelSize")
    assert open_particles(star).pixel_size == pytest.approx(3.5)
    small.stack.write_bytes(mrc_bytes(small.images, pixel_size=1.0))
    refused(lambda: open_particles(star), "header", "--pixel-size")
    refused(lambda: open_particles(star, StatedInput(pixel_size=0.0)), "0.05 to 100")


def test_row35_no_ctf_columns(small: SmallSet) -> None:
    star = spoil(
        small,
        columns=("rlnImageName", "rlnOpticsGroup"),
        rows=tuple(" ".join((r.split()[0], r.split()[4])) for r in small.content.rows),
    )
    refused(lambda: open_particles(star), "rlnDefocusU", "--no-ctf")
    particles = open_particles(star, StatedInput(no_ctf=True))
    from cryoloom.physics.ctf import evaluate_ctf

    k = torch.tensor([[0.0, 0.0], [0.05, 0.0], [0.03, -0.1]], dtype=torch.float64)
    torch.testing.assert_close(evaluate_ctf(particles.ctf, k), torch.ones(6, 3, dtype=torch.float64))
    assert not particles.has_ctf


def test_row36_absent_phase_shift_is_zero(small: SmallSet) -> None:
    ctf = open_particles(small.star).ctf
    assert ctf.phase_shift_radian.tolist() == [0.0] * 6
    assert ctf.scale.tolist() == [1.0] * 6
    shifted = open_particles(with_column(small, "rlnPhaseShift", ["90"] * 6)).ctf
    torch.testing.assert_close(shifted.phase_shift_radian, torch.full((6,), np.pi / 2, dtype=torch.float64))
    refused(lambda: open_particles(with_column(small, "rlnPhaseShift", ["90"] * 5 + ["nan"])), "rlnPhaseShift", "row 6")


@pytest.mark.parametrize("column", ["rlnCtfDataAreCtfPremultiplied", "rlnCtfPremultiplied"])
def test_row37_premultiplied_by_the_columns(small: SmallSet, column: str) -> None:
    particles = open_particles(with_column(small, column, ["1"] * 6))
    assert particles.ctf_premultiplied
    assert not particles.phase_flipped
    assert any(column in note for note in particles.notes)
    assert not open_particles(with_column(small, column, ["0"] * 6)).ctf_premultiplied


def test_row37_phase_flipped_by_the_columns(small: SmallSet) -> None:
    assert open_particles(with_column(small, "rlnCtfDataArePhaseFlipped", ["1"] * 6)).phase_flipped
    star = with_column(small, "rlnCtfDataArePhaseFlipped", ["1", "0", "1", "1", "1", "1"])
    refused(lambda: open_particles(star), "rlnCtfDataArePhaseFlipped", "Only some")


@pytest.mark.parametrize("name", ["particles.cs", "particles.mrcs", "particles"])
def test_other_formats_are_refused_by_name(tmp_path: Path, name: str) -> None:
    refused(lambda: open_particles(tmp_path / name), name, "STAR file")


def test_row43_matrices_are_projected_within_tolerance(generator: torch.Generator) -> None:
    R = random_rotations(5, generator)
    noisy = R + 1e-4 * torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    poses = InputPoses.from_matrices(noisy, torch.zeros(5, 2, dtype=torch.float64), Path("poses.pkl"))
    torch.testing.assert_close(poses.R @ poses.R.mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    torch.testing.assert_close(poses.R, R, atol=1e-3, rtol=0)
    noisy[3] *= 1.2
    refused(
        lambda: InputPoses.from_matrices(noisy, torch.zeros(5, 2, dtype=torch.float64), Path("poses.pkl")),
        "row 4",
        "orthonormal",
        "poses.pkl",
    )
    noisy[3] = torch.nan
    refused(lambda: InputPoses.from_matrices(noisy, torch.zeros(5, 2, dtype=torch.float64), Path("poses.pkl")), "row 4")


def test_row44_reflections(generator: torch.Generator) -> None:
    R = random_rotations(5, generator)
    R[1] = R[1] @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    refused(
        lambda: InputPoses.from_matrices(R, torch.zeros(5, 2, dtype=torch.float64), Path("poses.pkl")),
        "row 2",
        "reflection",
    )


def test_row45_unicode_and_spaces_in_paths(tmp_path: Path) -> None:
    folder = tmp_path / "Größe µm 粒子 #1"
    folder.mkdir()
    images = noise_images()
    (folder / "mein Stapel é.mrcs").write_bytes(mrc_bytes(images, pixel_size=3.5))
    rows = "".join(f"'{i + 1}@mein Stapel é.mrcs' 15000 15000 0 \"mic {i} ü.mrc\"\n" for i in range(6))
    head = "data_\nloop_\n_rlnImageName\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n_rlnMicrographName\n"
    star = folder / "тест.star"
    star.write_text(head + rows, encoding="utf-8")
    options = {"pixel_size": 3.5, "voltage_kv": 300, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
    particles = open_particles(star, StatedInput(**options))
    np.testing.assert_array_equal(particles.read(np.arange(6)), images)
    write_particles(folder / "out ö.star", particles, ImageResults())
    again = open_particles(folder / "out ö.star")
    np.testing.assert_array_equal(again.read(np.arange(6)), images)
    assert list(again.table.texts("rlnMicrographName")) == [f"mic {i} ü.mrc" for i in range(6)]


def test_row46_markup_in_names_is_kept_as_text(small: SmallSet) -> None:
    script = "<script>alert(1)</script>"
    particles = open_particles(with_optics(small, rlnOpticsGroupName=script))
    assert particles.group_names == (script,)


def test_row47_names_in_the_input_decide_no_output(small: SmallSet, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    star = with_column(small, "rlnMicrographName", ["../../evil.mrc", "/etc/evil"] * 3)
    before = {p for p in tmp_path.rglob("*")}
    write_particles(out / "new.star", open_particles(star), ImageResults())
    assert {p for p in tmp_path.rglob("*")} - before == {out / "new.star"}


def test_row49_folder_that_does_not_exist(small: SmallSet, tmp_path: Path) -> None:
    refused(
        lambda: write_particles(tmp_path / "none" / "new.star", open_particles(small.star), ImageResults()),
        "can't be written",
    )


def test_row58_stack_cut_or_gone_during_the_run(small: SmallSet) -> None:
    particles = open_particles(small.star)
    whole = small.stack.read_bytes()
    small.stack.write_bytes(whole[:-2000])
    refused(lambda: particles.read(np.arange(6)), "changed", f"{len(whole) - 2000}", f"{len(whole)}", "stack.mrcs")
    small.stack.unlink()
    refused(lambda: particles.read(np.arange(6)), "stack.mrcs")
    refused(lambda: particles.fingerprint(), "stack.mrcs")


def test_row58_stack_cut_between_the_check_and_the_read(small: SmallSet, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoloom.particles import stack

    particles = open_particles(small.star)
    # the size is right when asked for, the bytes are gone when read
    real = stack._read_run

    def cut_then_read(handle: int, header: stack.StackHeader, first: int, count: int) -> np.ndarray:
        with open(small.stack, "r+b") as f:
            f.truncate(3000)
        return real(handle, header, first, count)

    monkeypatch.setattr(stack, "_read_run", cut_then_read)
    refused(lambda: particles.read(np.arange(6)), "changed", "3000")


@pytest.mark.parametrize("count", [0, 1])
def test_row59_no_or_one_particle(small: SmallSet, count: int) -> None:
    content = replace(small.content, rows=small.content.rows[:count])
    small.star.write_text(content.text())
    refused(lambda: open_particles(small.star), "too few", f"{count} of {count}", "at least 2")


def test_row60_few_particles_are_said(small: SmallSet) -> None:
    particles = open_particles(small.star)
    assert any("Only 6 particles" in note for note in particles.notes)
    preprocessing = measure(particles, particle_diameter_angstrom=None, box=None, generator=torch.Generator())
    assert torch.isfinite(preprocessing.noise).all()
    assert (preprocessing.noise > 0).all()


@pytest.mark.parametrize("name", ["singleImage.spi", "singleImage.hed", "singleImage_swap.spi", "smallStack.stk"])
def test_files_of_other_programs_are_refused_as_stacks(shared_data: Path, name: str) -> None:
    refused(lambda: read_header(shared_data / "formats" / "xmipp" / name), name)


def test_row07_corrupt_header_of_a_real_map(shared_data: Path) -> None:
    refused(lambda: read_header(shared_data / "formats" / "mrc" / "test_data_corrupt_header.map"), "corrupt_header")


def test_row09_compressed_real_maps(shared_data: Path) -> None:
    refused(lambda: read_header(shared_data / "formats" / "mrc" / "emd_3197.map.gz"), "gzip")
    refused(lambda: read_header(shared_data / "formats" / "mrc" / "EMD-3197.map.bz2"), "bzip2")
