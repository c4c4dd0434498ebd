"""The surface of the map: in a 3D viewer, and as three pictures where there is none."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.figures import picture
from cryoloom.report.panel import Absent, Panel, beside, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.surface import draw_surface, viewer_file
from cryoloom.report.text import angstrom
from cryoloom.runs import layout

_SIDES = ("from +z: x right, y up", "from −y: x right, z up", "from +x: y right, z up")
_CAUTIONS = {
    "converged": "",
    "uncertain": "Not every check was passed: read the reasons above before you trust this map.",
    "failed": "The run did not converge: do not interpret this map.",
    "noise": "The verdict is noise: this map is what alignment makes of noise. Do not interpret it.",
}


def html(run: ShownRun) -> Markup:
    """Costs about 0.2 CPU-s."""
    if not run.run.has(run.best_map):
        raise Absent(f"Neither {layout.MAP.name} nor {layout.SHARP_MAP.name} is in the folder.")
    surface, verdict = run.surface, run.run.verdict
    if surface is None:
        raise Absent("The map has no positive density within its mask, so there is no surface to show.")
    pictures = zip(draw_surface(surface), _SIDES, strict=True)
    known = verdict is not None and verdict.hand_determined
    return from_template(
        __file__,
        caution="There is no verdict on this map yet." if verdict is None else _CAUTIONS[verdict.outcome],
        mild=verdict is not None and verdict.outcome == "uncertain",
        file=run.best_map.name,
        data=viewer_file(surface),
        pixel_size=angstrom(surface.pixel_size),
        level=f"{surface.level:.6g}",
        step=f"{surface.pixel_size:.6g}",
        level_text=f"{surface.level:.3g}",
        low=f"{min(0.1 * surface.highest, 0.5 * surface.level):.6g}",
        high=f"{0.95 * surface.highest:.6g}",
        stills=[picture(pixels, alt) for pixels, alt in pictures],
        hand="" if known else "The hand is not determined: the mirror image fits the images equally well.",
        licence=beside(__file__, "3Dmol-LICENSE.txt"),
    )


PANEL = Panel(
    name="surface",
    section="Map",
    title="Surface",
    html=html,
    wide=True,
    css=beside(__file__, "surface.css"),
    scripts=(beside(__file__, "3Dmol-min.js"), beside(__file__, "surface.js")),
)
