"""The report of a run: one page that stands alone, with the verdict first and the panels after it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cryoloom.files.durable import write_durably
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.report.headline import key_numbers, mixture_part, verdict_part
from cryoloom.report.panel import SECTIONS, Absent, Panel, asset, page_template
from cryoloom.report.panels import OF_SEVERAL_MOLECULES, PANELS
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import day
from cryoloom.runs import layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Card:
    """A panel as it is drawn: its content, or why there is none."""

    panel: Panel
    body: Markup | None = None
    absent: str = ""
    error: str = ""

    @property
    def name(self) -> str:
        """Id of the card on the page."""
        return f"panel-{self.panel.name}"

    @property
    def title(self) -> str:
        """Its heading."""
        return self.panel.title


@dataclass(frozen=True, slots=True)
class Report:
    """The page of a run, and the parts of it that could not be drawn, each with the reason."""

    html: str
    failures: tuple[str, ...]


def write_report(folder: Path, other: Path | None = None) -> tuple[str, ...]:
    """Write report.html into a run's folder; what is absent there is said on the page.

    `other`: a run on the same images whose classes are compared with those of this one (`jobs.class_agreement`).

    Reads each map once; costs about 1 CPU-s at 5,000 particles of 64 pixels, and one parse of particles.star.

    Returns:
        What could not be drawn, and why (a damaged file, say). The page says so too, and holds all the rest.

    Raises:
        BadRunFolder: when `folder` is no run, or its verdict is not one of this version.
    """
    run = FinishedRun(folder)
    report = render(ShownRun(run, other=None if other is None else FinishedRun(other)))
    write_durably(run.path(layout.REPORT), report.html.encode("utf-8"))
    return report.failures


def render(run: ShownRun, panels: Sequence[Panel] | None = None) -> Report:
    """The page as text: a function of the folder's contents.

    Args:
        panels: all of `panels.PANELS` that suit the run if left out.
    """
    record, verdict, mixture = run.run.record, run.run.verdict, run.run.mixture
    if panels is None:
        panels = OF_SEVERAL_MOLECULES if run.run.several_molecules else PANELS
    cards = [card for panel in panels if (card := _card(panel, run)) is not None]
    drawn = [card.panel for card in cards if card.body is not None]
    scripts = _once([asset("page.js"), *(script for panel in drawn for script in panel.scripts)])
    failures = tuple(f"{card.title}: {card.error}" for card in cards if card.error)
    html = page_template().render(
        run_name=run.run.folder.resolve().name,
        command=record.command,
        ended=day(record.updated),
        version=record.versions.get("cryoloom", "?"),
        verdict=verdict_part(record, verdict) if mixture is None else mixture_part(mixture),
        numbers=key_numbers(run),
        failures=[card.title for card in cards if card.error],
        sections=_sections(cards),
        styles=[Markup(css) for css in _once([asset("page.css"), *(panel.css for panel in drawn)])],
        scripts=[Markup(script) for script in scripts],
        # a script that came in through a name would not run even if it got past the escaping
        script_hashes=Markup(" ".join(_source_hash(script) for script in scripts)),
    )
    return Report(html, failures)


def _card(panel: Panel, run: ShownRun) -> Card | None:
    """A panel that fails must not cost the page: the error stands in its place."""
    try:
        return Card(panel, panel.html(run)) if panel.shown(run) else None
    except Absent as missing:
        return Card(panel, absent=str(missing))
    except Exception as error:
        logger.warning("the report's part %r could not be drawn", panel.title, exc_info=error)
        return Card(panel, error=str(error) or type(error).__name__)


def _sections(cards: Sequence[Card]) -> list[dict[str, Any]]:
    """Headings with their cards in rows: a wide card has its own, others stand side by side."""
    titles = [*SECTIONS, *dict.fromkeys(card.panel.section for card in cards if card.panel.section not in SECTIONS)]
    out = []
    for title in titles:
        own = [card for card in cards if card.panel.section == title]
        rows: list[dict[str, Any]] = []
        for wide, group in itertools.groupby(own, lambda card: card.panel.wide):
            found = list(group)
            rows += [{"wide": True, "cards": [card]} for card in found] if wide else [{"wide": False, "cards": found}]
        if own:
            out.append({"title": title, "anchor": title.lower().replace(" ", "-"), "rows": rows})
    return out


def _once(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _source_hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
