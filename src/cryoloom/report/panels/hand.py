"""What is known of the map's hand."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun


def html(run: ShownRun) -> Markup:
    """Known or not, and what to do about it."""
    verdict = run.run.verdict
    return from_template(__file__, determined=verdict is not None and verdict.hand_determined)


PANEL = Panel(name="hand", section="Using the results", title="Hand", html=html)
