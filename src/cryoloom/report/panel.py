"""A panel of the report: what one card of the page shows, drawn from a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cryoloom.report.map_views import PLANES
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import angstrom, plain

SECTIONS = ("Map", "Conformations", "Resolution", "Training", "Particles", "Using the results", "Record")


class Absent(Exception):
    """What a panel would show is not in the run folder; the message stands on the page in its place."""


def always(run: ShownRun) -> bool:
    """The panel is part of every page."""
    return True


@dataclass(frozen=True)
class Panel:
    """One card of the page.

    Attributes:
        name: unique; the id of the card.
        section: one of SECTIONS, the heading under which the card stands.
        title: heading of the card.
        html: draws the content of the card. It may raise `Absent`. Any other error is named on the card, and the rest
            of the page is written all the same.
        shown: whether the page has this card at all.
        wide: a row of its own; other cards stand two in a row.
        css, scripts: style sheet and scripts that the content needs, as text; each is written once, and only onto pages
            that show the panel.
    """

    name: str
    section: str
    title: str
    html: Callable[[ShownRun], Markup]
    shown: Callable[[ShownRun], bool] = always
    wide: bool = False
    css: str = ""
    scripts: tuple[str, ...] = field(default=())


def beside(module: str, name: str) -> str:
    """The text of a file that lies beside a panel's module (given as `__file__`)."""
    return (Path(module).parent / name).read_text(encoding="utf-8")


def from_template(module: str, **values: Any) -> Markup:
    """The panel's template, the file beside its module with the suffix .html, filled with values; they are escaped."""
    path = Path(module).with_suffix(".html")
    return Markup(_environment().from_string(path.read_text(encoding="utf-8")).render(**values))


def page_template() -> jinja2.Template:
    """The template of the page around the panels."""
    return _environment().from_string(asset("page.html"))


def asset(name: str) -> str:
    """A file of the page itself."""
    return (resources.files("cryoloom.report") / "assets" / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda v: plain(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
        loader=jinja2.FunctionLoader(asset),
    )
    environment.globals |= {"plane_names": PLANES, "angstrom": angstrom}
    return environment
