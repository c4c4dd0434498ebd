"""Rows judged anew: what today's verdict says of the stored evidence, and what the truth says of the run."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Literal

import torch
from scipy import stats

from calibration.rows import Row
from cryoloom.inference.poses.refine import better_half_spread
from cryoloom.jobs.verdict import Evidence, Verdict, judge
from cryoloom.runs.record import from_json

RIGHT = 0.9  # of the share that the search from the true map places: the map is right
WRONG = 0.5  # of it: below, the map is wrong
FLOOR = 0.5  # share that the true map must place at least, for a run to be called right
SAME_MAP = 0.9  # of the reference's FSC-0.5 shell: a map as good as that from the truth is not wrong

Truth = Literal["right", "between", "wrong", "no map"]
TRUTHS: tuple[Truth, ...] = typing.get_args(Truth)


@dataclass(frozen=True, slots=True)
class Judged:
    """A run as judged today.

    Attributes:
        row: its line; truth: what the map is; outcome: the verdict's, or how the run ended without one; verdict: None
            for a run without one.
    """

    row: Row
    truth: Truth
    outcome: str
    verdict: Verdict | None

    @property
    def half(self) -> str:
        """Of the molecules."""
        return self.row["case"]["half"]

    @property
    def kind(self) -> str:
        """Of the case."""
        return self.row["case"]["kind"]


def judged(row: Row, evidence: Evidence | None = None) -> Judged:
    """A row with today's verdict, on its own evidence unless another is given."""
    run = row["run"]
    if run["status"] != "finished":
        return Judged(row, "no map", run["status"], None)
    verdict = judge(evidence or evidence_of(run, row["case"]["id"]))
    return Judged(row, truth_of(row), verdict.outcome, verdict)


def evidence_of(run: dict, name: str) -> Evidence:
    """The stored evidence of a run as today's verdict takes it: what it no longer uses is left out, and what earlier
    runs did not measure is None, or taken from the quantiles that are stored beside it.

    Raises:
        BadRunFolder: where an earlier run lacks what the verdict cannot do without.
    """
    stored = run["evidence"]
    if "misfit_spread" not in stored and "particles" in run:
        stored = stored | {"misfit_spread": better_half_spread(torch.tensor(run["particles"]["misfit"]))}
    hints = typing.get_type_hints(Evidence)
    fields = {f.name: f for f in dataclasses.fields(Evidence)}
    known = {k: v for k, v in stored.items() if k in fields}
    for k in fields.keys() - stored.keys():
        if type(None) in typing.get_args(hints[k]):
            known[k] = None
    return from_json(Evidence, known, f"evidence of {name}")


def truth_of(row: Row) -> Truth:
    """Whether the map of a finished run is right, by the share of all molecules' images that it places within 10
    degrees, relative to the share of the search from the true map.

    Of a mixture only one molecule can be placed: a single map of it is right for its images alone. Of one-sided views
    the map must be nearly as good as that of the search from the true map as well: poses alone may be right although
    what other views would show is wrong.
    """
    if row["case"]["kind"] == "noise":
        return "wrong"
    found, reference = row["run"]["truth"], row.get("reference", {})
    share = found["share_of_all"]
    if share >= RIGHT and row["case"]["kind"] != "views":  # whatever the true map places
        return "right"
    if reference.get("status") == "not seen":  # the true map is not seen in these images
        return "wrong" if share < WRONG * FLOOR else "between"
    reference = reference.get("truth")
    if reference is None:  # the search from the true map has not ended
        return "between"
    attainable = reference["share"]
    as_good = found["fsc0.5_shell"] >= SAME_MAP * reference["fsc0.5_shell"]
    if attainable >= FLOOR and share >= RIGHT * attainable and (as_good or row["case"]["kind"] != "views"):
        return "right"
    same = attainable < FLOOR and as_good
    return "wrong" if share < WRONG * max(attainable, FLOOR) and not same else "between"


def upper_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of a rate of which k of n were seen; 1 where none were."""
    return 1.0 if k >= n else float(stats.beta.ppf(confidence, k + 1, n - k))


def lower_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower bound; 0 where none were seen."""
    return 0.0 if k == 0 else float(stats.beta.ppf(1 - confidence, k, n - k + 1))


def resolution_ratio(j: Judged) -> float | None:
    """Stated / true resolution (FSC 0.5 with the truth in the run's own mask) of a converged run; None where both lie
    beyond 0.8 of the Nyquist frequency, NaN where one of them does not exist."""
    found = j.row["run"].get("truth")
    if j.outcome != "converged" or found is None or j.verdict is None:
        return None
    stated, true = j.verdict.resolution_angstrom, found["own_mask_fsc0.5_angstrom"]
    if stated is None or not true:
        return math.nan
    shell = found["own_mask_fsc0.5_shell"]
    return None if min(shell, shell * true / stated) >= 0.8 * found["box"] / 2 else stated / true
