"""Pixel sizes and CTF parameters of a particle table, each checked for its unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.table import ParticleTable, Quantity
from cryoloom.physics.ctf import CTFParameters

# plausible pixel sizes of single-particle images, angstrom
LEAST_PIXEL_SIZE, LARGEST_PIXEL_SIZE = 0.05, 100.0


def pixel_sizes(table: ParticleTable, header_pixel_size: np.ndarray, stated: float | None) -> np.ndarray:
    """Pixel size of each image in its file, angstrom, float64 [N]: as stated, or from the particle file or the stack.

    Args:
        header_pixel_size: pixel size in the header of each image's stack, [N]; 0 where the header has none.
        stated: pixel size stated by the user.

    Raises:
        BadInput: if it is unknown, out of range or the placeholder 1, or particle file and stack disagree.
    """
    if stated is not None:
        if not LEAST_PIXEL_SIZE <= stated <= LARGEST_PIXEL_SIZE:
            raise BadInput.report(
                "The stated pixel size is impossible.",
                found=f"{stated} A",
                expected=f"{LEAST_PIXEL_SIZE:g} to {LARGEST_PIXEL_SIZE:g} A",
            )
        return np.full(len(table), float(stated))
    sizes, source = table.values("pixel_size"), f"column {table.label('pixel_size')}"
    if sizes is None:
        source, sizes = "the stack's header", header_pixel_size
    doubtful = np.flatnonzero(~((sizes >= LEAST_PIXEL_SIZE) & (sizes <= LARGEST_PIXEL_SIZE)) | (sizes == 1.0))
    if len(doubtful):
        first = sizes[doubtful[0]]
        raise BadInput.report(
            "The pixel size is not known.",
            file=table.path,
            where=f"{source}, {table.place(doubtful)}",
            found=f"{first:g} angstrom{' (0 and 1 are placeholders)' if first in (0, 1) else ''}",
            expected=f"the pixel size of the extracted images, {LEAST_PIXEL_SIZE:g} to {LARGEST_PIXEL_SIZE:g} angstrom",
            fix="state it with --pixel-size, even if it really is 1",
        )
    set_in_header = (header_pixel_size > 0) & (header_pixel_size != 1.0)
    differ = np.flatnonzero(set_in_header & (np.abs(header_pixel_size / sizes - 1) > 0.01))
    if len(differ):
        first = differ[0]
        raise BadInput.report(
            "The particle file and the image stack disagree on the pixel size.",
            file=table.path,
            where=table.place(differ),
            found=f"{sizes[first]:.4f} angstrom in the particle file, {header_pixel_size[first]:.4f} in the stack",
            expected="one pixel size",
            fix="state the right one with --pixel-size",
        )
    return sizes


def with_stated_signs(table: ParticleTable, stated: StatedInput) -> ParticleTable:
    """The table with B-factors in the sign of exp(-B k^2 / 4), where the user states that the file has the opposite."""
    column = table.numbers.get("b_factor_angstrom2")
    if stated.b_factor_sign == "positive" or stated.no_ctf or column is None:
        return table
    return replace(table, corrected={**table.corrected, "b_factor_angstrom2": column.negated()})


def ctf_parameters(table: ParticleTable, stated: StatedInput, notes: list[str]) -> CTFParameters:
    """CTF parameters of every image, float64 [N], angles in radians; assumptions are added to `notes`.

    Raises:
        BadInput: for missing columns (with the option that replaces them) and values outside their range, with the
            unit that they seem to be in.
    """
    u, v = _defocus(table, notes)
    voltage = _voltage(table, stated)
    aberration = _microscope(table, "spherical_aberration_mm", stated.spherical_aberration_mm, "--cs")
    _refuse(
        table,
        "spherical_aberration_mm",
        values=aberration,
        bad=(aberration < 0) | (aberration > 20),
        expected="millimetres, e.g. 2.7",
        fix="state --cs",
    )
    contrast = _microscope(table, "amplitude_contrast", stated.amplitude_contrast, "--amplitude-contrast")
    _refuse(
        table,
        "amplitude_contrast",
        values=contrast,
        bad=(contrast < 0) | (contrast > 1),
        expected="a fraction, e.g. 0.07 or 0.1",
        fix="these look like percent: divide by 100, or state --amplitude-contrast",
    )

    def optional(quantity: Quantity, default: float) -> np.ndarray:
        values = table.values(quantity)
        return np.full(len(table), default) if values is None else values

    if "astigmatism_radian" not in table.numbers and (u != v).any():
        notes.append(f"{table.label('astigmatism_radian')} is absent: taken as 0 degrees.")

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))

    return CTFParameters(
        defocus_u_angstrom=tensor(u),
        defocus_v_angstrom=tensor(v),
        astigmatism_radian=tensor(optional("astigmatism_radian", 0.0)),
        phase_shift_radian=tensor(optional("phase_shift_radian", 0.0)),
        b_factor_angstrom2=tensor(_b_factors(table, stated, notes)),
        voltage_kv=tensor(voltage),
        spherical_aberration_mm=tensor(aberration),
        amplitude_contrast=tensor(contrast),
        scale=tensor(optional("scale", 1.0)),
    )


def no_ctf(count: int) -> CTFParameters:
    """Parameters whose CTF is 1 at every frequency: amplitude contrast 1, no defocus, no aberration."""
    return CTFParameters.create(
        np.zeros(count), spherical_aberration_mm=0.0, amplitude_contrast=1.0, dtype=torch.float64
    )


def _refuse(
    table: ParticleTable, quantity: Quantity, *, values: np.ndarray, bad: np.ndarray, expected: str, fix: str
) -> None:
    """Raise BadInput if any of `bad` [N] is True."""
    if not bad.any():
        return
    found, column = np.flatnonzero(bad), table.label(quantity)
    raise BadInput.report(
        f"{len(found)} value(s) of {column} are out of range.",
        file=table.path,
        where=f"column {column}, {table.place(found)}",
        found=listed([f"{values[i]:g}" for i in found]),
        expected=expected,
        fix=fix,
    )


def _microscope(table: ParticleTable, quantity: Quantity, stated: float | None, option: str) -> np.ndarray:
    if stated is not None:
        return np.full(len(table), float(stated))
    values = table.values(quantity)
    if values is not None:
        return values
    raise BadInput.report(
        f"The particle file lacks {table.label(quantity)}, which the CTF needs.",
        file=table.path,
        found="no such column, for the optics groups or the particles (RELION 3.0 files may have none)",
        expected=f"{table.label(quantity)} for each optics group or each particle",
        fix=f"state it with {option}",
    )


def _b_factors(table: ParticleTable, stated: StatedInput, notes: list[str]) -> np.ndarray:
    values, negated = table.values("b_factor_angstrom2"), stated.b_factor_sign == "negative"
    if negated:
        how = "is absent: there are no B-factors to negate" if values is None else "is multiplied by -1, as stated"
        notes.append(f"{table.label('b_factor_angstrom2')} {how}.")
    if values is None:
        return np.zeros(len(table))
    _refuse(
        table,
        "b_factor_angstrom2",
        values=0.0 - values if negated else values,
        bad=values < 0,
        expected="0 or less, as --b-factor-sign negative states"
        if negated
        else "0 or more: the CTF falls off as exp(-B k^2 / 4), so a negative B-factor amplifies",
        fix="leave --b-factor-sign negative out, or correct these rows"
        if negated
        else "if the file writes fall-off as a negative number, as exports of M do, state --b-factor-sign negative; "
        "else correct these rows",
    )
    return values


def _voltage(table: ParticleTable, stated: StatedInput) -> np.ndarray:
    values = _microscope(table, "voltage_kv", stated.voltage_kv, "--voltage")
    for bad, expected, fix in (
        (values > 5000, "kilovolts, e.g. 300", "these look like volts: divide by 1000, or state --voltage"),
        ((values < 10) | (values > 1500), "kilovolts, 10 to 1500", "state --voltage"),
    ):
        _refuse(table, "voltage_kv", values=values, bad=bad, expected=expected, fix=fix)
    return values


_DEFOCUS: tuple[Quantity, ...] = ("defocus_u_angstrom", "defocus_v_angstrom", "astigmatism_radian")
# what a defocus out of range looks like: test, what is expected, what to do
_DEFOCUS_RANGES: tuple[tuple[Callable[[np.ndarray], np.ndarray], str, str], ...] = (
    (
        lambda values: values <= 0,
        "underfocus in angstrom, above 0",
        "underfocus is positive; if the images carry no CTF state --no-ctf",
    ),
    (
        lambda values: values < 100,
        "underfocus in angstrom, e.g. 15000",
        "these look like um: multiply them by 10000",
    ),
    (
        lambda values: values > 5e5,
        "underfocus in angstrom, below 500000 (50 um)",
        "these look like pm or smaller units: convert them to angstrom",
    ),
)


def _defocus(table: ParticleTable, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    u, v = table.values("defocus_u_angstrom"), table.values("defocus_v_angstrom")
    if u is None:
        names = [table.label(q) for q in _DEFOCUS]
        raise BadInput.report(
            f"The particle file has no CTF columns: {names[0]} is missing.",
            file=table.path,
            found=listed(list(table.columns), 30),
            expected=listed(names),
            fix="use the file written after CTF estimation, or state --no-ctf if the images carry no CTF",
        )
    if v is None:
        v = u
        notes.append(
            f"{table.label('defocus_v_angstrom')} is absent: "
            f"taken equal to {table.label('defocus_u_angstrom')} (no astigmatism)."
        )
    columns: tuple[tuple[Quantity, np.ndarray], ...] = (("defocus_u_angstrom", u), ("defocus_v_angstrom", v))
    for quantity, values in columns:
        for test, expected, fix in _DEFOCUS_RANGES:
            _refuse(table, quantity, values=values, bad=test(values), expected=expected, fix=fix)
    return u, v
