"""Tables of `cryoloom evaluate`: scores of poses, map and conformations, and the run's own verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from rich.table import Table

from cryoloom.evaluation.conformation_scores import ConformationScores
from cryoloom.evaluation.map_error import MapScores
from cryoloom.evaluation.pose_error import PoseScores
from cryoloom.evaluation.scores import THRESHOLDS
from cryoloom.runs.display import printable


def scores_table(poses: PoseScores, maps: MapScores | None) -> Table:
    """Scores of the poses and, where a map was compared, of the map."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("particles", f"{poses.particles} of {poses.of}")
    table.add_row("hand", "mirrored" if poses.frame.hand else "as the truth")
    table.add_row("rotation error, median", f"{poses.median_degrees:.2f} degrees")
    table.add_row("within 5 / 10 degrees", f"{100 * poses.share_below(5):.1f} / {100 * poses.share_below(10):.1f} %")
    middle, most = poses.shift_percentile_px(50), poses.shift_percentile_px(90)
    table.add_row("shift error, median / 90 %", f"{middle:.2f} / {most:.2f} px")
    if poses.junk_auc is not None:
        table.add_row("junk ranked below molecules", f"AUC {poses.junk_auc:.3f}")
    if maps is None:
        return table
    for threshold in THRESHOLDS:
        resolution = maps.resolution_angstrom(threshold)
        text = "none" if resolution is None else f"{resolution:.1f} A (shell {maps.shell(threshold):.1f})"
        table.add_row(f"FSC {threshold} with the truth", text)
    table.add_row("mean FSC to Nyquist", f"{maps.area:.3f}")
    return table


def conformations_tables(scores: ConformationScores) -> list[Table]:
    """A summary of the scores, and a table by state where there are maps or classes."""
    short = Table(title="conformations", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    short.add_column(style="bold")
    short.add_column(justify="right")
    for name, text in _short(scores):
        short.add_row(name, text)
    if scores.maps is None and scores.classes is None:
        return [short]
    by_state = Table(box=None, padding=(0, 2, 0, 0))
    columns = dict(_by_state(scores))
    for name in columns:
        by_state.add_column(name, justify="right")
    for row in zip_longest(*columns.values(), fillvalue=""):
        by_state.add_row(*row)
    return [short, by_state]


def _short(scores: ConformationScores) -> Iterator[tuple[str, str]]:
    if scores.images is not None:
        yield "true states", str(int((scores.images > 0).sum()))
    if scores.classes is not None:
        yield "classes, adjusted Rand index", f"{scores.classes.adjusted_rand_index:.3f}"
        yield "images in the class of their state", f"{100 * scores.classes.share_right:.1f} %"
    if scores.latent is not None:
        yield "rank correlation with the state, best coordinate", f"{scores.latent.best_coordinate:.3f}"
        yield "best direction", f"{scores.latent.direction:.3f}"
    if scores.maps is not None:
        yield "FSC-AUC (at most 0.5), mean over states", f"{scores.maps.own.mean():.4f}"
        if scores.auc_per_image is not None:
            yield "mean over images", f"{scores.auc_per_image.mean():.4f}"
        yield "maps that match their own true state best", f"{100 * scores.maps.share_best():.0f} %"
        yield "... or a neighbouring state", f"{100 * scores.maps.share_best(within=1):.0f} %"


def _by_state(scores: ConformationScores) -> Iterator[tuple[str, list[str]]]:
    """Headings and columns; a state with a true map but without images has a row too."""
    count = 0 if scores.images is None else len(scores.images)
    count = count if scores.maps is None else max(count, len(scores.maps.map_of_state))
    yield "state", [str(s + 1) for s in range(count)]
    if scores.images is not None:
        yield "images", [str(n) for n in scores.images]
    if scores.classes is not None:
        yield "class", [str(scores.classes.labels[k]) for k in scores.classes.class_of_state()]
    if scores.maps is not None:
        yield "FSC-AUC", [f"{value:.4f}" for value in scores.maps.own]
        yield "best match", [str(s + 1) for s in scores.maps.best_truth]


def verdict_table(verdict: Mapping[str, Any]) -> Table:
    """The run's own verdict, for comparison with the scores: its numbers and short texts."""
    table = Table(title="the run's own verdict", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column()
    for key, value in verdict.items():
        if isinstance(value, bool | int | float | str):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(printable(key.replace("_", " ")), printable(text))
    return table
