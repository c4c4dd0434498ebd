"""A particle format of one CSV file: image numbers, defocus and what else it has; the stack stands beside it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from cryoloom.particles.errors import BadInput
from cryoloom.particles.formats.format import Format
from cryoloom.particles.table import Numbers, OpticsGroup, ParticleTable, PoseColumns, Quantity
from cryoloom.particles.texts import Texts

COLUMNS: dict[str, Quantity] = {"defocus": "defocus_u_angstrom", "half": "half_set", "class": "class_number"}
MICROSCOPE: tuple[Quantity, ...] = ("pixel_size", "voltage_kv", "spherical_aberration_mm", "amplitude_contrast")


def read(path: Path) -> ParticleTable:
    with open(path, newline="", encoding="utf-8") as file:
        head, *lines = csv.reader(file)
    for i, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise BadInput.report("A row has the wrong length.", file=path, where=f"line {i}")
    columns = {name: Texts.of(line[c] for line in lines) for c, name in enumerate(head)}
    quantities = {**COLUMNS, **{q: q for q in MICROSCOPE}}
    stack, stacks = columns["stack"].factorize()
    return ParticleTable(
        path=path,
        format="toy",
        stacks=tuple(stacks),
        stack=stack,
        index=columns["image"].numbers().astype(np.int64),
        group=np.zeros(len(lines), dtype=np.int64),
        optics=(OpticsGroup("all"),),
        numbers={q: Numbers.of(n, columns[n].numbers()) for n, q in quantities.items() if n in columns},
        poses=PoseColumns(None, None, missing=("R", "t")),
        columns=columns,
        rows=np.arange(len(lines)),
        lines=np.arange(len(lines)) + 2,
        labels={q: n for n, q in quantities.items()},
    )


def write(path: Path, table: ParticleTable) -> None:
    table.results.check(len(table), path)
    columns: dict[str, list[str]] = {}
    names = list(table.stacks)
    if table.stack_paths:
        names = [os.path.relpath(p.resolve(), path.resolve().parent) for p in table.stack_paths]
    columns["stack"] = [names[s] for s in table.stack]
    columns["image"] = [str(i) for i in table.index]
    if table.format == "toy":
        columns |= {n: list(table.texts(n)) for n in table.columns if n not in columns}
    for name, quantity in COLUMNS.items():
        own = getattr(table.results, quantity, None)
        values = table.values(quantity) if own is None and table.format != "toy" else own
        if values is not None:
            columns[name] = [repr(float(v)) for v in values]
    for quantity in MICROSCOPE:
        known = [getattr(table.optics[g], quantity) for g in table.group]
        if quantity not in columns and all(v is not None for v in known):
            columns[quantity] = [repr(float(v)) for v in known]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])


TOY = Format("toy", "toy CSV file", (".toy",), read, write)
