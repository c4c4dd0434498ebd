"""Particles by viewing direction."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.figures import Scale, picture
from cryoloom.report.panel import Absent, Panel, from_template
from cryoloom.report.png import VIRIDIS, gradient
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.spheres import graticule, view_map
from cryoloom.runs import layout


def html(run: ShownRun) -> Markup:
    """The density of views in a Mollweide projection."""
    found, verdict = run.run.estimates, run.run.verdict
    if found is None:
        raise Absent(f"{layout.PARTICLES.name} is not in the folder: nothing is known of the particles.")
    if found.rot_degrees is None or found.tilt_degrees is None:
        raise Absent(f"{layout.PARTICLES.name} holds no angles.")
    views = view_map(found.rot_degrees, found.tilt_degrees)
    remark = f"{100 * views.empty_share:.0f}\u202f% of {views.cells} evenly spaced directions have no particle nearby."
    symmetry = "C1" if verdict is None else verdict.evidence.symmetry
    if symmetry != "C1":
        remark += f" Views that are equivalent by {symmetry} symmetry are shown as the run assigned them."
    return from_template(
        __file__,
        picture=picture(views.pixels, "viewing directions"),
        net=graticule(),
        remark=remark,
        colours=Scale(gradient(VIRIDIS), "0", f"{views.highest:.1f} × uniform"),
        smoothing=f"{views.smoothing_degrees:.0f}°",
    )


PANEL = Panel(name="viewing-directions", section="Particles", title="Viewing directions", html=html)
