"""The benchmark sets and what a run on each must reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain", "hard", "large", "symmetric", "noise", "few", "real-like", "twin"]


@dataclass(frozen=True, slots=True)
class BenchmarkSet:
    """One set of make_sets.sh.

    Attributes:
        kind: which targets hold: "plain" (near the ceiling and the Cramer-Rao bound), "hard" (near the oracle's share),
            "large" (box 128), "symmetric" (run without and with the symmetry), "noise", "few", "real-like" (with what
            microscopes and pickers do to images: near the oracle's share, at a bounded multiple of the twin's cost) and
            "twin" (the same molecule and number of images, clean).
        symmetry: of the truth about the standard axes.
        twin: name of the clean twin of a real-like set.
        cpu_s, rss_gib, share: limits that are the set's own; None where there is none.
    """

    name: str
    kind: Kind
    symmetry: str = "C1"
    cpu_s: float | None = None
    rss_gib: float | None = None
    share: float | None = None
    twin: str | None = None


CATALOGUE = (
    BenchmarkSet("ribosome", "plain", cpu_s=60, rss_gib=1.5, share=0.98),
    BenchmarkSet("igg", "plain", cpu_s=60, rss_gib=1.5, share=0.98),
    BenchmarkSet("adk", "plain", cpu_s=60, rss_gib=1.5, share=0.98),
    BenchmarkSet("ribosome-noisy", "hard", share=0.95),
    BenchmarkSet("ribosome-colour", "hard"),
    BenchmarkSet("ribosome-shift", "hard"),
    BenchmarkSet("ribosome-astig", "hard"),
    BenchmarkSet("ribosome-junk", "hard"),
    BenchmarkSet("ribosome-views", "hard"),
    BenchmarkSet("ribosome-optics", "hard"),
    BenchmarkSet("adk-hard", "hard"),
    BenchmarkSet("c3", "symmetric", symmetry="C3", share=0.98),
    BenchmarkSet("d7", "symmetric", symmetry="D7", share=0.98),
    BenchmarkSet("ribosome-128", "large", cpu_s=480, rss_gib=3.0),
    BenchmarkSet("noise", "noise"),
    BenchmarkSet("few", "few"),
    BenchmarkSet("real-cftr", "real-like", twin="real-clean-cftr"),
    BenchmarkSet("real-1u6g", "real-like", twin="real-clean-1u6g"),
    BenchmarkSet("real-spike", "real-like", symmetry="C3", twin="real-clean-spike"),
    BenchmarkSet("real-2cg9", "real-like", symmetry="C2", twin="real-clean-2cg9"),
    BenchmarkSet("real-groel", "real-like", symmetry="C7", twin="real-clean-groel"),
    BenchmarkSet("real-70S", "real-like", twin="real-clean-70S"),
    BenchmarkSet("real-clean-cftr", "twin"),
    BenchmarkSet("real-clean-1u6g", "twin"),
    BenchmarkSet("real-clean-spike", "twin", symmetry="C3"),
    BenchmarkSet("real-clean-2cg9", "twin", symmetry="C2"),
    BenchmarkSet("real-clean-groel", "twin", symmetry="C7"),
    BenchmarkSet("real-clean-70S", "twin"),
)
BY_NAME = {s.name: s for s in CATALOGUE}

CEILING_SHELLS = 0.95  # of the true-pose map's FSC-0.5 shell
CRAMER_RAO = 1.25  # times the bound's median errors
ORACLE_SHARE = 0.95  # of the oracle's share below 10 degrees
TWIN_COST = 3.0  # times the CPU-seconds of the clean twin
JUNK_AUC = 0.95
FIRST_MAP_CPU_S = 10.0  # to a map of FSC 0.5 beyond FIRST_MAP_SHELL
FIRST_MAP_SHELL = 6.0
STATED_RESOLUTION = 0.10  # relative difference from FSC-0.5 against the truth
RIGHT_SHARE = 0.9  # of the oracle's share (1 where there is none): below it a run is wrong, and the verdict must say so
