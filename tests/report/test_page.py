"""The report as a whole: it says what the run said, holds everything it shows, and nothing of a name becomes code."""

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import Markup

from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.report.page import render, write_report
from cryoloom.report.panel import Panel
from cryoloom.report.panels import PANELS
from cryoloom.report.shown_run import ShownRun
from cryoloom.runs.metrics_log import MetricsLog
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.record import BadRunFolder

from .fake_run import BOX, COUNT, PIXEL, VERDICT, write_run

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Text, elements and scripts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def html_of(folder: Path) -> str:
    return render(ShownRun(FinishedRun(folder))).html


def page(folder: Path) -> Page:
    return Page(html_of(folder))


@pytest.fixture(scope="module")
def whole(finished_run: Path) -> Page:
    return page(finished_run)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_verdict_and_its_reasons_stand_first(whole: Page) -> None:
    text = whole.text
    words = (
        "Converged",
        "9.1 Å from 58 particles.",
        "Half maps",
        "9.12",
        "✗ failed",
        "Starts",
        "0.41",
        "3 independent random starts gave different maps",
        "Not determined:",
        "Particles",
    )
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    assert text.count("✓ passed") == 1


def test_key_numbers(whole: Page) -> None:
    for number in ("9.12 Å", "58 of 60", "1 h 08 min", "1 min 49 s", "\u221283 Å²", "0.91", "32 px"):
        assert number in whole.text, number


def test_every_figure_is_there(whole: Page) -> None:
    charts = {a["aria-label"] for a in whole.all("svg") if a.get("role") == "img"}
    assert charts == {
        "Fourier shell correlation of the half maps",
        "Resolution against time",
        "Resolution by direction",
        "Viewing directions, Mollweide map",
        "Local resolution",
        "Orientation uncertainty",
        "Shift uncertainty",
        "Shifts",
        "Posterior probability of the best pose",
        "Log-likelihood gain",
    }
    images = [a["alt"] for a in whole.all("img")]
    # 3 surfaces, 6 rows of 3 planes, 3 of local resolution, 6 pairs
    assert len(images) == 3 + 18 + 3 + 12
    assert all(images)
    for words in ("my set/p.star", "--output run", "abinit.radii", "5, 6.5", "--flip", "open.cxc", "refine: reso"):
        assert words in whole.text, words


def test_networks_in_training_are_shown(run: Path) -> None:
    """Loss, branches and gradients against the images seen; no such part where nothing was trained."""
    assert "Training</h2>" not in html_of(run)
    log = MetricsLog(run / "metrics.jsonl")
    for step in range(1, 4):
        metrics = (("loss", 3.0 / step), ("half_turned", 0.5), ("images_seen", 1000.0 * step))
        log.write(StepInfo("amortized", step, 40.0, metrics, total=3), 2.0, 3.0)
    page = html_of(run)
    assert "Training</h2>" in page
    for words in ("<h4>Loss</h4>", "<h4>Half-turned images</h4>", "3,000 images: 1"):
        assert words in page
    assert "Gradient norm" not in page


def test_page_loads_nothing(finished_run: Path, whole: Page) -> None:
    for tag, attributes in whole.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            target = attributes.get(name)
            if target is None:
                continue
            local = tag == "a" and (finished_run / target).is_file()
            assert target.startswith("data:image/png;base64,") or local, (tag, name, target[:80])
        assert not any(name.startswith("on") for name in attributes), attributes
    assert not whole.all("link") + whole.all("iframe") + whole.all("object")
    html = html_of(finished_run)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert len(html.encode()) < 4e6


def test_policy_admits_the_pages_own_scripts_and_no_others(whole: Page) -> None:
    policy = next(a["content"] for a in whole.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    types = [a.get("type") for a in whole.all("script")]
    assert types == ["text/plain", None, None, None]
    found = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in whole.scripts[1:]}
    assert found == allowed
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_names_never_become_markup(tmp_path: Path, whole: Page) -> None:
    """Every text that comes from a file or a command line, from the particle's path to the stage's name."""
    findings = [
        {"name": "symmetry", "passed": True, "value": 1.0},
        {"name": "sharpening", "passed": None, "value": None},
    ]
    evidence = VERDICT["evidence"] | {
        "symmetry": EVIL,
        "symmetry_score": 1.0,
        "b_factor_angstrom2": None,
        "b_factor_note": EVIL,
    }
    verdict = VERDICT | {"findings": findings, "evidence": evidence}
    folder = write_run(
        tmp_path / EVIL.replace("/", "") / EVIL,
        stack=f"{EVIL}/{EVIL}.mrcs",
        verdict=verdict,
        argv=("cryoloom", EVIL),
        settings={EVIL: EVIL, "deep": {EVIL: [EVIL]}},
        versions={"cryoloom": EVIL},
        input_path=EVIL,
        command=EVIL,
    )
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text().replace('"abinit"', f'"{EVIL}"').replace("resolution grows", EVIL))
    bad = page(folder)
    assert [tag for tag, _ in bad.elements].count("script") == len(whole.all("script"))
    assert bad.scripts[1:] == whole.scripts[1:]
    assert sum(EVIL in text for text in bad.texts) >= 15
    assert any(EVIL in (a.get("title") or "") for a in bad.all("p")), "the image's name"


def test_control_characters_are_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", input_path="/data/\u202egnp.exe\x1b[2J", argv=("a\u2066b",))
    text = page(folder).text
    assert "/data/\ufffdgnp.exe\ufffd[2J" in text
    assert "\u2066" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("map_sharp.mrc", "Not in the folder: map_sharp.mrc."),
        ("half1.mrc", "Not in the folder: half1.mrc."),
        ("mask.mrc", "Not in the folder: mask.mrc."),
        ("map.mrc", "Without map.mrc and poses"),
        ("local_resolution.mrc", "local_resolution.mrc is not in the folder"),
        ("fsc.csv", "fsc.csv is not in the folder"),
        ("metrics.jsonl", "metrics.jsonl is not in the folder"),
        ("particles.star", "particles.star is not in the folder"),
        ("particles.mrcs", "The images can't be opened"),
    ],
)
def test_what_is_absent_is_said(run: Path, whole: Page, name: str, words: str) -> None:
    assert words not in whole.text
    (run / name).unlink()
    text = page(run).text
    assert words in text
    assert "Converged" in text


def test_a_run_that_has_written_nothing_yet(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", status="running", verdict=None, timings=())
    for path in folder.iterdir():
        if path.name != "run.json":
            path.unlink()
    found = page(folder)
    assert "No verdict" in found.text
    assert "has not finished" in found.text
    assert "Neither map.mrc nor map_sharp.mrc" in found.text
    assert not found.all("img")
    # no map, no viewer
    assert len(found.scripts) == 1


@pytest.mark.parametrize(
    ("outcome", "word", "caution"),
    [
        ("uncertain", "Uncertain", "Not every check was passed"),
        ("failed", "Not converged", "do not interpret"),
        ("noise", "Noise", "what alignment makes of noise"),
    ],
)
def test_other_verdicts_warn_beside_the_map(tmp_path: Path, outcome: str, word: str, caution: str) -> None:
    verdict = VERDICT | {
        "outcome": outcome,
        "resolution_angstrom": None,
        "resolution_half_angstrom": None,
        "evidence": VERDICT["evidence"] | {"directional_resolution_angstrom": []},
    }
    found = page(write_run(tmp_path / "run", verdict=verdict))
    assert word in found.text
    assert caution in found.text
    assert "Resolution none" in found.text
    assert "no resolution by direction" in found.text


def test_columns_that_are_absent_or_empty_are_said(run: Path) -> None:
    star = run / "particles.star"
    text = star.read_text().replace("cryoloomShiftErrorAngst", "someOther")
    lines = text.split("\n")
    column = int(re.findall(r"_cryoloomAngularErrorDegrees #(\d+)", text)[0]) - 1
    rows = [i for i, line in enumerate(lines) if "@" in line]
    for count, i in enumerate(rows):
        if count % 2:
            values = lines[i].split()
            lines[i] = " ".join([*values[:column], "nan", *values[column + 1 :]])
    star.write_text("\n".join(lines))
    found = page(run).text
    assert "no values in column cryoloomShiftErrorAngst" in found
    assert f"{COUNT // 2} particles without a value are left out" in found


def test_same_folder_same_page(finished_run: Path) -> None:
    assert html_of(finished_run) == html_of(finished_run)


def test_report_is_written_into_the_folder(run: Path) -> None:
    path = run / "report.html"
    path.unlink(missing_ok=True)
    assert write_report(run) == ()
    assert "Converged" in path.read_text(encoding="utf-8")
    assert "report.html" not in page(run).text


def _spoil_map(run: Path) -> None:
    (run / "half2.mrc").write_bytes((run / "half2.mrc").read_bytes()[:3000])


def _spoil_fsc(run: Path) -> None:
    (run / "fsc.csv").write_text("shell,value\n0,1\n")


def _spoil_star(run: Path) -> None:
    (run / "particles.star").write_text("data_particles\n\nloop_\n_rlnA #1\n_rlnB #2\n1\n")


def _spoil_column(run: Path) -> None:
    star = run / "particles.star"
    star.write_text(re.sub(r"(000007@\S+) 1 ", r"\1 2 ", star.read_text().replace("rlnOpticsGroup ", "rlnX ")))


def _other_grid(run: Path) -> None:
    write_map(run / "half1.mrc", DensityMap(torch.ones(BOX - 2, BOX - 2, BOX - 2), PIXEL))


def _other_field(run: Path) -> None:
    for path in run.glob("*.mrc"):
        write_map(path, DensityMap(torch.rand(BOX, BOX, BOX), 2 * PIXEL))


@pytest.mark.parametrize(
    ("spoil", "words", "part", "whole"),
    [
        (_spoil_map, "half2.mrc", "Central slices and projections", "Gold-standard FSC"),
        (_spoil_fsc, "fsc.csv", "Gold-standard FSC", "Viewing directions"),
        (_spoil_star, "line 6", "Viewing directions", "Surface"),
        (_other_grid, "share their grid", "Central slices and projections", "Surface"),
        (
            _other_field,
            "256.0 angstrom wide, the images of particles.star 128.0",
            "Images and reprojections",
            "Surface",
        ),
    ],
)
def test_damage_is_named_in_its_place_and_costs_no_other_part(
    run: Path, spoil: Any, words: str, part: str, whole: str
) -> None:
    spoil(run)
    report = render(ShownRun(FinishedRun(run)))
    assert any(part in failure and words in failure for failure in report.failures)
    assert not any(whole in failure for failure in report.failures)
    found = Page(report.html)
    assert "Converged" in found.text
    assert "Parts of this page could not be drawn:" in found.text
    assert words in found.text
    assert write_report(run) == report.failures


def test_an_error_in_a_panel_costs_no_other_part(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(run: ShownRun) -> Markup:
        raise ZeroDivisionError(EVIL)

    broken = Panel("broken", "Particles", "Broken", fail)
    report = render(ShownRun(FinishedRun(run)), [broken, *PANELS])
    assert report.failures == (f"Broken: {EVIL}",)
    assert "ZeroDivisionError" in caplog.text
    found = Page(report.html)
    assert found.scripts == page(run).scripts
    assert "Viewing directions" in found.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRunFolder, match="not a run"):
        write_report(tmp_path)


def test_a_verdict_of_another_type_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", verdict=VERDICT | {"outcome": "splendid"})
    with pytest.raises(ValueError, match=r"verdict\.outcome"):
        html_of(folder)
