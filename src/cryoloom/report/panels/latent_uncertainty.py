"""How well the latent coordinates of each particle are known."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.charts import histogram
from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun


def html(run: ShownRun) -> Markup:
    """A histogram of the posterior widths, and the reliability."""
    assert run.conformations is not None
    assert run.conformations.uncertainty is not None  # as `shown` says
    found = run.conformations.uncertainty
    label = "expected error (population s.d.)"
    chart = histogram(found.relative, label, "Uncertainty of the latent coordinates")
    return from_template(__file__, chart=chart, reliability=f"{found.reliability:.2f}")


def shown(run: ShownRun) -> bool:
    """Where latent coordinates have covariances."""
    return run.conformations is not None and run.conformations.uncertainty is not None


PANEL = Panel(
    name="latent-uncertainty",
    section="Conformations",
    title="Uncertainty of the latent coordinates",
    html=html,
    shown=shown,
)
