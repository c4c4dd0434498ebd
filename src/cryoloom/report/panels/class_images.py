"""Images of each class beside the projections of its map, and images of no class."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.particles.errors import BadInput
from cryoloom.report.class_rows import class_colour
from cryoloom.report.panel import Absent, Panel, beside, from_template
from cryoloom.report.panels.image_pairs import in_own_contrast, pair_figures
from cryoloom.report.reprojections import compare, low_passed
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import number
from cryoloom.runs import layout

_PLACES = (0.1, 0.4, 0.7, 0.95)  # of the images in the order of log-likelihood
_NONE, _MOST = 8, 16  # images of no class; classes


def html(run: ShownRun) -> Markup:
    """Four images of each class, spread over the log-likelihood; costs about 0.1 CPU-s each class."""
    mixture = run.run.mixture
    if mixture is None or not mixture.classes:
        raise Absent("There are no classes, so no images of them are shown.")
    count = len(mixture.classes)
    classes = []
    try:
        for i, found in enumerate(mixture.classes[:_MOST]):
            classes.append(_class(FinishedRun(run.run.folder / found.name), class_colour(i, count)))
        inverted = any(c["inverted"] for c in classes)
        none = _none(run, inverted)
    except BadInput as error:
        raise Absent(f"The images can't be read, so none are shown. {error}") from error
    return from_template(
        __file__, classes=classes, more=count - len(classes), none=none, total=number(mixture.none), inverted=inverted
    )


def _class(run: FinishedRun, colour: str) -> dict[str, Any]:
    found, view, verdict = run.estimates, ShownRun(run).view(layout.MAP), run.verdict
    if found is None or found.particles is None or view is None:
        raise Absent(f"The images or the map of {run.folder.name} can't be opened, so none are shown.")
    resolution = None if verdict is None else verdict.resolution_angstrom
    pairs = compare(
        found.particles, view, resolution, found.log_likelihood, found.angular_error_degrees, places=_PLACES
    )
    return {"name": run.folder.name, "colour": colour, "pairs": pair_figures(pairs), "inverted": pairs.inverted}


def _none(run: ShownRun, inverted: bool) -> list[Any]:
    """Images of no class, spread over the file."""
    found = run.run.estimates
    if found is None or found.particles is None or found.classes is None:
        return []
    rows = np.flatnonzero(found.classes == 0)
    if not len(rows):
        return []
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _NONE).astype(np.int64))]
    shown = low_passed(found.particles, chosen, inverted)
    return [
        in_own_contrast(image, f"image of row {found.particles.rows[row] + 1}")
        for row, image in zip(chosen, shown, strict=True)
    ]


def shown(run: ShownRun) -> bool:
    """Where the run looks for several molecules."""
    return run.run.several_molecules


PANEL = Panel(
    name="class-images",
    section="Particles",
    title="Images by class",
    html=html,
    shown=shown,
    wide=True,
    css=beside(__file__, "class_images.css"),
)
