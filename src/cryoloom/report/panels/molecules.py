"""The molecules of a run that looks for several: their surfaces side by side, with shares, resolutions and verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.mixture_verdict import ClassVerdict
from cryoloom.jobs.verdict_text import WORDS
from cryoloom.report.class_rows import class_colour
from cryoloom.report.figures import Picture, picture
from cryoloom.report.panel import Absent, Panel, beside, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.spheres import view_map
from cryoloom.report.surface import draw_view
from cryoloom.report.text import angstrom, number
from cryoloom.runs import layout

_SIDE = 192
_SIDES = ("from +z: x right, y up", "from −y: x right, z up")


def html(run: ShownRun) -> Markup:
    """A card for each class; costs about 0.4 CPU-s each."""
    mixture = run.run.mixture
    if mixture is None:
        raise Absent("The run has not finished: the classes are not known yet.")
    if not mixture.classes:
        raise Absent("No class has half maps that agree.")
    count = len(mixture.classes)
    cards = [
        _card(c, FinishedRun(run.run.folder / c.name), class_colour(i, count)) for i, c in enumerate(mixture.classes)
    ]
    return from_template(
        __file__,
        cards=cards,
        none=number(mixture.none) if mixture.none else "",
        none_share=f"{100 * mixture.none_share:.1f}\u202f%",
        views=_SIDES,
    )


def _card(found: ClassVerdict, run: FinishedRun, colour: str) -> dict[str, Any]:
    surface = ShownRun(run).surface
    pictures = (
        [] if surface is None else [picture(draw_view(surface, p, _SIDE), f"{found.name} {_SIDES[p]}") for p in (0, 1)]
    )
    return {
        "name": found.name,
        "page": f"{found.name}/{layout.REPORT.name}",
        "word": WORDS[found.outcome],
        "particles": number(found.particles),
        "share": f"{100 * found.share:.1f}\u202f%",
        "width": f"{100 * found.share:.1f}",
        "resolution": angstrom(found.resolution_angstrom),
        "moves": found.components,
        "colour": colour,
        "pictures": pictures,
        "directions": _directions(run),
    }


def _directions(run: FinishedRun) -> Picture | None:
    """The density of viewing directions, as on the page of the class; half as large."""
    found = run.estimates
    if found is None or found.rot_degrees is None or found.tilt_degrees is None:
        return None
    pixels = view_map(found.rot_degrees, found.tilt_degrees).pixels
    return picture(np.ascontiguousarray(pixels[::2, ::2]), f"{run.folder.name}, viewing directions")


def shown(run: ShownRun) -> bool:
    """Where the run looks for several molecules."""
    return run.run.several_molecules


PANEL = Panel(
    name="molecules",
    section="Map",
    title="Molecules",
    html=html,
    shown=shown,
    wide=True,
    css=beside(__file__, "molecules.css"),
)
