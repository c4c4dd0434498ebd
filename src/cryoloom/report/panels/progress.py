"""Resolution against time, and the time of each stage."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from markupsafe import Markup

from cryoloom.report.charts import Axis, Band, Chart, Dot, Line, draw, nice_ticks
from cryoloom.report.figures import RESOLUTION_TICKS
from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import angstrom, duration, plain
from cryoloom.runs import layout
from cryoloom.runs.metrics_log import LoggedStep

# stages of one of several classes, in a round for example
_OF_ONE_CLASS = re.compile(r"(round_\d+|structures_\d+|split_\d+|sort_split_\d+)_(?:\d+|none)")


def html(run: ShownRun) -> Markup:
    """The chart where steps have resolutions; the table in any case."""
    spent: dict[str, tuple[float, float]] = {}
    for t in run.run.record.timings:
        wall, cpu = spent.get(_group(t.stage), (0.0, 0.0))
        spent[_group(t.stage)] = wall + t.wall_s, cpu + t.cpu_s
    timings = [(stage, duration(wall), duration(cpu)) for stage, (wall, cpu) in spent.items()]
    absent = f"{layout.STEPS.name} is not in the folder, or no step in it has a resolution."
    return from_template(__file__, chart=time_chart(run.run.steps), timings=timings, absent=absent)


def _group(stage: str) -> str:
    """The name under which a stage is counted: one for the same stage of all classes."""
    found = _OF_ONE_CLASS.fullmatch(stage)
    return stage if found is None else found[1]


def time_chart(steps: Sequence[LoggedStep]) -> Markup | None:
    """Resolution of the growing map against the time since the start, log scale, finer upwards; None without any."""
    clock, points, bands = 0.0, [], []
    for step in steps:
        begun, clock = clock, clock + step.wall_s
        stage = plain(_group(step.info.stage))
        if not bands or bands[-1].label != stage:
            bands.append(Band(begun, clock, stage))
        else:
            bands[-1] = Band(bands[-1].low, clock, stage)
        resolution = step.info.resolution_angstrom
        if resolution is not None and resolution > 0:
            points.append((clock, float(resolution), stage))
    if len(points) < 2 or clock <= 0:
        return None
    unit, size = next(u for u in (("h", 3600.0), ("min", 60.0), ("s", 1.0)) if clock >= 3 * u[1] or u[0] == "s")
    values = [r for _, r, _ in points]
    # tests after refinement compare coarse maps: the end of the stage that went furthest is marked
    finest = min(points, key=lambda p: p[1])[2]
    end, reached = next((t, r) for t, r, stage in reversed(points) if stage == finest)
    # room above the curve for the names of the stages
    low, high = min(values) * 0.75, max(values) * 1.12
    within = [r for r in RESOLUTION_TICKS if low <= r <= high] or [round(low, 1), round(high, 1)]
    chart = Chart(
        title="Resolution against time",
        x=Axis(0, clock / size, nice_ticks(0, clock / size), f"time ({unit})"),
        y=Axis(high, low, _spread(within, high, low), "resolution (Å)", math.log),
        lines=(Line([t / size for t, _, _ in points], values, "corrected"),),
        dots=(Dot(end / size, reached, angstrom(reached)),),
        bands=tuple(Band(b.low / size, b.high / size, b.label) for b in bands),
        tips=tuple((t / size, f"after {duration(t)}: {angstrom(r)}") for t, r, _ in points),
    )
    return draw(chart)


def _spread(values: Sequence[float], first: float, last: float) -> tuple[tuple[float, str], ...]:
    """Ticks on a log axis, leaving out those that would touch."""
    kept: list[float] = []
    for value in values:
        if not kept or abs(math.log(value / kept[-1]) / math.log(last / first)) > 0.08:
            kept.append(value)
    return tuple((v, f"{v:g}") for v in kept)


PANEL = Panel(name="progress", section="Resolution", title="Progress of the run", html=html)
