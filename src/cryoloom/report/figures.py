"""The figures of the report, each from one result of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cryoloom.jobs.verdict import Verdict
from cryoloom.report.charts import Axis, Band, Chart, Dot, Line, Rule, draw, histogram, legend, nice_ticks
from cryoloom.report.map_views import PLANES, MapView
from cryoloom.report.png import VIRIDIS, colourise, data_uri, gradient, window
from cryoloom.report.reprojections import Pairs
from cryoloom.report.results import FSCCurves
from cryoloom.report.spheres import FINE_TO_COARSE
from cryoloom.report.text import angstrom, duration, number, plain
from cryoloom.runs.metrics_log import LoggedStep

# resolutions that look like ticks, angstrom
_TICKS = (200, 100, 60, 40, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2, 1.8, 1.6, 1.4, 1.2, 1)
_CLOSEST_TICKS = 0.07  # of the axis


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the page."""

    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PictureRow:
    """Pictures that belong together, with a name and a remark."""

    name: str
    remark: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A colour bar: CSS gradient and the labels at its ends."""

    gradient: str
    low: str
    high: str


def picture(pixels: np.ndarray, alt: str) -> Picture:
    """An array of pixels, first row at the top, as a picture."""
    return Picture(data_uri(pixels), alt, pixels.shape[1], pixels.shape[0])


def fsc_chart(curves: FSCCurves, verdict: Verdict | None) -> Markup:
    """Half-map FSC: unmasked, masked, phase-randomised and corrected, with thresholds, resolution and Nyquist."""
    f = curves.frequency
    top = curves.nyquist * 1.04
    ticks: list[tuple[float, str]] = []
    for resolution in _TICKS:
        at = 1 / resolution
        if at <= curves.nyquist and at / top > 0.04 and (not ticks or (at - ticks[-1][0]) / top > _CLOSEST_TICKS):
            ticks.append((at, f"{resolution:g}"))
    values = np.concatenate([curves.unmasked, curves.masked, curves.randomised, curves.corrected])
    lowest = min(-0.1, math.floor(float(np.nanmin(values)) * 10) / 10)
    x = Axis(0, top, tuple(ticks), "resolution (Å)")
    y = Axis(lowest, 1.05, nice_ticks(0, 1, 5), "Fourier shell correlation")
    rules = [
        Rule(0.143, "0.143", vertical=False, place=0.01),
        Rule(0.5, "0.5", vertical=False, place=0.01),
        Rule(curves.nyquist, f"Nyquist {1 / curves.nyquist:.3g} Å", vertical=True, anchor="end", place=0.97),
    ]
    dots = []
    if verdict is not None:
        for resolution, threshold in ((verdict.resolution_half_angstrom, 0.5), (verdict.resolution_angstrom, 0.143)):
            if resolution:
                at = min(1 / resolution, curves.nyquist)
                # a curve that never falls so low ends above the threshold
                height = max(threshold, float(curves.corrected[-1])) if at >= f[-1] * 0.999 else threshold
                dots.append(Dot(at, height, angstrom(resolution)))
    lines = [Line(f.tolist(), getattr(curves, name).tolist(), name) for name, _ in _FSC_CURVES]
    tips = tuple(
        (
            float(f[i]),
            f"shell {i}: {angstrom(1 / f[i])}\n"
            + "\n".join(f"{label} {getattr(curves, name)[i]:.3f}" for name, label in _FSC_CURVES),
        )
        for i in range(1, len(f))
    )
    chart = Chart(
        title="Fourier shell correlation of the half maps",
        x=x,
        y=y,
        lines=tuple(lines),
        rules=tuple(rules),
        dots=tuple(dots),
        bands=(),
        tips=tips,
    )
    return draw(chart) + legend(_FSC_CURVES)


_FSC_CURVES = (
    ("unmasked", "without mask"),
    ("masked", "with mask"),
    ("randomised", "phases randomised, with mask"),
    ("corrected", "corrected for the mask"),
)


def time_chart(steps: Sequence[LoggedStep]) -> Markup | None:
    """Resolution of the growing map against the time since the start, log scale, finer upwards; None without any."""
    clock, points, bands = 0.0, [], []
    for step in steps:
        begun, clock = clock, clock + step.wall_s
        stage = plain(step.info.stage)
        if not bands or bands[-1].label != stage:
            bands.append(Band(begun, clock, stage))
        else:
            bands[-1] = Band(bands[-1].low, clock, stage)
        resolution = step.info.resolution_angstrom
        if resolution is not None and resolution > 0:
            points.append((clock, float(resolution)))
    if len(points) < 2 or clock <= 0:
        return None
    unit, size = next(u for u in (("h", 3600.0), ("min", 60.0), ("s", 1.0)) if clock >= 3 * u[1] or u[0] == "s")
    values = [r for _, r in points]
    # room above the curve for the names of the stages
    low, high = min(values) * 0.75, max(values) * 1.12
    within = [r for r in _TICKS if low <= r <= high]
    within = within or [round(low, 1), round(high, 1)]
    y = Axis(high, low, _spread(within, high, low), "resolution (Å)", math.log)
    x = Axis(0, clock / size, nice_ticks(0, clock / size), f"time ({unit})")
    bands = [Band(b.low / size, b.high / size, b.label) for b in bands]
    line = Line([t / size for t, _ in points], values, "corrected")
    tips = tuple((t / size, f"after {duration(t)}: {angstrom(r)}") for t, r in points)
    last = Dot(points[-1][0] / size, values[-1], angstrom(values[-1]))
    return draw(
        Chart(
            title="Resolution against time",
            x=x,
            y=y,
            lines=(line,),
            rules=(),
            dots=(last,),
            bands=tuple(bands),
            tips=tips,
        )
    )


# metric of a training stage -> title of its chart and what it tells
_TRAINING = {
    "loss": ("Loss", "what training minimises"),
    "half_turned": ("Half-turned images", "share of the images explained better after half a turn in the plane"),
    "gradient_norm": ("Gradient norm", "of the encoder, before clipping"),
    "gradient_norm_encoder": ("Gradient norm, encoder", "before clipping"),
    "gradient_norm_volume": ("Gradient norm, volume", "before clipping"),
    "dream_best_degrees": ("Error on dreams", "median angle to the best candidate, degrees"),
}


@dataclass(frozen=True, slots=True)
class TrainingChart:
    """One metric of a network's training against the images that it has seen."""

    title: str
    caption: str
    chart: Markup


def training_charts(steps: Sequence[LoggedStep]) -> list[TrainingChart]:
    """Loss, branches and gradients of the stages that train networks; empty where none does."""
    out = []
    for name, (title, caption) in _TRAINING.items():
        points = [
            (m["images_seen"], m[name])
            for m in (dict(s.info.metrics) for s in steps)
            if name in m and "images_seen" in m and math.isfinite(m[name])
        ]
        if len(points) < 2:
            continue
        seen, values = [n / 1000 for n, _ in points], [v for _, v in points]
        room = 0.05 * (max(values) - min(values)) or 0.5
        low, high = min(values) - room, max(values) + room
        x = Axis(0, seen[-1], nice_ticks(0, seen[-1]), "images seen (thousands)")
        y = Axis(low, high, nice_ticks(low, high, 5), title.lower())
        tips = tuple((n, f"{1000 * n:,.0f} images: {v:.4g}") for n, v in zip(seen, values, strict=True))
        chart = draw(
            Chart(
                title=title, x=x, y=y, lines=(Line(seen, values, "corrected"),), rules=(), dots=(), bands=(), tips=tips
            )
        )
        out.append(TrainingChart(title, caption, chart))
    return out


def _spread(values: Sequence[float], first: float, last: float) -> tuple[tuple[float, str], ...]:
    """Ticks on a log axis, leaving out those that would touch."""
    kept: list[float] = []
    for value in values:
        if not kept or abs(math.log(value / kept[-1]) / math.log(last / first)) > 0.08:
            kept.append(value)
    return tuple((v, f"{v:g}") for v in kept)


def slice_rows(views: Sequence[tuple[str, str, MapView | None]]) -> list[PictureRow]:
    """Central slices of maps (name, remark, map); those that are absent are left out."""
    return [
        PictureRow(name, remark, _grey(view.slices, f"central slice of the {name}"))
        for name, remark, view in views
        if view is not None
    ]


def projection_row(view: MapView) -> PictureRow:
    """Sums of a map along its axes."""
    return PictureRow("projections", "sums of the map along z, y and x", _grey(view.projections, "projection"))


def _grey(planes: np.ndarray, what: str) -> tuple[Picture, ...]:
    low, high = (float(v) for v in np.percentile(planes, (1.0, 99.8)))
    pairs = zip(PLANES, planes, strict=True)
    return tuple(picture(window(plane, low, high)[::-1], f"{what}, {name}") for name, plane in pairs)


def local_resolution_row(view: MapView, mask: MapView | None) -> tuple[PictureRow, Scale, Markup] | None:
    """Slices through the local resolution within the mask, their colours and a histogram of them; None if void."""
    inside = np.isfinite(view.slices) & (view.slices > 0)
    if mask is not None and mask.slices.shape == view.slices.shape:
        inside &= mask.slices > 0.5
    if not inside.any():
        return None
    known = view.slices[inside]
    fine, median, coarse = (float(v) for v in np.percentile(known, (2, 50, 98)))
    span = max(coarse - fine, 1e-6)
    pictures = []
    frame = _frame(inside)
    for name, plane, shown in zip(PLANES, view.slices[frame], inside[frame], strict=True):
        fraction = np.where(shown, (plane - fine) / span, 0)
        rgba = np.concatenate([colourise(fraction, FINE_TO_COARSE), np.where(shown, 255, 0)[..., None]], -1)
        pictures.append(picture(rgba[::-1].astype(np.uint8), f"local resolution, {name}"))
    row = PictureRow("local resolution", f"median {angstrom(median)}", tuple(pictures))
    chart = histogram(known, "local resolution (Å)", "Local resolution", " Å", "pixels of the slices")
    return row, Scale(gradient(FINE_TO_COARSE), angstrom(fine), angstrom(coarse)), chart


def _frame(inside: np.ndarray) -> tuple[slice, slice, slice]:
    """The square about the centre that holds all that is inside, on every plane."""
    side = inside.shape[-1]
    where = np.argwhere(inside)[:, 1:]
    low = max(0, min(int(where.min()), side - 1 - int(where.max())) - 2)
    return slice(None), slice(low, side - low), slice(low, side - low)


@dataclass(frozen=True, slots=True)
class PairFigure:
    """An image and its reprojection with what is known of the particle."""

    image: Picture
    reprojection: Picture
    rank: str
    facts: tuple[tuple[str, str], ...]
    name: str


def pair_figures(pairs: Pairs) -> list[PairFigure]:
    """Each picture in its own contrast: an image is noisier than its reprojection by far."""
    out = []
    for pair in pairs.pairs:
        name = plain(pair.name)
        shown = []
        for values, what in ((pair.image, "image"), (pair.reprojection, "reprojection")):
            low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
            shown.append(picture(window(values, low, high)[::-1], f"{what} of row {pair.row}"))
        facts = [("correlation", f"{pair.correlation:.2f}".replace("-", "\u2212"))]
        if pair.log_likelihood is not None:
            facts.append(("log-likelihood", number(pair.log_likelihood)))
        if pair.angular_error_degrees is not None:
            facts.append(("± angle", f"{pair.angular_error_degrees:.2g}°"))
        rank = f"{100 * pair.rank:.0f}\u202f%"
        out.append(PairFigure(shown[0], shown[1], rank, tuple(facts), f"row {pair.row}: {name}"))
    return out


def view_scale(highest: float) -> Scale:
    """Colours of the map of viewing directions."""
    return Scale(gradient(VIRIDIS), "0", f"{highest:.1f} × uniform")


def direction_scale(finest: float, coarsest: float) -> Scale:
    """Colours of the map of directional resolution."""
    return Scale(gradient(FINE_TO_COARSE), angstrom(finest), angstrom(coarsest))
