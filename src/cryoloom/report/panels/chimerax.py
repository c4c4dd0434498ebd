"""How to open the maps in ChimeraX."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.runs import layout


def html(run: ShownRun) -> Markup:
    """Which file is for what."""
    return from_template(__file__, files=layout)


PANEL = Panel(name="chimerax", section="Using the results", title="In ChimeraX", html=html)
