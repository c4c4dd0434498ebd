"""The maps and curves that a run leaves in its folder."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from cryoloom.jobs.chimerax import write_chimerax_script
from cryoloom.jobs.final_maps import FinalMaps
from cryoloom.jobs.fsc_table import write_fsc_table
from cryoloom.maps.align import mirrored
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.runs import layout


def write_maps(folder: Path, maps: FinalMaps, pixel_size: float, flip: bool) -> None:
    """Write maps, mask, local resolution, FSC curves and the script that shows them; mirrored with `flip`."""
    for file, volume in (
        (layout.MAP, maps.combined),
        (layout.SHARP_MAP, maps.sharp),
        (layout.HALF1, maps.halves[0]),
        (layout.HALF2, maps.halves[1]),
        (layout.MASK, maps.mask),
        (layout.LOCAL_RESOLUTION, maps.local),
    ):
        shown = mirrored(volume) if flip else volume
        write_map(file.path(folder), DensityMap(shown.float().cpu().contiguous(), pixel_size))
    write_fsc_table(layout.FSC.path(folder), maps.gold, len(maps.combined) * pixel_size)
    write_chimerax_script(folder, *(_contour(v, maps.mask) for v in (maps.combined, maps.sharp)))


def write_first_map(path: Path, volume: Tensor, feed: ImageFeed, flip: bool) -> None:
    """Write the map of a start, in the box of the images, for viewing during the run."""
    volume = rebox(volume, feed.box)
    volume = mirrored(volume) if flip else volume
    write_map(path, DensityMap(volume.float().cpu().contiguous(), feed.pixel_size))


def _contour(volume: Tensor, mask: Tensor) -> float | None:
    """A contour level for a map: a standard deviation above the mean inside the mask; None where the mask is empty."""
    inside = volume[mask > 0.5]
    return float(inside.mean() + inside.std()) if len(inside) else None
