"""The registry of panels: a panel in a file of its own comes onto the page, with what it needs and in its place."""

import base64
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.report import panels
from cryoloom.report.page import render
from cryoloom.report.panel import SECTIONS
from cryoloom.report.shown_run import ShownRun

TOY = '''"""How many particles there are in each half set."""

from markupsafe import Markup, escape

from cryoloom.report.panel import Panel, beside, from_template


def html(run):
    """A sentence."""
    found = run.run.estimates
    return from_template(__file__, count=found.count, name="<b>" + run.run.folder.name)


PANEL = Panel(
    name="toy",
    section="Particles",
    title="A toy",
    html=html,
    css=".toy { color: teal; }",
    scripts=(beside(__file__, "toy.js"),),
)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A panel with its template and script, registered; returns the script."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "toy.html").write_text('<p class="toy">{{ count }} particles in {{ name }}</p>')
    script = 'document.title += "!";'
    (tmp_path / "toy.js").write_text(script)
    spec = importlib.util.spec_from_file_location("toy_panel", tmp_path / "toy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy_panel", module)
    spec.loader.exec_module(module)
    panels.PANELS.append(module.PANEL)
    yield script
    panels.PANELS.remove(module.PANEL)


def test_a_registered_panel_is_on_the_page(toy: str, finished_run: Path) -> None:
    run = FinishedRun(finished_run)
    report = render(ShownRun(run))
    assert report.failures == ()
    page = report.html
    assert f'<p class="toy">60 particles in &lt;b&gt;{finished_run.name}</p>' in page
    assert "<h3>A toy</h3>" in page
    assert page.index(">Particles</h2>") < page.index('id="panel-toy"') < page.index(">Using the results</h2>")
    assert ".toy { color: teal; }" in page
    assert f"<script>{toy}</script>" in page
    assert base64.b64encode(hashlib.sha256(toy.encode()).digest()).decode() in page


def test_panels_have_names_of_their_own_and_known_sections() -> None:
    names = [panel.name for panel in panels.PANELS]
    assert len(set(names)) == len(names) > 20
    assert {panel.section for panel in panels.PANELS} == set(SECTIONS)


def test_every_panel_module_is_registered() -> None:
    modules = {path.stem for path in Path(panels.__file__).parent.glob("*.py")} - {"__init__"}
    registered = {panel.html.__module__.rpartition(".")[2] for panel in panels.PANELS}
    assert registered == modules
