"""Linked scatters of the latent space."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.conformations import Conformations
from cryoloom.report.filmstrip import MOST_SERIES
from cryoloom.report.latent_scatter import (
    MOST_POINTS,
    Scatter,
    legend_of,
    page_data,
    scatters,
    swatches,
    uncertainty_scale,
)
from cryoloom.report.panel import Panel, beside, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import number


def html(run: ShownRun) -> Markup:
    """Costs about 1 CPU-s at 100,000 images."""
    found = run.conformations
    assert found is not None  # as `shown` says
    drawn = scatters(found)
    series = tuple(s for s in found.series[:MOST_SERIES] if s.points is not None)
    return from_template(
        __file__,
        panels=drawn,
        labellings=[(one.kind, legend_of(swatches(one))) for one in found.labellings],
        uncertainty=uncertainty_scale(found),
        series=bool(series),
        remark=_remark(found, drawn),
        blur=_blur(found),
        sampled=found.count > MOST_POINTS,
        count=number(found.count),
        points=number(MOST_POINTS),
        data=page_data(found, drawn, series),
    )


def _remark(found: Conformations, drawn: list[Scatter]) -> str:
    assert found.axes is not None
    dims = len(found.axes.mean)
    said = [f"{number(found.count)} particles with {dims} latent {'coordinate' if dims == 1 else 'coordinates'} each."]
    if found.density is not None:
        modes = found.density.modes
        if len(modes) == 1:
            said.append("Their density over PC1 and PC2 has one significant peak.")
        else:
            shares = ", ".join(f"{100 * m.share:.0f}\u202f%" for m in modes)
            said.append(f"Their density over PC1 and PC2 has {len(modes)} significant peaks (dots: {shares} of them).")
    beyond = max((p.beyond for p in drawn), default=0)
    if beyond:
        said.append(f"Outliers (up to {number(beyond)}) are drawn at the rim.")
    return " ".join(said)


def _blur(found: Conformations) -> str:
    """The posterior widths beside the spread of the particles, in the units of the axes."""
    if found.density is None or found.density.blur is None or found.axes is None:
        return ""
    one, two = found.density.blur
    sd = found.axes.variance[:2] ** 0.5
    return (
        f"The posterior standard deviation of a particle is {one:.2g} along PC1 and {two:.2g} along PC2; the standard "
        f"deviation of all particles is {sd[0]:.2g} and {sd[1]:.2g}. Narrower features are not resolved."
    )


def shown(run: ShownRun) -> bool:
    """Where there are latent coordinates."""
    return run.conformations is not None and run.conformations.axes is not None


PANEL = Panel(
    name="latent-space",
    section="Conformations",
    title="Latent space",
    html=html,
    shown=shown,
    wide=True,
    css=beside(__file__, "latent_space.css") + beside(__file__, "classes.css"),
    scripts=(beside(__file__, "latent_space.js"),),
)
