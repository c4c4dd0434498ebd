"""How the verdicts change with each threshold of `jobs/verdict.py`, one at a time, for a person to choose by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from calibration.judged import Judged, evidence_of, judged
from calibration.report import misjudged, table
from calibration.rows import Row
from cryoloom.jobs import verdict
from cryoloom.jobs.verdict import Evidence

STEPS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0)  # of today's value
TRUTHS = ("right", "between", "wrong")


def thresholds() -> dict[str, float]:
    """The constants of the verdict: its thresholds."""
    return {k: v for k, v in vars(verdict).items() if k.isupper() and isinstance(v, int | float)}


@contextmanager
def threshold(name: str, value: float) -> Iterator[None]:
    """The verdict with another value of one threshold."""
    before = getattr(verdict, name)
    setattr(verdict, name, value)
    try:
        yield
    finally:
        setattr(verdict, name, before)


def grids(rows: Sequence[Row]) -> str:
    """Today's counts, the counts along the grid of each threshold, and how the evidence is spread."""
    parts = [f"{len(rows)} runs; today's values are marked with *"]
    for name, today in thresholds().items():
        lines = []
        for step in STEPS:
            with threshold(name, today * step):
                lines.append([f"{today * step:.4g}{'*' if step == 1 else ''}", *counts([judged(r) for r in rows])])
        parts.append(f"### {name}\n\n" + table(HEAD, lines))
    for name, (today, points, changed) in MEASURES.items():
        lines = []
        for value in points:
            mark = "*" if value == today else ""
            lines.append([f"{value:.4g}{mark}", *counts([judged(r, _changed(r, changed, value)) for r in rows])])
        parts.append(f"### {name}\n\n" + table(HEAD, lines))
    found = [judged(r) for r in rows]
    parts += ["### Evidence\n\n" + spread(found), "### Misjudged runs\n\n" + misjudged(found)]
    return "\n\n".join(parts)


HEAD = ("value", "right: converged", "between: converged", "wrong: converged", "wrong: noise or failed")


def counts(found: Sequence[Judged]) -> list[str]:
    """Cells of HEAD after the value."""
    cells = []
    for truth in TRUTHS:
        of = [j for j in found if j.truth == truth]
        cells.append(f"{sum(j.outcome == 'converged' for j in of)} of {len(of)}")
    wrong = [j for j in found if j.truth == "wrong"]
    return [*cells, f"{sum(j.outcome in ('noise', 'failed') for j in wrong)} of {len(wrong)}"]


def share_below(quantiles: Sequence[float], value: float) -> float:
    """Share of the images below a value, from equidistant quantiles."""
    return float(np.interp(value, quantiles, np.linspace(0, 1, len(quantiles)), left=0.0, right=1.0))


def _fitting(e: Evidence, row: Row, value: float) -> Evidence:
    return replace(e, fitting=share_below(row["run"]["particles"]["misfit"], value))


def _certain(e: Evidence, row: Row, value: float) -> Evidence:
    return replace(e, certain=1 - share_below(row["run"]["particles"]["probability"], value))


# what counts as an image that fits, and as a certain pose: today's value, a grid, the evidence at a value
MEASURES: dict[str, tuple[float, tuple[float, ...], Callable[[Evidence, Row, float], Evidence]]] = {
    "misfit of an image that fits, s.d.": (3.0, (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0), _fitting),
    "probability of a certain pose": (0.9, (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99), _certain),
}


def _changed(row: Row, changed: Callable[[Evidence, Row, float], Evidence], value: float) -> Evidence | None:
    """The evidence of a finished run at another value."""
    if row["run"]["status"] != "finished":
        return None
    return changed(evidence_of(row["run"], row["case"]["id"]), row, value)


def spread(found: Sequence[Judged]) -> str:
    """Quantiles of each number of the evidence over right, between and wrong maps: where they could be parted."""
    numbers: dict[str, dict[str, list[float]]] = {}
    for j in found:
        if j.verdict is None:
            continue
        for name, value in measures(j.verdict.evidence).items():
            numbers.setdefault(name, {t: [] for t in TRUTHS})[j.truth].append(value)
    lines = []
    for name, by_truth in numbers.items():
        cells = [
            ", ".join(f"{x:.3g}" for x in np.quantile(values, [0, 0.05, 0.5, 0.95, 1])) if values else ""
            for values in by_truth.values()
        ]
        lines.append([name, *cells])
    return table(["evidence: least, 5 %, median, 95 %, most", *TRUTHS], lines)


def measures(e: Evidence) -> dict[str, float]:
    """The numbers of the evidence that are there, and the ratios that the checks take."""
    own = {k: getattr(e, k) for k in e.__dataclass_fields__}
    out = {k: float(v) for k, v in own.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if e.common_shell:
        out["shell / common_shell"] = e.shell / e.common_shell
    if e.expected_score:
        out["mean_score / expected_score"] = e.mean_score / e.expected_score
    return out
