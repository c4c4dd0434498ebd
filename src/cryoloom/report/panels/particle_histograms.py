"""Histograms of what is known of each particle: uncertainties, shifts, posterior and likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from cryoloom.jobs.particle_estimates import ParticleEstimates
from cryoloom.report.charts import histogram
from cryoloom.report.panel import Absent, Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import number
from cryoloom.runs import layout


@dataclass(frozen=True, slots=True)
class _Histogram:
    title: str
    attribute: str  # of ParticleEstimates
    label: str
    unit: str
    caption: str
    column: str
    limits: tuple[float, float] | None = None


_HISTOGRAMS = (
    _Histogram(
        title="Orientation uncertainty",
        attribute="angular_error_degrees",
        label="angular uncertainty (°)",
        unit="°",
        caption="Angle within which the true orientation lies with 68 % probability, given the map.",
        column="cryoloomAngularErrorDegrees",
    ),
    _Histogram(
        title="Shift uncertainty",
        attribute="shift_error_angstrom",
        label="shift uncertainty (Å)",
        unit=" Å",
        caption="Distance within which the true shift lies with 68 % probability, given the map.",
        column="cryoloomShiftErrorAngst",
    ),
    _Histogram(
        title="Shifts",
        attribute="shift_angstrom",
        label="shift (Å)",
        unit=" Å",
        caption="Distance of each particle from the centre of its image.",
        column="rlnOriginXAngst",
    ),
    _Histogram(
        title="Posterior probability of the best pose",
        attribute="best_weight",
        label="probability of the best pose",
        unit="",
        caption="1 means that no other pose is plausible.",
        column="rlnMaxValueProbDistribution",
        limits=(0.0, 1.0),
    ),
    _Histogram(
        title="Log-likelihood gain",
        attribute="log_likelihood",
        label="log-likelihood gain (nats)",
        unit="",
        caption="Log-likelihood of each image with the particle, relative to noise alone. A second peak on the left "
        "often consists of images that do not show the particle.",
        column="rlnLogLikeliContribution",
    ),
)


def html(run: ShownRun) -> Markup:
    """One histogram for each column that the particles have."""
    found = run.run.estimates
    if found is None:
        raise Absent(f"{layout.PARTICLES.name} is not in the folder: nothing is known of the particles.")
    drawn, absent = [], []
    for kind in _HISTOGRAMS:
        values = getattr(found, kind.attribute)
        if values is None or not np.isfinite(values).any():
            absent.append(f"{kind.title}: {layout.PARTICLES.name} has no values in column {kind.column}.")
        else:
            drawn.append(_draw(kind, values, found))
    return from_template(__file__, histograms=drawn, absent=absent)


def _draw(kind: _Histogram, values: np.ndarray, found: ParticleEstimates) -> dict[str, Any]:
    caption = kind.caption
    unknown = found.count - int(np.isfinite(values).sum())
    if unknown:
        caption += f" {number(unknown)} particles without a value are left out."
    chart = histogram(values, kind.label, kind.title, kind.unit, limits=kind.limits)
    return {"title": kind.title, "chart": chart, "caption": caption}


PANEL = Panel(name="particle-histograms", section="Particles", title="Per-particle statistics", html=html, wide=True)
