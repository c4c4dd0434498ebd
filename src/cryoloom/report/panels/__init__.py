"""The panels of the page, in their order: a new one is a module here and a line in PANELS."""

from __future__ import annotations

import importlib

from cryoloom.report.panel import Panel

_MODULES = (
    "molecules",
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
    "class_images",
    "class_agreement",
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

_OF_SEVERAL_MOLECULES = (
    "molecules",
    "class-images",
    "class-agreement",
    "progress",
    "files",
    "command",
    "settings",
    "machine",
)

PANELS: list[Panel] = [importlib.import_module(f"{__name__}.{name}").PANEL for name in _MODULES]
# those of a run that looks for several molecules: each class has a page of its own with all panels
OF_SEVERAL_MOLECULES: list[Panel] = [panel for panel in PANELS if panel.name in _OF_SEVERAL_MOLECULES]
