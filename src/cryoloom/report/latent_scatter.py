"""Scatters of the latent space: hexagons drawn here for all images, and the data from which the page draws points."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from cryoloom.report.charts import HEIGHT, WIDTH, Axis, Chart, Dot, draw_marks, nice_ticks, plot_area
from cryoloom.report.class_rows import class_colour
from cryoloom.report.conformations import Conformations, Labelling, Series
from cryoloom.report.figures import Scale
from cryoloom.report.png import VIRIDIS, gradient, hex_colour
from cryoloom.report.text import number, plain

MOST_POINTS = 15_000  # drawn and sent with the page; of more images a sample
HEX_RADIUS = 6.0  # units of the drawing
SHADES = 12
STEPS = 64  # of coordinates, to a unit of the drawing
MOST_NAME_BYTES = 400_000
_OUTLIERS = (0.1, 99.9)  # percentiles; what lies farther out than a quarter of their span is drawn at the rim


@dataclass(frozen=True, slots=True)
class Scatter:
    """One scatter: its name, axes and chart, what is said of it; `x`, `y` [N]; `pcs`: which axes it shows, if any."""

    name: str
    x: np.ndarray
    y: np.ndarray
    chart: Chart
    pcs: tuple[int, int] | None
    beyond: int
    svg: Markup
    densest: int

    @property
    def scale(self) -> Scale:
        """Colours of the hexagons."""
        return Scale(gradient(VIRIDIS), "1", f"{number(self.densest)} particles per hexagon, log scale")


@dataclass(frozen=True, slots=True)
class Swatch:
    """Colour and name of a class, with how many images it has."""

    colour: str
    name: str
    count: int


def scatters(found: Conformations) -> list[Scatter]:
    """Up to four scatters of a latent space; empty without one."""
    axes = found.axes
    if axes is None:
        return []
    c = axes.coordinates
    shares = [f"PC{i + 1} ({100 * s:.0f}\u202f%)" for i, s in enumerate(axes.share)]
    out: list[Scatter] = []
    count = c.shape[1]
    if count > 1:
        modes = found.density.modes if found.density is not None and len(found.density.modes) > 1 else ()
        dots = tuple(Dot(*mode.place, f"{100 * mode.share:.0f}\u202f%") for mode in modes)
        out.append(
            _scatter("PC1 and PC2", c[:, 0], y=c[:, 1], x_label=shares[0], y_label=shares[1], pcs=(0, 1), dots=dots)
        )
    if found.embedding is not None:
        name = found.embedding_name
        out.append(
            _scatter(
                name, found.embedding[:, 0], y=found.embedding[:, 1], x_label=f"{name} 1", y_label=f"{name} 2", pcs=None
            )
        )
    if count > 2:
        pair = (2, 3) if count > 3 else (0, 2)
        name = f"PC{pair[0] + 1} and PC{pair[1] + 1}"
        out.append(
            _scatter(name, c[:, pair[0]], y=c[:, pair[1]], x_label=shares[pair[0]], y_label=shares[pair[1]], pcs=pair)
        )
    if found.uncertainty is not None:
        sd = found.uncertainty.relative
        out.append(
            _scatter(
                "PC1 and uncertainty",
                c[:, 0],
                y=sd,
                x_label=shares[0],
                y_label="uncertainty (population s.d.)",
                pcs=None,
            )
        )
    if not out:
        row = np.arange(len(c)) + 1.0
        out.append(_scatter("PC1 by row", row, y=c[:, 0], x_label="row of particles.star", y_label=shares[0], pcs=None))
    return out


def _scatter(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    x_label: str,
    y_label: str,
    pcs: tuple[int, int] | None,
    dots: tuple[Dot, ...] = (),
) -> Scatter:
    axes = []
    beyond = np.zeros(len(x), dtype=bool)
    for values, label in ((x, x_label), (y, y_label)):
        low, high = _limits(values)
        beyond |= (values < low) | (values > high)
        axes.append(Axis(low, high, nice_ticks(low, high), label))
    chart = Chart(f"Particles by {name}", axes[0], axes[1], dots=dots)
    hexagons, densest = _hexagons(*_drawn(chart, x, y))
    return Scatter(
        name=name,
        x=x,
        y=y,
        chart=chart,
        pcs=pcs,
        beyond=int(beyond.sum()),
        svg=draw_marks(chart, hexagons),
        densest=densest,
    )


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, _OUTLIERS))
    span = high - low or max(1.0, abs(low))
    first, last = max(float(values.min()), low - span / 4), min(float(values.max()), high + span / 4)
    margin = 0.03 * (last - first or span)
    return first - margin, last + margin


def _drawn(chart: Chart, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the drawing, held within the axes."""
    left, top, right, bottom = plot_area()
    px = left + (x - chart.x.low) / (chart.x.high - chart.x.low) * (right - left)
    py = bottom - (y - chart.y.low) / (chart.y.high - chart.y.low) * (bottom - top)
    return px.clip(left, right), py.clip(top, bottom)


def _hexagons(px: np.ndarray, py: np.ndarray) -> tuple[list[str], int]:
    """One path a shade, the shades by log count; and the largest count."""
    wide, high = math.sqrt(3) * HEX_RADIUS, 1.5 * HEX_RADIUS
    # two rectangular grids, one moved by half a cell: an image belongs to the nearer centre (Carr et al., 1987)
    row = np.round(py / (2 * high)), np.floor(py / (2 * high)) + 0.5
    column = np.round(px / wide), np.floor(px / wide) + 0.5
    apart = [(px - c * wide) ** 2 + (py - r * 2 * high) ** 2 for c, r in zip(column, row, strict=True)]
    second = apart[1] < apart[0]
    # twice the indices are whole numbers on both grids
    cells = np.stack([2 * np.where(second, column[1], column[0]), 2 * np.where(second, row[1], row[0])], 1)
    places, counts = np.unique(cells.astype(np.int64), axis=0, return_counts=True)
    densest = int(counts.max())
    shade = np.zeros(len(counts), dtype=int)
    if densest > 1:
        shade = np.minimum(SHADES - 1, (np.log(counts) / math.log(densest) * SHADES).astype(int))
    a, b, w = HEX_RADIUS, HEX_RADIUS / 2, wide / 2
    outline = f"l{w:.2f} {b:.2f}v{a:.2f}l{-w:.2f} {b:.2f} {-w:.2f} {-b:.2f}v{-a:.2f}z"
    out = []
    for level in np.unique(shade):
        here = places[shade == level]
        path = "".join(f"M{c * wide / 2:.1f} {r * high - a:.1f}{outline}" for c, r in here)
        out.append(f'<path class="hex" fill="{hex_colour(level / (SHADES - 1))}" d="{path}"/>')
    return out, densest


def swatches(labelling: Labelling) -> list[Swatch]:
    """Classes or clusters in their colours."""
    labels, rows = labelling.labels, labelling.rows
    count = max(int(labels.max(initial=0)), len(rows))
    sizes = np.bincount(labels, minlength=count + 1)[1:]
    names = [plain(row.name) for row in rows]
    names += [f"{labelling.kind} {i + 1}" for i in range(len(rows), count)]
    return [Swatch(class_colour(i, count), names[i], int(sizes[i])) for i in range(count)]


def shown_rows(count: int, seed: int = 1) -> np.ndarray:
    """Which of N images the page draws, ascending."""
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MOST_POINTS, replace=False))


def page_data(found: Conformations, drawn: list[Scatter], series: tuple[Series, ...]) -> Markup:
    """JSON of what the page's script draws: coordinates of the points shown, in units of the drawing, and their names.

    It stands in a script element that is not run; `<` is written as an escape, so that no name can end it.
    """
    rows = shown_rows(found.count)
    data: dict[str, object] = {
        "count": found.count,
        "shown": len(rows),
        "width": WIDTH,
        "height": HEIGHT,
        "area": plot_area(),
        "steps": STEPS,
        "panels": [_points(p, rows, series, found) for p in drawn],
        "series": [plain(s.name) for s in series],
        "labellings": {
            one.kind: {"labels": _packed(one.labels[rows], "<u2"), "colours": [s.colour for s in swatches(one)]}
            for one in found.labellings
        },
    }
    if len(rows) < found.count:
        data["rows"] = _packed(rows, "<u4")
    if found.uncertainty is not None:
        sd = found.uncertainty.relative
        low, high = _colour_range(sd)
        data["uncertainty"] = _packed((255 * (sd[rows] - low) / max(high - low, 1e-12)).clip(0, 255).round(), "u1")
    names = None if found.names is None else _names(found.names[rows])
    if names is not None:
        data["names"] = names
    return Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))


def uncertainty_scale(found: Conformations) -> Scale | None:
    """Colours of the uncertainty."""
    if found.uncertainty is None:
        return None
    low, high = _colour_range(found.uncertainty.relative)
    return Scale(gradient(VIRIDIS), f"{low:.2g}", f"{high:.2g} population s.d.")


def _colour_range(values: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    return low, high


def _points(panel: Scatter, rows: np.ndarray, series: tuple[Series, ...], found: Conformations) -> dict[str, object]:
    px, py = _drawn(panel.chart, panel.x[rows], panel.y[rows])
    paths: dict[str, object] = {}
    for one in series:
        if panel.pcs is None or one.points is None or found.axes is None:
            continue
        place = found.axes.project(one.points)[:, list(panel.pcs)]
        x, y = _drawn(panel.chart, place[:, 0], place[:, 1])
        paths[plain(one.name)] = {"joined": one.joined, "places": np.stack([x, y], 1).round(1).tolist()}
    return {
        "name": panel.name,
        "paths": paths,
        "x": _packed((px * STEPS).round(), "<u2"),
        "y": _packed((py * STEPS).round(), "<u2"),
    }


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode("ascii")


def _names(names: np.ndarray) -> dict[str, object] | None:
    """000012@stack.mrcs as 12 and the number of its stack, each stack's name once; None where that is too much."""
    known: dict[str, int] = {}
    stack, index = np.zeros(len(names)), np.zeros(len(names))
    for i, name in enumerate(names):
        before, at, after = plain(str(name)).partition("@")
        single = bool(at) and before.isdecimal() and before.isascii() and len(before) < 10
        stack[i] = known.setdefault(after if single else plain(str(name)), len(known))
        index[i] = int(before) if single else 0
    if sum(len(name.encode()) for name in known) > MOST_NAME_BYTES or len(known) > 65535:
        return None
    return {"stacks": list(known), "stack": _packed(stack, "<u2"), "index": _packed(index, "<u4")}


def legend_of(classes: list[Swatch]) -> Markup:
    """Names of classes beside their colours."""
    items = [
        f'<li><i class="swatch" style="background:{s.colour}"></i>{escape(s.name)} ({number(s.count)})</li>'
        for s in classes
    ]
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')
