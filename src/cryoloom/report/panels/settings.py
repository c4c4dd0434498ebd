"""The settings of the run."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import flat


def html(run: ShownRun) -> Markup:
    """All of them, with dotted names."""
    return from_template(__file__, settings=flat(run.run.record.settings))


PANEL = Panel(name="settings", section="Record", title="Settings", html=html)
