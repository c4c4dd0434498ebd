"""Maps of classes, clusters and trajectories as pictures."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.filmstrip import MOST_SERIES, filmstrip
from cryoloom.report.panel import Panel, beside, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import plain
from cryoloom.runs import layout


def html(run: ShownRun) -> Markup:
    """Costs about 0.2 CPU-s for each series of ten maps of 64 voxels.

    Raises:
        ValueError: for a damaged map, or maps of one series on different grids.
    """
    found = run.conformations
    assert found is not None  # as `shown` says
    mask = run.view(layout.MASK)
    strips = [strip for s in found.series[:MOST_SERIES] if (strip := filmstrip(s, mask)) is not None]
    return from_template(__file__, strips=strips, left_out=[plain(s.name) for s in found.series[MOST_SERIES:]])


def shown(run: ShownRun) -> bool:
    """Where there are maps of conformations."""
    return run.conformations is not None and bool(run.conformations.series)


PANEL = Panel(
    name="map-series",
    section="Conformations",
    title="Maps of the conformations",
    html=html,
    shown=shown,
    wide=True,
    css=beside(__file__, "map_series.css"),
    scripts=(beside(__file__, "map_series.js"),),
)
