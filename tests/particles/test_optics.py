"""Pixel sizes and CTF parameters of a neutral table: which source wins, what is assumed, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoloom.particles.errors import BadInput
from cryoloom.particles.optics import ctf_parameters, no_ctf, pixel_sizes
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.table import Numbers, OpticsGroup, ParticleTable, PoseColumns, Quantity

N = 4
GOOD: dict[Quantity, float] = {
    "pixel_size": 2.0,
    "voltage_kv": 300.0,
    "spherical_aberration_mm": 2.7,
    "amplitude_contrast": 0.1,
    "defocus_u_angstrom": 15000.0,
    "defocus_v_angstrom": 14000.0,
    "astigmatism_radian": 0.5,
}


def table(**changes: float | None) -> ParticleTable:
    """Four images; a quantity changed to None is absent, a number is that of the third image."""
    numbers: dict[Quantity, Numbers] = {}
    for quantity, value in GOOD.items():
        values = np.full(N, value)
        changed = changes.get(quantity, value)
        if changed is not None:
            values[2] = changed
            numbers[quantity] = Numbers.of(f"my_{quantity}", values)
    zeros = np.zeros(N, dtype=np.int64)
    return ParticleTable(
        path=Path("x.toy"),
        format="toy",
        stacks=("s.mrcs",),
        stack=zeros,
        index=np.arange(N),
        group=zeros,
        optics=(OpticsGroup("all"),),
        numbers=numbers,
        poses=PoseColumns(None, None),
        columns={},
        rows=np.arange(N),
        lines=np.arange(N) + 7,
        labels={q: f"my_{q}" for q in GOOD},
    )


def test_the_stated_pixel_size_wins_then_the_files_then_the_stacks() -> None:
    header = np.full(N, 2.01)
    assert pixel_sizes(table(), header, 5.0).tolist() == [5.0] * N
    assert pixel_sizes(table(), header, None).tolist() == [2.0] * N
    assert pixel_sizes(table(pixel_size=None), header, None).tolist() == [2.01] * N


@pytest.mark.parametrize("size", [0.0, 1.0, -2.0, 200.0])
def test_placeholders_and_impossible_pixel_sizes_are_refused(size: float) -> None:
    with pytest.raises(BadInput, match=r"my_pixel_size, row 3 \(line 9\)"):
        pixel_sizes(table(pixel_size=size), np.zeros(N), None)


def test_file_and_stack_may_differ_by_one_percent() -> None:
    assert pixel_sizes(table(), np.full(N, 2.015), None).tolist() == [2.0] * N
    with pytest.raises(BadInput, match="disagree"):
        pixel_sizes(table(), np.full(N, 2.05), None)


@pytest.mark.parametrize(
    ("quantity", "value", "words"),
    [
        ("defocus_u_angstrom", 1.5, "um"),
        ("defocus_v_angstrom", -100.0, "underfocus is positive"),
        ("defocus_u_angstrom", 6e5, "below 500000"),
        ("voltage_kv", 300000.0, "volts"),
        ("voltage_kv", 5.0, "10 to 1500"),
        ("spherical_aberration_mm", 2700.0, "millimetres"),
        ("amplitude_contrast", 10.0, "percent"),
    ],
)
def test_values_out_of_range_are_named_with_row_and_unit(quantity: Quantity, value: float, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        ctf_parameters(table(**{quantity: value}), StatedInput(), [])
    for part in (f"my_{quantity}", "row 3 (line 9)", words):
        assert part in str(caught.value)


def test_what_is_absent_is_assumed_and_noted_or_asked_for() -> None:
    notes: list[str] = []
    ctf = ctf_parameters(table(defocus_v_angstrom=None, astigmatism_radian=None), StatedInput(), notes)
    assert ctf.defocus_v_angstrom.tolist() == ctf.defocus_u_angstrom.tolist() == [15000.0] * N
    assert len(notes) == 1
    assert "my_defocus_v_angstrom" in notes[0]
    for quantity, option in (("voltage_kv", "--voltage"), ("amplitude_contrast", "--amplitude-contrast")):
        with pytest.raises(BadInput, match=option):
            ctf_parameters(table(**{quantity: None}), StatedInput(), [])
    stated = StatedInput(voltage_kv=200.0)
    assert ctf_parameters(table(voltage_kv=None), stated, []).voltage_kv.tolist() == [200.0] * N
    # a stated value is used in place of one that would be refused
    assert ctf_parameters(table(voltage_kv=3e5), stated, []).voltage_kv.tolist() == [200.0] * N


def test_without_ctf_all_frequencies_pass() -> None:
    ctf = no_ctf(3)
    assert ctf.amplitude_contrast.tolist() == [1.0] * 3
    assert ctf.defocus_u_angstrom.tolist() == ctf.spherical_aberration_mm.tolist() == [0.0] * 3


def test_a_part_of_the_table_keeps_its_rows_in_errors() -> None:
    part = table(voltage_kv=3e5).take(np.array([2, 0]))
    with pytest.raises(BadInput, match=r"row 3 \(line 9\)"):
        ctf_parameters(part, StatedInput(), [])
    assert ctf_parameters(replace(part), StatedInput(voltage_kv=300), []).voltage_kv.tolist() == [300.0] * 2
