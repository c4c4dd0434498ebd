"""Resolution by direction."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.figures import Scale, picture
from cryoloom.report.panel import Absent, Panel, from_template
from cryoloom.report.png import gradient
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.spheres import FINE_TO_COARSE, direction_map
from cryoloom.report.text import angstrom


def html(run: ShownRun) -> Markup:
    """The directional FSC on half of the sphere."""
    verdict = run.run.verdict
    rows = verdict.evidence.directional_resolution_angstrom if verdict else ()
    found = direction_map(rows)
    if found is None:
        raise Absent("The verdict holds no resolution by direction.")
    return from_template(
        __file__,
        picture=picture(found.pixels, "resolution by direction"),
        dots=found.dots,
        colours=Scale(gradient(FINE_TO_COARSE), angstrom(found.finest), angstrom(found.scale_end)),
        finest=found.finest,
        coarsest=found.coarsest,
        ratio=f"{found.coarsest / found.finest:.2f}",
        silent=found.silent,
        cfar=verdict.evidence.cfar if verdict else None,
    )


PANEL = Panel(name="directions", section="Resolution", title="Directional resolution", html=html)
