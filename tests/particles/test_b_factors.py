"""B-factors of either sign: fall-off that a file writes as a negative number is refused, or read as the user states."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import cryoloom as cl
from cryoloom.cli.options import InputOptions
from cryoloom.jobs.settings import InputSettings
from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import open_particles, write_particles
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.table import ImageResults
from cryoloom.runs.record import from_json, to_json

from .conftest import SmallSet

NEGATIVE = StatedInput(b_factor_sign="negative")


def with_b_factors(small: SmallSet, values: list[float]) -> Path:
    """The set's STAR file with a column of B-factors."""
    rows = tuple(f"{row} {b}" for row, b in zip(small.content.rows, values, strict=True))
    columns = (*small.content.columns, "rlnCtfBfactor")
    small.star.write_text(dataclasses.replace(small.content, columns=columns, rows=rows).text())
    return small.star


@pytest.mark.parametrize("values", [[0, -20, 0, -40.5, 0, 0], [-20.0] * 6])
def test_negative_values_are_refused_with_the_remedy(small: SmallSet, values: list[float]) -> None:
    star = with_b_factors(small, values)
    with pytest.raises(BadInput) as caught:
        open_particles(star)
    for word in (
        str(star),
        "rlnCtfBfactor",
        "row 2" if values[0] == 0 else "row 1, 2",
        "-20",
        "0 or more",
        "--b-factor",
    ):
        assert word in str(caught.value)


def test_the_stated_sign_holds_for_the_whole_file(small: SmallSet) -> None:
    particles = open_particles(with_b_factors(small, [0, -20, 0, -40.5, 0, 0]), NEGATIVE)
    assert particles.ctf.b_factor_angstrom2.tolist() == [0, 20, 0, 40.5, 0, 0]
    assert not np.signbit(particles.ctf.b_factor_angstrom2.numpy()).any()
    assert "rlnCtfBfactor is multiplied by -1, as stated." in particles.notes
    # the CTF falls off with frequency, as it does for the same file in RELION's sign
    same = open_particles(with_b_factors(small, [0, 20, 0, 40.5, 0, 0]))
    assert same.ctf.b_factor_angstrom2.equal(particles.ctf.b_factor_angstrom2)


def test_values_that_contradict_the_stated_sign_are_refused(small: SmallSet) -> None:
    star = with_b_factors(small, [0, -20, 0, 35, 0, 0])
    with pytest.raises(
        BadInput, match=r"row 4 \(line .*\n.*found: 35\n.*0 or less.*\n.*leave --b-factor-sign negative out"
    ):
        open_particles(star, NEGATIVE)
    with pytest.raises(BadInput, match=r"row 2 "):
        open_particles(star)


def test_without_b_factors_the_option_is_said_to_have_no_effect(small: SmallSet) -> None:
    particles = open_particles(small.star, NEGATIVE)
    assert particles.ctf.b_factor_angstrom2.tolist() == [0.0] * 6
    assert any("rlnCtfBfactor is absent" in note for note in particles.notes)


def test_files_that_are_written_have_the_sign_that_was_used(small: SmallSet, tmp_path: Path) -> None:
    particles = open_particles(with_b_factors(small, [0, -20, -1.25, -40.5, 0, -7]), NEGATIVE)
    new = tmp_path / "new.star"
    write_particles(new, particles, ImageResults(), rows=np.array([3, 0, 2]))
    again = open_particles(new)
    assert again.ctf.b_factor_angstrom2.tolist() == [40.5, 0, 1.25]
    assert list(again.table.texts("someUnknownColumn")) == [
        particles.table.texts("someUnknownColumn")[i] for i in (3, 0, 2)
    ]


def test_images_without_a_ctf_keep_the_files_values(small: SmallSet, tmp_path: Path) -> None:
    particles = open_particles(with_b_factors(small, [-20.0] * 6), StatedInput(no_ctf=True))
    write_particles(tmp_path / "new.star", particles, ImageResults())
    assert (
        list(open_particles(tmp_path / "new.star", StatedInput(no_ctf=True)).table.texts("rlnCtfBfactor"))
        == ["-20.0"] * 6
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("stacks_real/cryodrgn_et_ribosome/sta_testing_bin8.star", 219),
        ("stacks_sim_conventions/tomodrgn_10076_DE/10076_classD_32_sim.star", 576),
        ("stacks_sim_conventions/tomodrgn_10076_DE/10076_classE_32_sim.star", 720),
    ],
)
def test_real_files_of_the_opposite_sign(shared_data: Path, tmp_path: Path, name: str, count: int) -> None:
    star = shared_data / name
    # simulated files lack a magnification, and have paths of another machine
    stated = StatedInput()
    if "tomodrgn" in name:
        (tmp_path / "data").symlink_to(star.parent)
        stated = StatedInput(pixel_size=13.1, datadir=str(tmp_path))
    with pytest.raises(BadInput, match=f"{count} value\\(s\\) of rlnCtfBfactor(.|\n)*--b-factor-sign negative"):
        open_particles(star, stated)
    particles = open_particles(star, dataclasses.replace(stated, b_factor_sign="negative"))
    written = particles.table.texts("rlnCtfBfactor").numbers()
    np.testing.assert_array_equal(particles.ctf.b_factor_angstrom2.numpy(), -written)
    assert float(particles.ctf.b_factor_angstrom2.min()) > 0


def test_the_option_is_reached_from_everywhere_and_recorded(small: SmallSet) -> None:
    star = with_b_factors(small, [-20.0] * 6)
    settings = InputOptions(b_factor_sign="negative").input(star)
    assert settings.stated == NEGATIVE
    stored = json.loads(json.dumps(to_json(settings)))
    assert from_json(InputSettings, stored, "run.json") == settings
    assert cl.open(star, b_factor_sign="negative").ctf.b_factor_angstrom2.tolist() == [20.0] * 6
