"""Charts: what is drawn lies where its numbers say."""

import math
import re

import numpy as np
import pytest

from cryoloom.jobs.fsc_table import FSCTable
from cryoloom.report.charts import Axis, Band, Chart, Dot, Line, Rule, draw, histogram, legend, nice_ticks
from cryoloom.report.panels.fsc import fsc_chart
from cryoloom.report.panels.progress import time_chart
from cryoloom.runs.metrics_log import LoggedStep
from cryoloom.runs.progress import StepInfo

EVIL = "<script>&\"'"


def chart(**parts) -> Chart:
    return Chart("c", Axis(0, 10, nice_ticks(0, 10), "x"), Axis(0, 1, nice_ticks(0, 1), "y"), **parts)


def points(svg: str, style: str) -> list[list[tuple[float, float]]]:
    """Corners of a curve, one list for each unbroken piece."""
    path = re.findall(rf'class="line {style}" d="([^"]*)"', svg)[0]
    pieces = [piece for piece in path.split("M") if piece]
    return [[tuple(float(v) for v in pair.split()) for pair in piece.split("L")] for piece in pieces]


def test_curve_lies_on_its_axes() -> None:
    c = chart(lines=(Line([0, 5, 10], [0, 0.5, 1], "a"),))
    (corners,) = points(draw(c), "a")
    (x0, y0), middle, (x1, y1) = corners
    assert (x0, x1) == (c.px(0), c.px(10))
    assert y0 > y1, "larger values stand higher"
    assert middle == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2), abs=0.1)


def test_values_that_are_not_finite_break_the_curve() -> None:
    svg = draw(chart(lines=(Line([0, 1, 2, 3, 4], [0, 0.1, math.nan, 0.3, 0.4], "a"),)))
    assert [len(piece) for piece in points(svg, "a")] == [2, 2]


def test_log_axis_keeps_ratios() -> None:
    y = Axis(80, 5, (), "Å", math.log)
    assert y.fraction(20) == pytest.approx(0.5)
    assert y.fraction(10) - y.fraction(20) == pytest.approx(y.fraction(20) - y.fraction(40))


def test_texts_are_escaped() -> None:
    parts = dict(
        rules=(Rule(1, EVIL, True), Rule(0.5, EVIL, False)),
        dots=(Dot(1, 1, EVIL),),
        bands=(Band(0, 10, EVIL),),
        tips=((1.0, EVIL), (2.0, EVIL)),
    )
    axis = Axis(0, 10, ((1, EVIL),), EVIL)
    c = Chart(EVIL, axis, axis, **parts)
    for svg in (draw(c), legend([(EVIL, EVIL)]), histogram(np.arange(5.0), EVIL, EVIL, EVIL)):
        assert "<script" not in svg
        assert "&lt;script&gt;" in svg


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 273), (-0.1, 1.05), (0.2214, 0.3051), (1e5, 3e6), (0, 1e-4)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    values = [v for v, _ in ticks]
    assert 3 <= len(values) <= 8
    assert low - 1e-9 <= values[0]
    assert values[-1] <= high + 1e-9 * abs(high)
    step = values[1] - values[0]
    assert float(f"{step:.3g}") == pytest.approx(step, rel=1e-9)
    assert len({label for _, label in ticks}) == len(values)


def test_histogram_counts_every_particle() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(10, 1, 997), [1e6, np.nan, 12.0]])
    svg = histogram(values, "v", "t", "°")
    counts = [int(n) for n in re.findall(r": (\d+) particles</title>", svg)]
    assert sum(counts) == 999
    assert counts[-1] >= 1, "what lies far out is in the last bin"
    assert f"median {np.nanmedian(values):.3g}°" in svg


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-5.0, -5.0], [1e-30, 2e-30]])
def test_histogram_of_few_values(values: list[float]) -> None:
    svg = histogram(np.array(values), "v", "t")
    counts = [int(n) for n in re.findall(r": (\d+) particles</title>", svg)]
    assert sum(counts) == len(values)
    assert len(counts) == 8


def test_histogram_keeps_to_its_limits() -> None:
    svg = histogram(np.full(200, 1.0), "v", "t", limits=(0.0, 1.0))
    counts = [int(n) for n in re.findall(r": (\d+) particles</title>", svg)]
    assert counts[-1] == sum(counts) == 200
    ticks = re.findall(r'class="tick"[^>]*>([^<]+)<', svg)
    assert "2.5" not in ticks
    assert "0.2" in ticks


def test_histogram_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no value is finite"):
        histogram(np.array([np.nan]), "v", "t")


def test_fsc_chart_names_nyquist_and_thresholds() -> None:
    f = np.linspace(0, 0.125, 17)
    curves = FSCTable(f, *(np.linspace(1, 0, 17) for _ in range(4)))
    svg = fsc_chart(curves, None)
    for words in ("Nyquist 8 Å", "0.143", ">0.5<", "shell 16: 8.00\u202fÅ"):
        assert words in svg, words
    assert {len(points(svg, s)[0]) for s in ("unmasked", "masked", "randomised", "corrected")} == {17}


def steps(*rows: tuple[str, float | None, float]) -> list[LoggedStep]:
    return [LoggedStep(StepInfo(s, i + 1, r), w, w) for i, (s, r, w) in enumerate(rows)]


def test_time_chart_adds_up_the_steps() -> None:
    svg = time_chart(steps(("a", 40, 10), ("a", None, 10), ("b", 20, 10), ("b", 10, 10)))
    assert svg is not None
    (corners,) = points(svg, "corrected")
    x, y = np.array(corners).T
    # at 10, 30 and 40 s; halving the resolution is one step up
    assert (x[1] - x[0]) == pytest.approx(2 * (x[2] - x[1]), abs=0.3)
    assert (y[0] - y[1]) == pytest.approx(y[1] - y[2], abs=0.3)
    assert y[1] < y[0], "finer stands higher"
    assert "after 40.0 s: 10.0\u202fÅ" in svg
    assert svg.count('class="band') == 2


def test_time_chart_marks_the_end_of_the_stage_that_went_furthest() -> None:
    """Further random starts come last, at the resolution of ab initio."""
    svg = time_chart(steps(("a", 40, 10), ("refine", 10, 10), ("refine", 11, 10), ("confirm", 43, 10)))
    assert svg is not None
    [dot] = re.findall(r'<circle class="dot" cx="([^"]+)" cy="([^"]+)"', svg)
    (corners,) = points(svg, "corrected")
    assert [float(v) for v in dot] == pytest.approx(list(corners[2]), abs=0.2)


def test_time_chart_needs_resolutions() -> None:
    assert time_chart(steps(("a", None, 10), ("a", 30, 10))) is None
    assert time_chart([]) is None
