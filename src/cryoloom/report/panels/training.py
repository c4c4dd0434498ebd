"""Training of networks: loss, half-turned images and gradients against the images seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cryoloom.report.charts import Axis, Chart, Line, draw, nice_ticks
from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.runs.metrics_log import LoggedStep

# metric of a training stage -> title of its chart and what it tells
_METRICS = {
    "loss": ("Loss", "what training minimises"),
    "half_turned": ("Half-turned images", "share of the images that fit better after an in-plane rotation by 180°"),
    "gradient_norm": ("Gradient norm", "of the encoder, before clipping"),
    "gradient_norm_encoder": ("Gradient norm, encoder", "before clipping"),
    "gradient_norm_volume": ("Gradient norm, volume", "before clipping"),
    "dream_best_degrees": (
        "Error on simulated images",
        "median angle between the true pose and the best candidate, degrees",
    ),
}


@dataclass(frozen=True, slots=True)
class TrainingChart:
    """One metric of a network's training against the images that it has seen."""

    title: str
    caption: str
    chart: Markup


def html(run: ShownRun) -> Markup:
    """A chart for each metric."""
    return from_template(__file__, charts=training_charts(run.run.steps))


def training_charts(steps: Sequence[LoggedStep]) -> list[TrainingChart]:
    """Metrics of the stages that train networks; empty if none does."""
    out = []
    for name, (title, caption) in _METRICS.items():
        points = _points(steps, name)
        if len(points) < 2:
            continue
        seen, values = [n / 1000 for n, _ in points], [v for _, v in points]
        room = 0.05 * (max(values) - min(values)) or 0.5
        low, high = min(values) - room, max(values) + room
        chart = Chart(
            title=title,
            x=Axis(0, seen[-1], nice_ticks(0, seen[-1]), "images seen (thousands)"),
            y=Axis(low, high, nice_ticks(low, high, 5), title.lower()),
            lines=(Line(seen, values, "corrected"),),
            tips=tuple((n, f"{1000 * n:,.0f} images: {v:.4g}") for n, v in zip(seen, values, strict=True)),
        )
        out.append(TrainingChart(title, caption, draw(chart)))
    return out


def _points(steps: Sequence[LoggedStep], name: str) -> list[tuple[float, float]]:
    metrics = (dict(step.info.metrics) for step in steps)
    return [(m["images_seen"], m[name]) for m in metrics if name in m and "images_seen" in m and math.isfinite(m[name])]


def shown(run: ShownRun) -> bool:
    """Where a stage has trained a network."""
    return any(len(_points(run.run.steps, name)) > 1 for name in _METRICS)


PANEL = Panel(name="training", section="Training", title="Training of the networks", html=html, shown=shown, wide=True)
