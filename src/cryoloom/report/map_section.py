"""The part of the report that shows the maps: surface, slices, local resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoloom.report import figures
from cryoloom.report.map_views import MapView, view_map
from cryoloom.report.surface import Surface, cut_out, draw_surface, viewer_file
from cryoloom.report.text import angstrom

_SIDES = ("from +z: x right, y up", "from −y: x right, z up", "from +x: y right, z up")


@dataclass(frozen=True, slots=True)
class MapSection:
    """`context` is what the template shows, `view` the map itself (map.mrc), `surface` what the viewer gets."""

    context: dict[str, Any]
    view: MapView | None
    surface: Surface | None


def map_section(folder: Path, absent: dict[str, Any]) -> MapSection:
    """Reads the maps of a run; sentences about those that are missing go into `absent`.

    Raises:
        ValueError: for a damaged map, or maps of different boxes or pixel sizes.
    """
    names = ("map", "map_sharp", "half1", "half2", "mask", "local_resolution")
    views = {name: view_map(folder / f"{name}.mrc") for name in names}
    _check_grids(folder, views)
    shown = "map_sharp" if views["map_sharp"] is not None else "map"
    surface = _surface(views[shown], views["mask"])
    context: dict[str, Any] = {"surface": None, "local": None}
    missing = [f"{name}.mrc" for name in ("map", "map_sharp", "half1", "half2", "mask") if views[name] is None]
    absent["map"] = "Neither map.mrc nor map_sharp.mrc is in the folder." if views[shown] is None else None
    absent["slices"] = [f"Not in the folder: {', '.join(missing)}."] if missing else []
    if surface is not None:
        pictures = zip(draw_surface(surface), _SIDES, strict=True)
        context["surface"] = {
            "file": f"{shown}.mrc",
            "data": viewer_file(surface),
            "pixel_size": angstrom(surface.pixel_size),
            "level": f"{surface.level:.6g}",
            "step": f"{surface.pixel_size:.6g}",
            "level_text": f"{surface.level:.3g}",
            "low": f"{min(0.1 * surface.highest, 0.5 * surface.level):.6g}",
            "high": f"{0.95 * surface.highest:.6g}",
            "stills": [figures.picture(pixels, alt) for pixels, alt in pictures],
        }
    context.update(_slices(views))
    local = views["local_resolution"]
    found = figures.local_resolution_row(local, views["mask"]) if local is not None else None
    if found is not None:
        context["local"] = {"row": found[0], "scale": found[1], "chart": found[2]}
    elif local is not None:
        absent["local"] = "local_resolution.mrc holds no value within the mask."
    else:
        absent["local"] = "local_resolution.mrc is not in the folder: it was not computed."
    return MapSection(context, views["map"], surface)


def _surface(view: MapView | None, mask: MapView | None) -> Surface | None:
    if view is None:
        return None
    return cut_out(view.small, None if mask is None else mask.small, view.small_pixel_size)


def _slices(views: dict[str, MapView | None]) -> dict[str, Any]:
    left = figures.slice_rows(
        [("map", "map.mrc", views["map"]), ("sharpened map", "map_sharp.mrc", views["map_sharp"])]
    )
    if views["map"] is not None:
        left.append(figures.projection_row(views["map"]))
    right = figures.slice_rows(
        [
            ("half 1", "half1.mrc", views["half1"]),
            ("half 2", "half2.mrc", views["half2"]),
            ("mask", "mask.mrc", views["mask"]),
        ]
    )
    any_view = next((v for v in views.values() if v is not None), None)
    note = "" if any_view is None else f"Box {any_view.box} voxels, {any_view.box * any_view.pixel_size:.0f} Å."
    return {"slices": left + right, "slices_left": left, "slices_right": right, "box_note": note}


def _check_grids(folder: Path, views: dict[str, MapView | None]) -> None:
    there = [(name, view) for name, view in views.items() if view is not None]
    for name, view in there[1:]:
        first_name, first = there[0]
        if view.box != first.box or abs(view.pixel_size / first.pixel_size - 1) > 1e-3:
            raise ValueError(
                f"{folder}: {first_name}.mrc has {first.box} voxels of {first.pixel_size:g} angstrom, {name}.mrc "
                f"{view.box} of {view.pixel_size:g}; expected maps of one run to share their grid"
            )
