"""Conformations on the page: counts are those of the images, places those of the axes, names stay text."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryoloom.analyze.series import write_series
from cryoloom.jobs.class_table import ClassRow, write_class_table
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.report.charts import plot_area
from cryoloom.report.conformations import Conformations, Labelling, Series, of_latent, read_conformations
from cryoloom.report.filmstrip import MOST_FRAMES, filmstrip
from cryoloom.report.latent_scatter import HEX_RADIUS, MOST_POINTS, STEPS, page_data, scatters, shown_rows, swatches
from cryoloom.report.page import render, write_report
from cryoloom.report.png import hex_colour
from cryoloom.report.shown_run import ShownRun
from cryoloom.runs import layout

from .fake_run import COUNT
from .test_page import EVIL, Page
from .test_pictures import blobs, decode

LEFT, TOP, RIGHT, BOTTOM = plot_area()


def latent(count: int, dims: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    z = rng.normal(size=(count, dims)) * np.arange(dims, 0, -1)
    return z, np.broadcast_to(0.1 * np.eye(dims), (count, dims, dims))


def moving(folder: Path, name: str, count: int) -> tuple[Path, ...]:
    """Maps of two blobs, one of which moves along x."""
    made = [DensityMap(blobs(24, (-5, 0, 0), (3 + 3 * i / max(1, count - 1), 0, 0)), 4.0) for i in range(count)]
    return write_series(folder, name, made).paths


def html_of(folder: Path, found: Conformations | None = None) -> str:
    report = render(ShownRun(FinishedRun(folder), found))
    assert report.failures == ()
    return report.html


def unpack(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def whole(folder: Path, count: int = COUNT) -> Conformations:
    z, covariance = latent(count)
    rows = tuple(ClassRow(f"state {i + 1}", count // 3, 1 / 3, r) for i, r in enumerate((7.5, 12.0, None)))
    write_class_table(layout.CLASSES.path(folder), rows)
    labellings = (Labelling("class", np.arange(count) % 3 + 1, rows),)
    paths = moving(folder / "analysis", "pc1", 4)
    series = (Series("pc1", paths, tuple(f"point {i}" for i in range(4)), z[:4]),)
    names = np.array([f"{i + 1:06d}@particles.mrcs" for i in range(count)], dtype=object)
    embedding = z[:, :2] * 2
    return of_latent(z, covariance=covariance, embedding=embedding, labellings=labellings, series=series, names=names)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def parsed(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="conformation-data">(.*?)</script>', html, re.S)
    assert found is not None
    return json.loads(found[1])


def test_a_page_with_everything(run: Path) -> None:
    html = html_of(run, whole(run))
    found = Page(html)
    for words in (
        "Conformations",
        "state 3",
        "33.3 %",
        "7.50 Å",
        "12.0 Å",
        "Latent space",
        "Trajectory pc1",
        "point 3",
        "Uncertainty of the latent coordinates",
    ):
        assert words in found.text, words
    charts = {a["aria-label"] for a in found.all("svg") if a.get("role") == "img"}
    assert {
        "Particles by PC1 and PC2",
        "Particles by UMAP",
        "Particles by PC3 and PC4",
        "Particles by PC1 and uncertainty",
    } <= charts
    assert len(found.all("canvas")) == 4
    assert sum(a.get("data-frame") is not None for a in found.all("figure")) == 4
    policy = next(a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy") or ""
    run_scripts = [s for s, a in zip(found.scripts, found.all("script"), strict=True) if a.get("type") is None]
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in run_scripts}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == digests
    assert len(digests) == 5  # of the page, viewer, surface, scatter and series
    for tag, attributes in found.elements:
        target = attributes.get("src") or attributes.get("href")
        assert (
            target is None or target.startswith("data:image/png;base64,") or (tag == "a" and (run / target).is_file())
        )


def test_a_homogeneous_run_has_no_such_part(finished_run: Path) -> None:
    html = html_of(finished_run)
    assert read_conformations(FinishedRun(finished_run)) is None
    for trace in ("onformation", "<canvas", "brush-count", ".panels", "frames figure"):
        assert trace not in html, trace


def test_names_never_become_markup(run: Path) -> None:
    """Names of classes, series, maps and images; also where they stand in the script's data."""
    found = whole(run)
    clean = Page(html_of(run, found))
    series = (replace(found.series[0], name=EVIL, labels=(EVIL,) * 4),)
    names = np.array([f"{EVIL}</script>{i}" for i in range(COUNT)], dtype=object)
    rows = tuple(replace(row, name=EVIL) for row in found.labellings[0].rows)
    write_class_table(layout.CLASSES.path(run), rows)
    labellings = (replace(found.labellings[0], rows=rows),)
    evil = replace(found, series=series, names=names, labellings=labellings, embedding_name=EVIL)
    html = html_of(run, evil)
    bad = Page(html)
    assert [tag for tag, _ in bad.elements].count("script") == len(clean.all("script"))
    programs = [
        [s for s, a in zip(p.scripts, p.all("script"), strict=True) if a.get("type") is None] for p in (bad, clean)
    ]
    assert programs[0] == programs[1]
    assert parsed(html)["names"]["stacks"][:2] == [f"{EVIL}</script>0", f"{EVIL}</script>1"]
    assert sum(EVIL in text for text in bad.texts) >= 8


def test_the_scripts_data_are_the_images(tmp_path: Path) -> None:
    found = whole(tmp_path)
    drawn = scatters(found)
    data = json.loads(page_data(found, drawn, found.series))
    assert (data["count"], data["shown"], data.get("rows")) == (COUNT, COUNT, None)
    assert unpack(data["labellings"]["class"]["labels"], "<u2").tolist() == [i % 3 + 1 for i in range(COUNT)]
    index, stack = unpack(data["names"]["index"], "<u4"), unpack(data["names"]["stack"], "<u2")
    assert index.tolist() == list(range(1, COUNT + 1))
    assert {data["names"]["stacks"][i] for i in stack} == {"particles.mrcs"}
    assert found.axes is not None
    first = data["panels"][0]
    x = unpack(first["x"], "<u2") / STEPS
    axis = drawn[0].chart.x
    expected = LEFT + (found.axes.coordinates[:, 0] - axis.low) / (axis.high - axis.low) * (RIGHT - LEFT)
    np.testing.assert_allclose(x, expected, atol=0.6 / STEPS)
    y = unpack(first["y"], "<u2") / STEPS
    assert np.corrcoef(y, found.axes.coordinates[:, 1])[0, 1] == pytest.approx(-1, abs=1e-4), "the axis points up"
    # the series passes through images 1 to 4
    np.testing.assert_allclose(first["paths"]["pc1"]["places"], np.stack([x, y], 1)[:4], atol=0.07)
    assert data["panels"][1]["paths"] == {}, "a place in the latent has none in the embedding"


def test_hexagons_count_every_image() -> None:
    """Three heaps far apart: three hexagons, whose shades say 1, 9 and the most; each lies around its heap."""
    z = np.repeat([[0.0, 0.0], [10.0, 0.0], [0.0, 5.0]], [90, 9, 1], axis=0)
    panel = scatters(of_latent(z))[0]
    assert panel.densest == 90
    paths = re.findall(r'<path class="hex" fill="(#\w+)" d="([^"]*)"/>', panel.svg)
    assert [fill for fill, _ in paths] == ["#440154", hex_colour(5 / 11), "#fde725"]
    for (_, d), at in zip(paths, (99, 90, 0), strict=True):
        start = re.match(r"M([\d.]+) ([\d.]+)l", d)
        assert start is not None
        assert d.count("M") == 1
        middle = float(start[1]), float(start[2]) + HEX_RADIUS
        truth = panel.chart.px(panel.x[at]), panel.chart.py(panel.y[at])
        assert np.linalg.norm(np.subtract(middle, truth)) < 1.01 * HEX_RADIUS + 0.1


def test_many_images_make_no_large_page(run: Path) -> None:
    """100,000 images with names, four panels and two series of maps: below 3 MB, and the sample is said."""
    count = 100_000
    z, covariance = latent(count)
    names = np.array([f"{i % 300 + 1:06d}@Extract/mic_{i // 300:05d}.mrcs" for i in range(count)], dtype=object)
    series = tuple(
        Series(name, moving(run / "analysis", name, 10), tuple(f"{name} {i}" for i in range(10)), z[:10])
        for name in ("pc1", "pc2")
    )
    labellings = (Labelling("cluster", np.arange(count) % 7 + 1),)
    found = of_latent(z, covariance=covariance, embedding=z[:, :2], labellings=labellings, series=series, names=names)
    html = html_of(run, found)
    assert len(html.encode()) < 3e6
    assert "15\u202f000 particles drawn at random" in html
    data = parsed(html)
    rows = unpack(data["rows"], "<u4")
    assert (data["shown"], len(rows)) == (MOST_POINTS, MOST_POINTS)
    assert (np.diff(rows.astype(int)) > 0).all()
    assert (rows == shown_rows(count)).all()
    assert (unpack(data["labellings"]["cluster"]["labels"], "<u2") == rows % 7 + 1).all()
    assert (unpack(data["names"]["index"], "<u4") == rows % 300 + 1).all()


@pytest.mark.parametrize(
    ("dims", "covariance", "names"),
    [
        (1, False, ["PC1 by row"]),
        (1, True, ["PC1 and uncertainty"]),
        (2, False, ["PC1 and PC2"]),
        (3, True, ["PC1 and PC2", "PC1 and PC3", "PC1 and uncertainty"]),
        (8, False, ["PC1 and PC2", "PC3 and PC4"]),
    ],
)
def test_panels_of_spaces_of_any_size(run: Path, dims: int, covariance: bool, names: list[str]) -> None:
    z, C = latent(COUNT, dims)
    found = of_latent(z, covariance=C if covariance else None)
    assert [p.name for p in scatters(found)] == names
    assert "Latent space</h3>" in html_of(run, found)


def test_far_outliers_are_drawn_at_the_rim() -> None:
    z, _ = latent(5000, 2)
    z[0] = (0, 1e6)
    panel = scatters(of_latent(z))[0]
    assert panel.beyond == 1
    data = json.loads(page_data(of_latent(z), [panel], ()))
    x = unpack(data["panels"][0]["x"], "<u2") / STEPS
    # PC1 is now the outlier's
    assert sorted(np.abs(x - np.median(x)))[-2] > 50, "the others are not squeezed to a point"


def test_images_without_a_class() -> None:
    z, _ = latent(30)
    found = of_latent(z, labellings=(Labelling("class", np.repeat([0, 1, 2], 10)),))
    assert [s.count for s in swatches(found.labellings[0])] == [10, 10]
    data = json.loads(page_data(found, scatters(found), ()))
    assert set(unpack(data["labellings"]["class"]["labels"], "<u2")[:10]) == {0}


def test_filmstrip_shows_what_moves(tmp_path: Path) -> None:
    """A blob that moves along x: seen along y or z, red where it goes, blue where it comes from."""
    paths = moving(tmp_path, "pc1", 3)
    strip = filmstrip(Series("pc1", paths, ("a", "b", "c")), None)
    assert strip is not None
    assert strip.view.startswith(("from +z", "from −y"))
    assert [f.label for f in strip.frames] == ["a", "b", "c"]
    last = decode(base64.b64decode(strip.frames[-1].difference.uri.partition(",")[2])).astype(int)
    column = (last[..., 3:] * (last[..., :3] == (206, 62, 50)).all(-1, keepdims=True)).sum((0, 2))
    other = (last[..., 3:] * (last[..., :3] == (33, 102, 172)).all(-1, keepdims=True)).sum((0, 2))
    side = np.arange(len(column))
    assert (column * side).sum() / column.sum() > (other * side).sum() / other.sum() + 1
    surfaces = [decode(base64.b64decode(f.surface.uri.partition(",")[2])) for f in strip.frames]
    wide = [np.flatnonzero(s[..., 3].any(0)) for s in surfaces]
    assert wide[0].min() == pytest.approx(wide[2].min(), abs=2), "what stays is drawn at one place"
    assert wide[2].max() > wide[1].max() > wide[0].max()


def test_long_series_are_thinned(tmp_path: Path) -> None:
    paths = moving(tmp_path, "pc1", 28)
    strip = filmstrip(Series("pc1", paths, tuple(str(i) for i in range(28))), None)
    assert strip is not None
    assert [f.index for f in strip.frames] == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert len(strip.frames) == MOST_FRAMES
    assert strip.total == 28


def test_series_that_can_not_be_drawn(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", DensityMap(torch.ones(8, 8, 8), 2.0))
    write_map(tmp_path / "b.mrc", DensityMap(torch.ones(9, 9, 9), 2.0))
    write_map(tmp_path / "zero.mrc", DensityMap(torch.zeros(8, 8, 8), 2.0))
    with pytest.raises(ValueError, match=r"b\.mrc: its grid differs"):
        filmstrip(Series("x", (tmp_path / "a.mrc", tmp_path / "b.mrc"), ("a", "b")), None)
    with pytest.raises(ValueError, match="not complete"):
        filmstrip(Series("x", (tmp_path / "a.mrc", tmp_path / "c.mrc"), ("a", "c")), None)
    assert filmstrip(Series("x", (tmp_path / "zero.mrc",), ("a",)), None) is None


def test_what_a_run_left_is_read(run: Path) -> None:
    z, covariance = latent(COUNT)
    np.save(run / "z.npy", z.astype(np.float32))
    np.save(run / "z_covariance.npy", covariance.astype(np.float32))
    inner = run / "analysis"
    paths = moving(inner, "pc1", 3)
    np.save(inner / "pc1.npy", z[:3])
    # the third cluster has too few images for a map
    moving(inner, "cluster", 3)[0].unlink()
    np.save(inner / "cluster.npy", z[10:13])
    np.save(inner / "labels.npy", np.arange(COUNT) % 4)
    np.save(inner / "umap.npy", z[:, :2])
    star = run / "particles.star"
    star.write_text(star.read_text().replace("rlnRandomSubset", "rlnClassNumber"))
    write_class_table(run / "classes.csv", (ClassRow("class_001", 30, 0.5, 8.0), ClassRow("class_002", 30, 0.5, 9.0)))
    rows = tuple(ClassRow(f"cluster_{k:03d}", 15, 0.25, r) for k, r in ((1, 8.5), (2, 9.5), (3, None)))
    write_class_table(inner / "clusters.csv", rows)
    found = read_conformations(FinishedRun(run))
    assert found is not None
    assert found.count == COUNT
    assert found.axes is not None
    assert found.axes.coordinates.shape == (COUNT, 5)
    assert found.uncertainty is not None
    assert found.density is not None
    assert found.embedding is not None
    assert [one.kind for one in found.labellings] == ["class", "cluster"]
    assert found.labellings[0].labels.tolist() == [1 + i % 2 for i in range(COUNT)]
    assert found.labellings[1].labels.tolist() == [i % 4 for i in range(COUNT)]
    assert [row.name for row in found.labellings[1].rows] == ["cluster_001", "cluster_002", "cluster_003"]
    assert [s.name for s in found.series] == ["clusters", "pc1"]
    assert found.series[0].labels == ("cluster_001", "cluster_002")
    np.testing.assert_allclose(found.series[0].points, z[10:12])
    assert found.series[1].maps == paths
    np.testing.assert_allclose(found.series[1].points, z[:3])
    assert found.names is not None
    assert found.names[6] == "000007@particles.mrcs"
    assert write_report(run) == ()
    page = Page((run / "report.html").read_text(encoding="utf-8")).text
    # clusters stand beside the classes and do not replace them
    for words in ("Trajectory pc1", "z.npy", "class_001", "class_002", "cluster_001", "cluster_003", "9.50 Å"):
        assert words in page, words


def test_classes_alone_are_read(run: Path) -> None:
    for i in (1, 2):
        write_map(run / f"class_{i:03d}.mrc", DensityMap(blobs(16, (i, 0, 0)), 4.0))
    write_class_table(
        run / "classes.csv", (ClassRow("class_001", 40, 2 / 3, 8.0), ClassRow("class_002", 20, 1 / 3, 9.0))
    )
    star = run / "particles.star"
    star.write_text(star.read_text().replace("rlnRandomSubset", "rlnClassNumber"))
    found = read_conformations(FinishedRun(run))
    assert found is not None
    assert (found.count, found.axes) == (COUNT, None)
    assert [one.kind for one in found.labellings] == ["class"]
    assert found.labellings[0].labels.tolist() == [1 + i % 2 for i in range(COUNT)]
    assert [len(s.maps) for s in found.series] == [2]
    html = Page(html_of(run, found))
    assert "66.7 %" in html.text
    assert not html.all("canvas")
    assert sum(a.get("data-frame") is not None for a in html.all("figure")) == 2


def _short_z(run: Path) -> None:
    np.save(run / "z.npy", np.zeros((COUNT - 1, 2)) + np.arange(COUNT - 1)[:, None])


def _text_z(run: Path) -> None:
    (run / "z.npy").write_text("no array")


def _flat_covariance(run: Path) -> None:
    np.save(run / "z.npy", latent(COUNT)[0])
    np.save(run / "z_covariance.npy", np.zeros((COUNT, 5)))


def _short_points(run: Path) -> None:
    np.save(run / "z.npy", latent(COUNT)[0])
    moving(run / "analysis", "pc1", 3)
    np.save(run / "analysis" / "pc1.npy", np.zeros((2, 5)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_short_z, "expected one number"),
        (_text_z, "z.npy: not an array"),
        (_flat_covariance, "expected numbers in 3"),
        (_short_points, "2 points for 3 maps"),
    ],
)
def test_damage_is_refused_by_name(run: Path, spoil: Any, words: str) -> None:
    spoil(run)
    with pytest.raises(ValueError, match=re.escape(words)):
        read_conformations(FinishedRun(run))
