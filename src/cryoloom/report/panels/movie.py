"""How to play the trajectories in ChimeraX."""

from __future__ import annotations

from urllib.parse import quote

from markupsafe import Markup

from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.runs import layout


def html(run: ShownRun) -> Markup:
    """The script and its commands."""
    return from_template(__file__, name=layout.MOVIES_SCRIPT.name, href=quote(layout.MOVIES_SCRIPT.name))


def shown(run: ShownRun) -> bool:
    """After cryoloom analyze."""
    return run.run.has(layout.MOVIES_SCRIPT)


PANEL = Panel(name="movie", section="Conformations", title="As a movie", html=html, shown=shown)
