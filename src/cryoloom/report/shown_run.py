"""A run as its page shows it: what several panels draw from, read and reduced once."""

from __future__ import annotations

from functools import cached_property

from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.report.conformations import Conformations, read_conformations
from cryoloom.report.map_views import MapView, view_map
from cryoloom.report.surface import Surface, cut_out
from cryoloom.runs import layout
from cryoloom.runs.layout import RunFile


class ShownRun:
    """A run and its reduced maps.

    Attributes:
        run: the folder; other: a run on the same images whose classes are compared with those of this one.
    """

    def __init__(
        self, run: FinishedRun, conformations: Conformations | None = None, other: FinishedRun | None = None
    ) -> None:
        self.run, self.other = run, other
        self._given = conformations
        self._views: dict[RunFile, MapView | None] = {}

    def view(self, file: RunFile) -> MapView | None:
        """A map reduced for display; None if the run does not have it.

        Raises:
            ValueError: for a damaged file.
        """
        if file not in self._views:
            self._views[file] = view_map(self.run.path(file))
        return self._views[file]

    @property
    def best_map(self) -> RunFile:
        """The map to look at: the sharpened one, or else the unsharpened one."""
        return layout.SHARP_MAP if self.run.has(layout.SHARP_MAP) else layout.MAP

    @cached_property
    def surface(self) -> Surface | None:
        """Surface of the map to look at, within its mask; None without a map, or without contrast in it."""
        view, mask = self.view(self.best_map), self.view(layout.MASK)
        if view is None:
            return None
        return cut_out(view.small, None if mask is None else mask.small, view.small_pixel_size)

    @cached_property
    def conformations(self) -> Conformations | None:
        """What was found of conformations; None for a run without any.

        Raises:
            ValueError: for a file that is there but damaged, or of another number of images, with its name.
        """
        return read_conformations(self.run) if self._given is None else self._given
