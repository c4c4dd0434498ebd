"""The tables of calibration.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from calibration.judged import (
    FLOOR,
    RIGHT,
    TRUTHS,
    WRONG,
    Judged,
    evidence_of,
    judged,
    lower_bound,
    resolution_ratio,
    upper_bound,
)
from calibration.rows import Row
from cryoloom.jobs.verdict import judge

OUTCOMES = ("converged", "uncertain", "failed", "noise")
HALVES = ("report", "fit")
WITHIN, ALLOWED = 0.68, 0.05  # share of the errors within one stated s.d.
STATED = 0.1  # relative difference of the stated resolution from the true one


def tables(rows: Sequence[Row], planned: int) -> str:
    """The page: confusion, rates, kinds, resolution, uncertainty, cost, and the runs that were misjudged."""
    found = [judged(r) for r in sorted(rows, key=lambda r: r["case"]["id"])]
    parts = [_head(found, planned)]
    for half in HALVES:
        mine = [j for j in found if j.half == half]
        parts.append(f"## {half.capitalize()} half")
        parts += [confusion(mine), rates(mine), by_group(mine, "kind"), by_group(mine, "level")]
        parts += [resolution(mine), uncertainty(mine)]
    parts += ["## From the true map", from_truth(rows), "## Cost", cost(found), "## Misjudged runs", misjudged(found)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(x) for x in row) + " |" for row in rows)


def _head(found: Sequence[Judged], planned: int) -> str:
    commits = ", ".join(sorted({j.row["commit"] for j in found}))
    machines = ", ".join(sorted({j.row["machine"] for j in found}))
    return (
        "# Calibration of the verdict\n\n"
        f"{len(found)} of {planned} planned runs, on a {machines}; program at {commits}, its evidence judged by the "
        "verdict of the commit that wrote this page (`benchmarks/calibrate.py report`). No protein is in both halves: "
        "thresholds are chosen on the fit half.\n\n"
        f"A map is *right* when at least {RIGHT} of the share of images that `cryoloom refine --from` the true map "
        f"places within 10 degrees is placed, where that places {FLOOR} or more; *wrong* below {WRONG} of it (or of "
        f"{FLOOR}, where it places less, unless the map is as good as that one's); else *between*. Pure noise is wrong "
        "whatever is found. Of a mixture, images of other molecules than that of which most are placed count as not "
        "placed; of one-sided views, the FSC with the truth must reach as far as well. The search from the true map is "
        "made where a run places less than 0.9. The program was developed on other sets of some of these proteins. "
        "Bounds are one-sided, 95 % (Clopper-Pearson)."
    )


def confusion(found: Sequence[Judged]) -> str:
    """What the truth says against what the verdict says."""
    ended = sorted({j.outcome for j in found} - set(OUTCOMES))
    counts = Counter((j.truth, j.outcome) for j in found)
    head = ["map", "runs", *OUTCOMES, *ended]
    return table(head, [[t, sum(j.truth == t for j in found), *(counts[t, o] for o in head[2:])] for t in TRUTHS])


def rates(found: Sequence[Judged]) -> str:
    """The two rates that the verdict is calibrated for, and noise."""
    lines = []
    for name, members in (
        ("right maps called converged", [j for j in found if j.truth == "right"]),
        ("wrong maps called converged", [j for j in found if j.truth == "wrong"]),
        ("wrong maps of particles called converged", [j for j in found if j.truth == "wrong" and j.kind != "noise"]),
        ("mixtures called converged", [j for j in found if j.kind == "mixture" and j.truth != "no map"]),
        ("maps between called converged", [j for j in found if j.truth == "between"]),
        ("converged maps that are wrong", [j for j in found if j.outcome == "converged"]),
    ):
        wanted = "wrong" if name.startswith("converged maps") else "converged"
        k = sum((j.truth if wanted == "wrong" else j.outcome) == wanted for j in members)
        lines.append([name, *rate_cells(k, len(members))])
    return table(["rate", "of", "seen", "lower bound", "upper bound"], lines)


def rate_cells(k: int, n: int) -> list[str]:
    """Counts, rate and bounds."""
    if n == 0:
        return ["0", "", "", ""]
    return [f"{k} of {n}", f"{k / n:.3f}", f"{lower_bound(k, n):.3f}", f"{upper_bound(k, n):.3f}"]


def by_group(found: Sequence[Judged], group: str) -> str:
    """The same by kind, or by level, of the case."""
    lines = []
    for name in sorted({j.row["case"][group] for j in found}):
        mine = [j for j in found if j.row["case"][group] == name]
        cells: list[object] = [name, len(mine)]
        for truth in ("right", "between", "wrong"):
            of = [j for j in mine if j.truth == truth]
            cells.append(f"{sum(j.outcome == 'converged' for j in of)} of {len(of)}" if of else "")
        wrong = [j for j in mine if j.truth == "wrong"]
        bound = upper_bound(sum(j.outcome == "converged" for j in wrong), len(wrong))
        lines.append([*cells, f"{bound:.2f}", sum(j.truth == "no map" for j in mine)])
    head = [group, "runs", "right: converged", "between: converged", "wrong: converged", "upper bound", "no map"]
    return table(head, lines)


def resolution(found: Sequence[Judged]) -> str:
    """Stated against true resolution of what converged."""
    known = {j.row["case"]["id"]: r for j in found if (r := resolution_ratio(j)) is not None}
    ratios = np.array(list(known.values()))
    if not len(ratios):
        return "No converged run below 0.8 of the Nyquist frequency."
    inside = int((np.abs(ratios - 1) <= STATED).sum())
    low, middle, high = np.nanquantile(ratios, [0.05, 0.5, 0.95])
    return (
        "Stated resolution of converged runs within 10 % of the true one, below 0.8 Nyquist: "
        f"{inside} of {len(ratios)} ({inside / len(ratios):.3f}, at least {lower_bound(inside, len(ratios)):.3f}); "
        f"stated / true 5 %, median, 95 %: {low:.2f}, {middle:.2f}, {high:.2f}. Others: "
        + (", ".join(f"{name} {r:.2f}" for name, r in known.items() if not abs(r - 1) <= STATED) or "none")
        + "."
    )


def uncertainty(found: Sequence[Judged]) -> str:
    """Shares of pose errors within one stated s.d., set by set, of what converged."""
    sets = {
        j.row["case"]["id"]: j.row["run"]["truth"]
        for j in found
        if j.outcome == "converged" and "truth" in j.row["run"]
    }
    truths = list(sets.values())
    lines, outside = [], []
    for name in ("rotation", "shift"):
        for key, which in (
            (f"{name}_within_sd", name),
            (f"{name}_within_sd_placed", f"{name}, images below 10 degrees"),
        ):
            known = {i: (t[key], t["placed"]) for i, t in sets.items() if t[key] is not None}
            if not known:
                continue
            shares, placed = np.array(list(known.values())).T
            off = np.abs(shares - WITHIN)
            sampled = np.sqrt(WITHIN * (1 - WITHIN) / placed)
            counts = [f"{int((off <= ALLOWED + k * sampled).sum())} of {len(off)}" for k in (0, 2)]
            lines.append([which, *counts, three(shares)])
            if key == "rotation_within_sd_placed":
                outside = [f"{i} {x:.2f}" for i, x in zip(known, shares, strict=True) if abs(x - WITHIN) > ALLOWED]
    factors = [
        f"{name} {three(found)}"
        for name in ("rotation", "shift")
        if len(found := np.array([ratio_at(t[f"{name}_ratio"], 0.68) for t in truths if t[f"{name}_ratio"]]))
    ]
    note = (
        f"\n\nError / stated s.d. below which 68 % of the errors lie, by set: {'; '.join(factors)}." if factors else ""
    )
    if outside:
        note += f" Outside 68 +- 5 % (rotation, images below 10 degrees): {', '.join(outside)}."
    two = "and two s.d. of sampling"
    head = ["errors within one stated s.d.", "sets with 68 +- 5 %", two, "share by set: 5 %, median, 95 %"]
    return table(head, lines) + note


def three(values: np.ndarray) -> str:
    """5 %, median and 95 %."""
    return ", ".join(f"{x:.2f}" for x in np.quantile(values, [0.05, 0.5, 0.95]))


def ratio_at(quantiles: Sequence[float], share: float) -> float:
    """Value below which a share of the images lies, from equidistant quantiles."""
    return float(np.interp(share, np.linspace(0, 1, len(quantiles)), quantiles))


def from_truth(rows: Sequence[Row]) -> str:
    """What the verdict says of refinements from the true map, which is right where it places enough."""
    counts: Counter[tuple[str, str]] = Counter()
    for r in rows:
        reference = r.get("reference")
        if reference is None:
            continue
        if reference["status"] != "finished":
            counts["no map", reference["status"]] += 1
            continue
        placed = reference["truth"]["share"]
        band = "places 0.9 or more" if placed >= 0.9 else "0.5 to 0.9" if placed >= FLOOR else "below 0.5"
        counts[band, judge(evidence_of(reference, r["case"]["id"])).outcome] += 1
    outcomes = [*OUTCOMES, *sorted({o for _, o in counts} - set(OUTCOMES))]
    bands = ["places 0.9 or more", "0.5 to 0.9", "below 0.5", "no map"]
    return table(["share of images", *outcomes], [[b, *(counts[b, o] for o in outcomes)] for b in bands])


def cost(found: Sequence[Judged]) -> str:
    """CPU-seconds and memory by what came out."""
    lines = []
    for outcome in [*OUTCOMES, *sorted({j.outcome for j in found} - set(OUTCOMES))]:
        runs = [j.row["run"] for j in found if j.outcome == outcome and "cpu_s" in j.row["run"]]
        if runs:
            cpu_s = [r["cpu_s"] for r in runs]
            peak = max(r["peak_rss_bytes"] for r in runs) / 2**30
            lines.append([outcome, len(runs), f"{np.mean(cpu_s):.0f}", f"{max(cpu_s):.0f}", f"{peak:.2f}"])
    references = [r["cpu_s"] for j in found if "cpu_s" in (r := j.row.get("reference", {}))]
    note = f"\n\nFrom the true map: {np.mean(references):.0f} CPU-s on average." if references else ""
    return table(["verdict", "runs", "mean CPU-s", "most", "peak GiB"], lines) + note


def misjudged(found: Sequence[Judged]) -> str:
    """Wrong maps called converged, and right ones that were not, with the checks that failed."""
    lines = []
    for j in found:
        if (j.truth == "wrong") == (j.outcome == "converged") and j.truth in ("right", "wrong"):
            case, run = j.row["case"], j.row["run"]
            failed = [f.name for f in j.verdict.findings if f.passed is False] if j.verdict else []
            share = f"{run['truth']['share_of_all']:.3f}" if "truth" in run else ""
            reference = j.row.get("reference", {}).get("truth", {}).get("share", "")
            lines.append(
                [case["id"], "+".join(case["molecules"]), j.truth, j.outcome, share, reference, ", ".join(failed)]
            )
    if not lines:
        return "None."
    return table(["run", "molecules", "map", "verdict", "share", "from the true map", "checks that failed"], lines)
