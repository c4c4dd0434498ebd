"""The clusters into which cryoloom analyze has divided the latent space."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.class_rows import class_rows
from cryoloom.report.panel import Panel, beside, from_template
from cryoloom.report.shown_run import ShownRun


def html(run: ShownRun) -> Markup:
    """A row for each cluster."""
    return from_template(__file__, rows=class_rows(run.run.clusters), classes=bool(run.run.classes))


def shown(run: ShownRun) -> bool:
    """After cryoloom analyze."""
    return bool(run.run.clusters)


PANEL = Panel(
    name="clusters",
    section="Conformations",
    title="Clusters of the latent space",
    html=html,
    shown=shown,
    wide=True,
    css=beside(__file__, "classes.css"),
)
