"""How the classes of the run agree with those of another run on the same images."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.jobs.class_agreement import class_agreement
from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import number


def html(run: ShownRun) -> Markup:
    """A table of images by their classes in both runs, partners beside each other."""
    assert run.other is not None
    found = class_agreement(run.run, run.other)
    K, L = (n - 1 for n in found.counts.shape)
    # columns in the order of the rows' partners, then the classes without one, then none
    order = [p for p in found.partners if p]
    order += [c for c in range(1, L + 1) if c not in order] + [0]
    rows = []
    for k in (*range(1, K + 1), 0):
        total = int(found.counts[k].sum())
        cells = [
            {
                "count": number(int(found.counts[k, c])) if found.counts[k, c] else "",
                "share": f"{found.counts[k, c] / max(1, total):.3f}",
                "pair": (c == found.partners[k - 1] if k else c == 0),
            }
            for c in order
        ]
        rows.append({"name": _name(k), "cells": cells})
    return from_template(
        __file__,
        rows=rows,
        names=[_name(c) for c in order],
        other=run.other.folder.resolve().name,
        together=f"{100 * found.together:.1f}\u202f%",
        index=f"{found.adjusted_rand_index:.3f}",
    )


def _name(k: int) -> str:
    return f"class {k}" if k else "none"


def shown(run: ShownRun) -> bool:
    """Where the page is written with another run to compare with."""
    return run.other is not None and run.run.several_molecules


PANEL = Panel(
    name="class-agreement",
    section="Particles",
    title="Classes of two runs",
    html=html,
    shown=shown,
    wide=True,
    css="table.agreement td, table.agreement thead th + th { text-align: right; }"
    "table.agreement td.pair { font-weight: 600; }",
)
