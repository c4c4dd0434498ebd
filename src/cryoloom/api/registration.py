"""Additions to the registries from a program of your own; the package itself is not edited."""

from __future__ import annotations

from typing import TypeAlias

from cryoloom.particles.formats import FORMATS
from cryoloom.particles.formats.format import Format
from cryoloom.recipes.methods.method import ConformationMethod, PoseMethod
from cryoloom.recipes.methods.registry import CONFORMATION_METHODS, POSE_METHODS
from cryoloom.report.panel import Panel
from cryoloom.report.panels import PANELS

Addition: TypeAlias = PoseMethod | ConformationMethod | Format | Panel


def register(addition: Addition) -> None:
    """Add a pose method, conformation method, particle format or report panel to those that this process knows.

    `reconstruct`, `hetero`, `open` and the report then treat it as one of cryoloom's own. A run that uses it can be
    resumed and reported only where it is registered again.

    Raises:
        ValueError: if one of that kind and name is registered already.
    """
    if isinstance(addition, Panel):
        taken = any(panel.name == addition.name for panel in PANELS)
    else:
        taken = addition.name in _registry(addition)
    if taken:
        raise ValueError(f"{type(addition).__name__} {addition.name!r} is registered already: choose another name")
    if isinstance(addition, Panel):
        PANELS.append(addition)
    else:
        _registry(addition)[addition.name] = addition


def _registry(addition: PoseMethod | ConformationMethod | Format) -> dict:
    if isinstance(addition, PoseMethod):
        return POSE_METHODS
    return CONFORMATION_METHODS if isinstance(addition, ConformationMethod) else FORMATS
