"""Central slices of the run's maps, and projections."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.figures import PictureRow, grey_pictures
from cryoloom.report.map_views import MapView
from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.runs import layout
from cryoloom.runs.layout import RunFile

_LEFT = ((layout.MAP, "map"), (layout.SHARP_MAP, "sharpened map"))
_RIGHT = ((layout.HALF1, "half map 1"), (layout.HALF2, "half map 2"), (layout.MASK, "mask"))


def html(run: ShownRun) -> Markup:
    """Costs about 0.1 CPU-s.

    Raises:
        ValueError: for maps of different boxes or pixel sizes.
    """
    views = {file: run.view(file) for file, _ in (*_LEFT, *_RIGHT)}
    box, pixel_size = _one_grid(run, views)
    left = _slices(views, _LEFT)
    shown = views[layout.MAP]
    if shown is not None:
        row = PictureRow("projections", "of the map along z, y and x", grey_pictures(shown.projections, "projection"))
        left.append(row)
    missing = [file.name for file, view in views.items() if view is None]
    return from_template(
        __file__,
        left=left,
        right=_slices(views, _RIGHT),
        box=f"Box {box} voxels, {box * pixel_size:.0f} Å.",
        missing=f"Not in the folder: {', '.join(missing)}." if missing else "",
    )


def _slices(views: dict[RunFile, MapView | None], wanted: tuple[tuple[RunFile, str], ...]) -> list[PictureRow]:
    found = ((file, name, views[file]) for file, name in wanted)
    return [
        PictureRow(name, file.name, grey_pictures(view.slices, f"central slice of the {name}"))
        for file, name, view in found
        if view is not None
    ]


def _one_grid(run: ShownRun, views: dict[RunFile, MapView | None]) -> tuple[int, float]:
    """Box and pixel size of all maps."""
    there = [(file, view) for file, view in views.items() if view is not None]
    first_file, first = there[0]
    for file, view in there[1:]:
        if view.box != first.box or abs(view.pixel_size / first.pixel_size - 1) > 1e-3:
            raise ValueError(
                f"{run.run.folder}: {first_file.name} has {first.box} voxels of {first.pixel_size:g} angstrom, "
                f"{file.name} {view.box} of {view.pixel_size:g}; expected maps of one run to share their grid"
            )
    return first.box, first.pixel_size


def shown(run: ShownRun) -> bool:
    """Where there is any map."""
    return any(run.run.has(file) for file, _ in (*_LEFT, *_RIGHT))


PANEL = Panel(name="slices", section="Map", title="Central slices and projections", html=html, shown=shown, wide=True)
