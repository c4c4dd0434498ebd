"""The part of the report about the particles: images, views and uncertainties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.jobs.verdict import Verdict
from cryoloom.particles.errors import BadInput
from cryoloom.report import figures
from cryoloom.report.charts import histogram
from cryoloom.report.map_views import MapView
from cryoloom.report.reprojections import compare
from cryoloom.report.results import ParticleResults, read_particles
from cryoloom.report.spheres import graticule, view_map
from cryoloom.report.text import number
from cryoloom.runs.record import RunRecord


@dataclass(frozen=True, slots=True)
class ParticleSection:
    """`context` is what the template shows, `count` the number of particles in the file."""

    context: dict[str, Any]
    count: int | None


def particle_section(
    folder: Path, record: RunRecord, verdict: Verdict | None, view: MapView | None, absent: dict[str, Any]
) -> ParticleSection:
    """Reads particles.star and a few images; sentences about what is missing go into `absent`.

    Raises:
        BadInput: for a damaged particle file.
    """
    no_ctf = _anywhere(record.settings, "no_ctf") is True
    found = read_particles(folder / "particles.star", no_ctf)
    context: dict[str, Any] = {"pairs": None, "views": None, "histograms": []}
    absent["particles"], absent["images"], absent["histograms"] = None, None, []
    if found is None:
        absent["particles"] = "particles.star is not in the folder: nothing is known of the particles."
        absent["views"] = absent["particles"]
        return ParticleSection(context, None)
    context["pairs"] = _pairs(found, view, verdict, absent)
    context["views"] = _views(found, verdict)
    if context["views"] is None:
        absent["views"] = "particles.star holds no angles."
    context["histograms"] = _histograms(found, absent)
    return ParticleSection(context, found.count)


def _anywhere(settings: Mapping[str, Any], name: str) -> Any:
    """A setting by its name, at whatever depth the command keeps it."""
    if name in settings:
        return settings[name]
    inner = (_anywhere(value, name) for value in settings.values() if isinstance(value, Mapping))
    return next((value for value in inner if value is not None), None)


def _pairs(
    found: ParticleResults, view: MapView | None, verdict: Verdict | None, absent: dict[str, Any]
) -> dict[str, Any] | None:
    if found.particles is None:
        absent["images"] = f"The images can't be opened, so none are shown. {found.why_no_images}"
        return None
    if view is None or found.rot_degrees is None or found.shift_angstrom is None:
        absent["images"] = "Without map.mrc and poses there is nothing to compare the images with."
        return None
    resolution = verdict.resolution_angstrom if verdict else None
    try:
        pairs = compare(found.particles, view, resolution, found.log_likelihood, found.angular_error_degrees)
    except BadInput as error:
        absent["images"] = f"The images can't be read, so none are shown. {error}"
        return None
    if found.log_likelihood is None:
        order = "Particles are spread over the file."
    else:
        order = "From particles that the map explains badly (left) to well; the rank is that of the log-likelihood."
    return {
        "figures": figures.pair_figures(pairs),
        "low_pass": pairs.low_pass_angstrom,
        "inverted": pairs.inverted,
        "order": order,
    }


def _views(found: ParticleResults, verdict: Verdict | None) -> dict[str, Any] | None:
    if found.rot_degrees is None or found.tilt_degrees is None:
        return None
    views = view_map(found.rot_degrees, found.tilt_degrees)
    remark = f"Of {views.cells} directions spread evenly, {100 * views.empty_share:.0f}\u202f% have no particle near."
    if verdict is not None and verdict.evidence.symmetry != "C1":
        remark += f" Views that {verdict.evidence.symmetry} makes equal are shown where the run put them."
    return {
        "picture": figures.picture(views.pixels, "viewing directions"),
        "net": graticule(),
        "remark": remark,
        "scale": figures.view_scale(views.highest),
        "smoothing": f"{views.smoothing_degrees:.0f}°",
    }


def _histograms(found: ParticleResults, absent: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = (
        (
            "Uncertainty of the orientations",
            found.angular_error_degrees,
            "angular uncertainty (°)",
            "°",
            "Standard deviation of each particle's orientation, given the map.",
            "cryoloomAngularErrorDegrees",
        ),
        (
            "Uncertainty of the shifts",
            found.shift_error_angstrom,
            "shift uncertainty (Å)",
            " Å",
            "Standard deviation of each particle's position, given the map.",
            "cryoloomShiftErrorAngst",
        ),
        (
            "Shifts",
            found.shift_angstrom,
            "shift (Å)",
            " Å",
            "Distance of each particle from the centre of its image.",
            "rlnOriginXAngst",
        ),
        (
            "How sure is the best pose?",
            found.best_weight,
            "weight of the best pose",
            "",
            "Posterior weight of each particle's best pose; 1 is certain.",
            "rlnMaxValueProbDistribution",
        ),
        (
            "How well does the map explain each image?",
            found.log_likelihood,
            "log-likelihood (nats)",
            "",
            "A second hump on the left is often junk.",
            "rlnLogLikeliContribution",
        ),
    )
    out = []
    for title, values, label, unit, caption, column in kinds:
        if values is None or not np.isfinite(values).any():
            absent["histograms"].append(f"{title}: particles.star has no values in column {column}.")
            continue
        unknown = int((~np.isfinite(values)).sum())
        if unknown:
            caption += f" {number(unknown)} particles without a value are left out."
        limits = (0.0, 1.0) if column == "rlnMaxValueProbDistribution" else None
        chart = histogram(values, label, title, unit, limits=limits)
        out.append({"title": title, "chart": chart, "caption": caption})
    return out
