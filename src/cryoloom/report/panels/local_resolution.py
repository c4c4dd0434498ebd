"""Local resolution within the mask."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from cryoloom.report.charts import histogram
from cryoloom.report.figures import PictureRow, Scale, picture
from cryoloom.report.map_views import PLANES, MapView
from cryoloom.report.panel import Absent, Panel, from_template
from cryoloom.report.png import colourise, gradient
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.spheres import FINE_TO_COARSE
from cryoloom.report.text import angstrom
from cryoloom.runs import layout


def html(run: ShownRun) -> Markup:
    """Central slices and a histogram."""
    view = run.view(layout.LOCAL_RESOLUTION)
    if view is None:
        raise Absent(f"{layout.LOCAL_RESOLUTION.name} is not in the folder: it was not computed.")
    found = local_resolution_row(view, run.view(layout.MASK))
    if found is None:
        raise Absent(f"{layout.LOCAL_RESOLUTION.name} holds no value within the mask.")
    row, colours, chart = found
    return from_template(__file__, row=row, colours=colours, chart=chart)


def local_resolution_row(view: MapView, mask: MapView | None) -> tuple[PictureRow, Scale, Markup] | None:
    """Slices through the local resolution within the mask, their colours and a histogram of them; None if void."""
    inside = np.isfinite(view.slices) & (view.slices > 0)
    if mask is not None and mask.slices.shape == view.slices.shape:
        inside &= mask.slices > 0.5
    if not inside.any():
        return None
    known = view.slices[inside]
    fine, median, coarse = (float(v) for v in np.percentile(known, (2, 50, 98)))
    span = max(coarse - fine, 1e-6)
    pictures = []
    frame = _frame(inside)
    for name, plane, shown in zip(PLANES, view.slices[frame], inside[frame], strict=True):
        fraction = np.where(shown, (plane - fine) / span, 0)
        rgba = np.concatenate([colourise(fraction, FINE_TO_COARSE), np.where(shown, 255, 0)[..., None]], -1)
        pictures.append(picture(rgba[::-1].astype(np.uint8), f"local resolution, {name}"))
    row = PictureRow("local resolution", f"median {angstrom(median)}", tuple(pictures))
    chart = histogram(known, "local resolution (Å)", "Local resolution", " Å", "pixels of the slices")
    return row, Scale(gradient(FINE_TO_COARSE), angstrom(fine), angstrom(coarse)), chart


def _frame(inside: np.ndarray) -> tuple[slice, slice, slice]:
    """The square about the centre that holds all that is inside, on every plane."""
    side = inside.shape[-1]
    where = np.argwhere(inside)[:, 1:]
    low = max(0, min(int(where.min()), side - 1 - int(where.max())) - 2)
    return slice(None), slice(low, side - low), slice(low, side - low)


PANEL = Panel(name="local-resolution", section="Resolution", title="Local resolution", html=html)
