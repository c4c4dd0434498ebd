"""The panels of the page, in their order: a new one is a module here and a line in PANELS."""

from __future__ import annotations

import importlib

from cryoloom.report.panel import Panel

_MODULES = (
    "surface",
    "slices",
    "classes",
    "clusters",
    "latent_space",
    "map_series",
    "latent_uncertainty",
    "movie",
    "fsc",
    "directions",
    "local_resolution",
    "progress",
    "training",
    "image_pairs",
    "viewing_directions",
    "particle_histograms",
    "chimerax",
    "hand",
    "files",
    "command",
    "settings",
    "machine",
)

PANELS: list[Panel] = [importlib.import_module(f"{__name__}.{name}").PANEL for name in _MODULES]
