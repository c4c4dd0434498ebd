"""Fourier shell correlation of the half maps."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from cryoloom.jobs.fsc_table import FSCTable
from cryoloom.jobs.verdict import Verdict
from cryoloom.report.charts import Axis, Chart, Dot, Line, Rule, draw, legend, nice_ticks
from cryoloom.report.figures import RESOLUTION_TICKS
from cryoloom.report.panel import Absent, Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import angstrom
from cryoloom.runs import layout

_CLOSEST_TICKS = 0.07  # of the axis
_CURVES = (
    ("unmasked", "without mask"),
    ("masked", "with mask"),
    ("randomised", "with mask, phases randomised"),
    ("corrected", "corrected for the mask"),
)


def html(run: ShownRun) -> Markup:
    """The curves as a chart and as a table."""
    curves = run.run.fsc
    if curves is None:
        raise Absent(f"{layout.FSC.name} is not in the folder: no curve is shown.")
    columns = (curves.frequency, curves.unmasked, curves.masked, curves.randomised, curves.corrected)
    table = [
        (i, f"{1 / f:.2f}" if f > 0 else "∞", *(f"{v:.3f}" for v in values))
        for i, (f, *values) in enumerate(zip(*columns, strict=True))
    ]
    return from_template(__file__, chart=fsc_chart(curves, run.run.verdict), table=table)


def fsc_chart(curves: FSCTable, verdict: Verdict | None) -> Markup:
    """Unmasked, masked, phase-randomised and corrected FSC, with thresholds, resolution and Nyquist."""
    f = curves.frequency
    top = curves.nyquist * 1.04
    values = np.concatenate([curves.unmasked, curves.masked, curves.randomised, curves.corrected])
    lowest = min(-0.1, math.floor(float(np.nanmin(values)) * 10) / 10)
    rules = (
        Rule(0.143, "0.143", vertical=False, place=0.01),
        Rule(0.5, "0.5", vertical=False, place=0.01),
        Rule(curves.nyquist, f"Nyquist {1 / curves.nyquist:.3g} Å", vertical=True, anchor="end", place=0.97),
    )
    tips = tuple(
        (
            float(f[i]),
            f"shell {i}: {angstrom(1 / f[i])}\n"
            + "\n".join(f"{label} {getattr(curves, name)[i]:.3f}" for name, label in _CURVES),
        )
        for i in range(1, len(f))
    )
    chart = Chart(
        title="Fourier shell correlation of the half maps",
        x=Axis(0, top, _ticks(curves.nyquist, top), "resolution (Å)"),
        y=Axis(lowest, 1.05, nice_ticks(0, 1, 5), "Fourier shell correlation"),
        lines=tuple(Line(f.tolist(), getattr(curves, name).tolist(), name) for name, _ in _CURVES),
        rules=rules,
        dots=() if verdict is None else _resolutions(curves, verdict),
        tips=tips,
    )
    return draw(chart) + legend(_CURVES)


def _ticks(nyquist: float, top: float) -> tuple[tuple[float, str], ...]:
    ticks: list[tuple[float, str]] = []
    for resolution in RESOLUTION_TICKS:
        at = 1 / resolution
        if at <= nyquist and at / top > 0.04 and (not ticks or (at - ticks[-1][0]) / top > _CLOSEST_TICKS):
            ticks.append((at, f"{resolution:g}"))
    return tuple(ticks)


def _resolutions(curves: FSCTable, verdict: Verdict) -> tuple[Dot, ...]:
    dots = []
    for resolution, threshold in ((verdict.resolution_half_angstrom, 0.5), (verdict.resolution_angstrom, 0.143)):
        if resolution:
            at = min(1 / resolution, curves.nyquist)
            # a curve that never falls so low ends above the threshold
            at_end = at >= curves.frequency[-1] * 0.999
            height = max(threshold, float(curves.corrected[-1])) if at_end else threshold
            dots.append(Dot(at, height, angstrom(resolution)))
    return tuple(dots)


PANEL = Panel(name="fsc", section="Resolution", title="Gold-standard FSC", html=html)
