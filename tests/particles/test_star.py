"""The STAR reader against gemmi's CIF parser and against what only RELION's dialect allows; reading back."""

from __future__ import annotations

import os
from pathlib import Path

import gemmi
import pytest

from cryoloom.particles.errors import BadInput
from cryoloom.particles.formats.relion.star import StarBlock, read_star
from cryoloom.particles.formats.relion.star_writer import write_star
from cryoloom.particles.texts import Texts

SHARED_STARS = [
    "formats/FinalRefinement-OriginalParticles-PfCRT.star",
    "formats/relion5.star",
    "formats/run_001_it025_optimiser.star",
    "formats/run_001_it025_sampling.star",
    "formats/sample_data_model.star",
    "formats/sample_incomplete_ctf_params.star",
    "formats/sample_relion_symmetry_group_D4.star",
    "metadata/betagal_empiar10017/ap_s_c2d.star",
    "metadata/cryolike_particle_data.star",
    "metadata/mtf/mtf_k2_300kV.star",
    "stacks_real/cryodrgn_et_ribosome/sta_testing_bin8.star",
    "stacks_real/empiar10076_7/empiar_10076_7.star",
    "stacks_real/relion31_5/relion31.star",
    "stacks_real/relion31_5/relion31.v2.star",
    "stacks_real/trpv1_10/trpv1_small_stack.star",
    "stacks_real/warptools_70S/warp70S_perimage.star",
    "stacks_real/warptools_70S/warptools_test_4-tomos_10-ptcls_box-32_angpix-12.star",
    "stacks_real/warptools_70S/warptools_test_4-tomos_10-ptcls_box-32_angpix-12_optimisation_set.star",
    "stacks_real/warptools_70S/warptools_test_4-tomos_10-ptcls_box-32_angpix-12_tomograms.star",
    "stacks_sim_conventions/cryodrgn/toy_projections.star",
    "stacks_sim_conventions/relion_project/rln_proj_64_shifted.star",
    "stacks_sim_conventions/tomodrgn_10076_DE/10076_classD_32_sim.star",
]


def values_of(block: StarBlock) -> list[list[str]]:
    """Values row by row."""
    return [list(row) for row in zip(*block.columns.values(), strict=True)]


def of_gemmi(path: Path) -> list[tuple[str, list[str], list[str]]]:
    """Name, columns and values row by row of each block."""
    found = []
    for block in gemmi.cif.read_file(str(path)):
        loops = [item.loop for item in block if item.loop is not None]
        if loops:
            tags, values = list(loops[0].tags), list(loops[0].values)
        else:
            tags, values = (list(x) for x in zip(*(item.pair for item in block), strict=True))
        found.append((block.name, [t[1:] for t in tags], [gemmi.cif.as_string(v) for v in values]))
    return found


@pytest.mark.parametrize("name", SHARED_STARS)
def test_files_of_other_programs_as_gemmi_reads_them(shared_data: Path, name: str) -> None:
    star = read_star(shared_data / name)
    expected = of_gemmi(shared_data / name)
    assert len(expected) > 0
    found = [(b.name, list(b.columns), [value for row in values_of(b) for value in row]) for b in star.blocks]
    # gemmi calls a nameless block " "
    assert found == [(name.strip(), tags, values) for name, tags, values in expected]


@pytest.mark.parametrize("name", SHARED_STARS)
def test_written_files_read_back_the_same(shared_data: Path, tmp_path: Path, name: str) -> None:
    star = read_star(shared_data / name)
    write_star(tmp_path / "copy.star", [(b.name, b.columns) for b in star.blocks])
    again = read_star(tmp_path / "copy.star")
    assert [b.name for b in again.blocks] == [b.name for b in star.blocks]
    for a, b in zip(again.blocks, star.blocks, strict=True):
        assert list(a.columns) == list(b.columns)
        assert values_of(a) == values_of(b)
    assert again.notes == ()


def test_line_numbers_point_at_rows(shared_data: Path) -> None:
    path = shared_data / "stacks_real/relion31_5/relion31.star"
    block = read_star(path).block("particles")
    assert block is not None
    lines = path.read_text().split("\n")
    for number, name in zip(block.lines, block.columns["rlnImageName"], strict=True):
        assert name in lines[number - 1]


def star_of(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "x.star"
    path.write_text(
        "data_\nloop_\n_rlnImageName #1\n_rlnValue #2\n" + "".join(r + "\n" for r in rows), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("1@a.mrcs data_2020/mic.mrc", ("1@a.mrcs", "data_2020/mic.mrc")),
        ("1@a.mrcs _x", ("1@a.mrcs", "_x")),
        ("_a loop_", ("_a", "loop_")),
        ("1@ä/粒子.mrcs 2", ("1@ä/粒子.mrcs", "2")),
        ("'1@a b.mrcs' \"it's\"", ("1@a b.mrcs", "it's")),
        ("1@a.mrcs ''", ("1@a.mrcs", "")),
        ("it's 5'", ("it's", "5'")),
        ("1@a#b.mrcs 2 # a comment", ("1@a#b.mrcs", "2")),
        ("\t1@a.mrcs\t 2 \r", ("1@a.mrcs", "2")),
        ("[1,2] ;x", ("[1,2]", ";x")),
    ],
)
def test_values_of_relions_dialect(tmp_path: Path, row: str, values: tuple[str, str]) -> None:
    star = read_star(star_of(tmp_path, "1@first.mrcs 0", row))
    assert tuple(values_of(star.blocks[0])[1]) == values
    write_star(tmp_path / "y.star", [("", star.blocks[0].columns)])
    assert values_of(read_star(tmp_path / "y.star").blocks[0]) == values_of(star.blocks[0])


def test_byte_order_mark_and_dos_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    path.write_bytes(b"\xef\xbb\xbfdata_particles\r\nloop_\r\n_rlnA #1\r\n_rlnB #2\r\n1 2\r\n3 4\r\n")
    star = read_star(path)
    assert values_of(star.blocks[0]) == [["1", "2"], ["3", "4"]]
    assert star.notes == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data_a\nloop_\n1 2\n", "line 3"),
        ("data_a\nloop_\n", "no columns"),
        ("data_a\nloop_\n_x\n1\nloop_\n_y\n2\n", "line 5"),
        ("data_a\n_x 1 2\n", "line 2"),
        ("data_a\n_x\n", "line 2"),
        ("data_a\n5\n", "line 2"),
        ("1 2 3\n", "line 1"),
        ("# only a comment\n", "no STAR data block"),
    ],
)
def test_faults_of_structure(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.star").write_text(text)
    with pytest.raises(BadInput, match=words):
        read_star(tmp_path / "x.star")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = star_of(tmp_path, "1@a.mrcs 1")
    old = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_star(path, [("", read_star(path).blocks[0].columns)])
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["x.star"]


def test_a_value_that_no_quotes_can_hold_is_not_written(tmp_path: Path) -> None:
    for value in ("both ' and \" quotes' \" x", "two\nlines"):
        with pytest.raises(ValueError, match="can't be written"):
            write_star(tmp_path / "x.star", [("", {"a": Texts.of([value])})])
