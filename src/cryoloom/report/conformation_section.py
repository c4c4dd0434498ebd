"""The part of the report about conformations: the latent space, series of maps, classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from cryoloom.report.charts import histogram
from cryoloom.report.conformations import ANALYSIS, Conformations
from cryoloom.report.filmstrip import MOST_SERIES, filmstrip
from cryoloom.report.latent_panels import (
    MOST_POINTS,
    Panel,
    class_colour,
    legend_of,
    page_data,
    panels,
    swatches,
    uncertainty_scale,
)
from cryoloom.report.map_views import view_map
from cryoloom.report.text import angstrom, number, plain


@dataclass(frozen=True, slots=True)
class ConformationSection:
    """`context` is what the template shows."""

    context: dict[str, Any]


def conformation_section(folder: Path, found: Conformations) -> ConformationSection:
    """Draws all that is known; costs about 0.2 CPU-s a series of ten maps of 64 voxels, 1 CPU-s at 100,000 images.

    Raises:
        ValueError: for damaged maps, or maps of one series on different grids.
    """
    mask = view_map(folder / "mask.mrc")
    shown = [(s, strip) for s in found.series[:MOST_SERIES] if (strip := filmstrip(s, mask)) is not None]
    series = tuple(s for s, _ in shown)
    drawn = panels(found)
    classes = swatches(found)
    script = folder / ANALYSIS / "open.cxc"
    return ConformationSection(
        {
            "panels": drawn,
            "data": page_data(found, drawn, series) if drawn or shown else Markup("{}"),
            "strips": [strip for _, strip in shown],
            "left_out": [plain(s.name) for s in found.series[MOST_SERIES:]],
            "legend": legend_of(classes) if classes else None,
            "uncertainty_scale": uncertainty_scale(found),
            "sampled": found.count > MOST_POINTS,
            "count": number(found.count),
            "points": number(MOST_POINTS),
            "latent_remark": _latent_remark(found, drawn),
            "blur": _blur(found),
            "uncertainty": _uncertainty(found),
            "classes": _class_rows(found),
            "movie": quote(f"{ANALYSIS}/open.cxc") if script.is_file() else None,
        }
    )


def _latent_remark(found: Conformations, drawn: list[Panel]) -> str:
    if found.axes is None:
        return ""
    said = [f"{number(found.count)} particles in a space of {len(found.axes.mean)} coordinates."]
    if found.density is not None:
        modes = found.density.modes
        if len(modes) == 1:
            said.append("Over PC1 and PC2 their density has one peak beyond chance.")
        else:
            shares = ", ".join(f"{100 * m.share:.0f}\u202f%" for m in modes)
            said.append(
                f"Over PC1 and PC2 their density has {len(modes)} peaks beyond chance (dots) with {shares} of them."
            )
    beyond = max((p.beyond for p in drawn), default=0)
    if beyond:
        said.append(f"Outliers (up to {number(beyond)}) are drawn at the rim.")
    return " ".join(said)


def _blur(found: Conformations) -> str:
    """How far a particle's place may be off, in the units of the axes."""
    if found.density is None or found.density.blur is None or found.axes is None:
        return ""
    one, two = found.density.blur
    sd = found.axes.variance[:2] ** 0.5
    return (
        f"A particle's place is known to ± {one:.2g} along PC1 and ± {two:.2g} along PC2, where particles spread over "
        f"± {sd[0]:.2g} and ± {sd[1]:.2g}: features narrower than its uncertainty can't be told apart."
    )


def _uncertainty(found: Conformations) -> dict[str, Any] | None:
    if found.uncertainty is None:
        return None
    label = "distance from the true place (population s.d.)"
    chart = histogram(found.uncertainty.relative, label, "How surely is each particle's conformation known?")
    return {"chart": chart, "reliability": f"{100 * found.uncertainty.reliability:.0f}\u202f%"}


def _class_rows(found: Conformations) -> list[dict[str, Any]]:
    count = len(found.classes)
    return [
        {
            "name": row.name,
            "particles": number(row.particles),
            "share": f"{100 * row.share:.1f}\u202f%",
            "width": f"{100 * row.share:.1f}",
            "resolution": angstrom(row.resolution_angstrom),
            "colour": class_colour(i, count),
        }
        for i, row in enumerate(found.classes)
    ]
