"""A ChimeraX script that opens the maps of a run."""

from __future__ import annotations

from pathlib import Path

from cryoloom.files.durable import write_durably
from cryoloom.runs import layout


def write_chimerax_script(run: Path, level: float | None = None, sharp_level: float | None = None) -> None:
    """Write open.cxc, which shows map.mrc, and map_sharp.mrc if there is one, at the given contour levels.

    ChimeraX runs a script in the script's folder, so the folder can be moved. It chooses a level where none is given.
    """
    lines = ["# written by cryoloom: open with ChimeraX", "set bgColor white", "lighting soft"]
    shown = [(layout.MAP, "#8fb3d9", level)]
    if layout.SHARP_MAP.path(run).exists():
        shown.append((layout.SHARP_MAP, "#d9b38f", sharp_level))
    for number, (file, colour, contour) in enumerate(shown, start=1):
        at = "" if contour is None else f" level {contour:.6g}"
        lines += [f"open {file.name} id {number}", f"volume #{number} style surface step 1{at} color {colour}"]
    if len(shown) == 2:
        lines.append("hide #1 models")
    lines.append("view")
    write_durably(layout.MAPS_SCRIPT.path(run), ("\n".join(lines) + "\n").encode())
