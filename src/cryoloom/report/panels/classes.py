"""The classes that the run found, with shares and resolutions."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.class_rows import class_rows
from cryoloom.report.panel import Panel, beside, from_template
from cryoloom.report.shown_run import ShownRun


def html(run: ShownRun) -> Markup:
    """A row for each class."""
    return from_template(__file__, rows=class_rows(run.run.classes))


def shown(run: ShownRun) -> bool:
    """Where the run looked for classes."""
    return bool(run.run.classes)


PANEL = Panel(
    name="classes",
    section="Conformations",
    title="Classes",
    html=html,
    shown=shown,
    wide=True,
    css=beside(__file__, "classes.css"),
)
