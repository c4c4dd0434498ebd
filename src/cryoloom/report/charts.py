"""Line charts and histograms as inline SVG. Colours and type are classes of the page's style sheet, so that one drawing
serves a light and a dark page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 46
_MOST_BINS = 36


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from `low` to `high`; ticks are (value, label); `scale` maps values to what is drawn linearly."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str
    scale: Callable[[float], float] = float

    def fraction(self, value: float) -> float:
        """Place of a value along the axis, 0 at `low`, 1 at `high`."""
        a, b = self.scale(self.low), self.scale(self.high)
        return (self.scale(value) - a) / (b - a)


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with its CSS class; points that are not finite break it."""

    x: Sequence[float]
    y: Sequence[float]
    style: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line across the chart at `value` of the x axis (or y), with a label beside it.

    `place` is where along the line the label stands, from 0 (bottom, left) to 1.
    """

    value: float
    label: str
    vertical: bool
    style: str = "rule"
    place: float = 0.98
    anchor: str = "start"


@dataclass(frozen=True, slots=True)
class Band:
    """A shaded stretch of the x axis with a label at its top."""

    low: float
    high: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A marked point with a label."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a chart shows; `title` is what a screen reader says of it, `tips` are (x, text) shown on hovering."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...] = ()
    rules: tuple[Rule, ...] = ()
    dots: tuple[Dot, ...] = ()
    bands: tuple[Band, ...] = ()
    tips: tuple[tuple[float, str], ...] = field(default=())

    def px(self, value: float) -> float:
        """Horizontal place of a value in the drawing."""
        return _LEFT + self.x.fraction(value) * (WIDTH - _LEFT - _RIGHT)

    def py(self, value: float) -> float:
        """Vertical place of a value in the drawing."""
        return HEIGHT - _BOTTOM - self.y.fraction(value) * (HEIGHT - _TOP - _BOTTOM)


def draw(chart: Chart) -> Markup:
    """The chart as an <svg> element; all texts are escaped."""
    parts = [_frame(chart)]
    parts += [_band(chart, band, shade=i % 2 == 0) for i, band in enumerate(chart.bands)]
    parts += [_rule(chart, rule) for rule in chart.rules]
    parts += [f'<path class="line {line.style}" d="{_path(chart, line)}"/>' for line in chart.lines]
    parts += [_dot(chart, dot) for dot in chart.dots]
    parts += _tips(chart)
    return _svg(chart.title, parts)


def draw_marks(chart: Chart, marks: Sequence[str]) -> Markup:
    """The chart's axes around marks that the caller drew, with their texts escaped, in its coordinates."""
    return _svg(chart.title, [_frame(chart), *marks, *(_dot(chart, dot) for dot in chart.dots)])


def histogram(
    values: np.ndarray,
    label: str,
    title: str,
    unit: str = "",
    counted: str = "particles",
    limits: tuple[float, float] | None = None,
) -> Markup:
    """Counts of finite values, with the median marked; `unit` follows each number as it is.

    Bins run over `limits`, or from the smallest value (or 0) to the 99.5th percentile; what lies beyond is in the last.

    Raises:
        ValueError: if no value is finite.
    """
    values = values[np.isfinite(values)]
    if len(values) == 0:
        raise ValueError(f"histogram of {label}: no value is finite")
    low, high = limits or (float(values.min()), float(np.percentile(values, 99.5)))
    low = 0.0 if 0 <= low < 0.2 * high else low
    high = high if high > low else low + max(abs(low), 1.0)
    bins = min(_MOST_BINS, max(8, round(2 * math.sqrt(len(values)))))
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    peak = max(int(counts.max()), 1)
    x = Axis(low, high, nice_ticks(low, high), label)
    whole = tuple(tick for tick in nice_ticks(0, peak) if tick[0] == round(tick[0]))
    y = Axis(0, peak * 1.08, whole, counted)
    chart = Chart(title, x, y)
    bars = []
    for i, count in enumerate(counts):
        left, right, top = chart.px(edges[i]), chart.px(edges[i + 1]), chart.py(float(count))
        beyond = " and more" if i == bins - 1 and limits is None else ""
        tip = escape(f"{edges[i]:.3g} to {edges[i + 1]:.3g}{unit}{beyond}: {count} {counted}")
        bars.append(
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{chart.py(0) - top:.1f}"><title>{tip}</title></rect>'
        )
    median = float(np.median(values))
    side = "start" if x.fraction(median) < 0.6 else "end"
    mark = Rule(median, f"median {median:.3g}{unit}", vertical=True, style="median", anchor=side)
    return _svg(title, [_frame(chart), *bars, _rule(chart, mark)])


def plot_area() -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what the axes enclose, in units of the drawing."""
    return _LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM


def nice_ticks(low: float, high: float, count: int = 6) -> tuple[tuple[float, str], ...]:
    """At most about `count` round values within [low, high], with labels."""
    if not high > low:
        return ((low, f"{low:g}"),)
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    values = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return tuple((v, f"{v:.6g}".replace("-", "\u2212")) for v in values)


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Names of curves beside a sample of their line; entries are (CSS class, name)."""
    items = [
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><path class="line {escape(style)}" d="M1 4H25"/></svg>'
        f"{escape(name)}</li>"
        for style, name in entries
    ]
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def _svg(title: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, style: str, anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _frame(chart: Chart) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value, label in chart.y.ticks:
        y = chart.py(value)
        parts.append(f'<path class="gridline" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(_text(_LEFT - 7, y + 4, label, "tick", "end"))
    for value, label in chart.x.ticks:
        x = chart.px(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v5"/>' + _text(x, bottom + 18, label, "tick"))
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    parts.append(_text((_LEFT + right) / 2, HEIGHT - 6, chart.x.label, "label"))
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text class="label" text-anchor="middle" transform="translate(13 {middle:.1f}) rotate(-90)">'
        f"{escape(chart.y.label)}</text>"
    )
    return "".join(parts)


def _band(chart: Chart, band: Band, shade: bool) -> str:
    left, right = chart.px(band.low), chart.px(band.high)
    tone = "band" if shade else "band off"
    box = (
        f'<rect class="{tone}" x="{left:.1f}" y="{_TOP}" width="{max(right - left, 0):.1f}" '
        f'height="{HEIGHT - _TOP - _BOTTOM}"><title>{escape(band.label)}</title></rect>'
    )
    # a name that has no room stands in the tip alone
    fits = right - left > 6.5 * len(band.label)
    return box + (_text((left + right) / 2, _TOP + 14, band.label, "note") if fits else "")


def _rule(chart: Chart, rule: Rule) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    if rule.vertical:
        x = chart.px(rule.value)
        shift = 5 if rule.anchor == "start" else -5
        y = bottom - rule.place * (bottom - _TOP) + 8
        path = f"M{x:.1f} {_TOP}V{bottom}"
        text = _text(x + shift, y, rule.label, "note", rule.anchor)
    else:
        y = chart.py(rule.value)
        path = f"M{_LEFT} {y:.1f}H{right}"
        text = _text(_LEFT + rule.place * (right - _LEFT), y - 5, rule.label, "note", rule.anchor)
    return f'<path class="{rule.style}" d="{path}"/>{text}'


def _dot(chart: Chart, dot: Dot) -> str:
    x, y = chart.px(dot.x), chart.py(dot.y)
    right = chart.x.fraction(dot.x) < 0.7
    text = _text(x + (9 if right else -9), y - 8, dot.label, "mark", "start" if right else "end")
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>{text}'


def _path(chart: Chart, line: Line) -> str:
    words, drawing = [], False
    for x, y in zip(line.x, line.y, strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            drawing = False
            continue
        words.append(f"{'L' if drawing else 'M'}{chart.px(x):.1f} {chart.py(y):.1f}")
        drawing = True
    return "".join(words)


def _tips(chart: Chart) -> list[str]:
    """Invisible columns, one a tip, each as wide as the way to its neighbours."""
    at = [chart.px(x) for x, _ in chart.tips]
    out = []
    for i, (_, text) in enumerate(chart.tips):
        left = (at[i - 1] + at[i]) / 2 if i else at[i]
        right = (at[i] + at[i + 1]) / 2 if i + 1 < len(at) else at[i]
        out.append(
            f'<rect class="tip" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
            f'height="{HEIGHT - _TOP - _BOTTOM}"><title>{escape(text)}</title></rect>'
        )
    return out
