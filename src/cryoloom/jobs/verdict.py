"""The verdict: is the result to be trusted, and why. Built from what the run itself knows; it never sees a truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["converged", "uncertain", "failed", "noise"]

# Thresholds and what they were set by: runs on simulated sets of several molecules and noise levels, and pure noise
LIKENESS = 0.75
NOISE_LIKENESS = 0.28  # starts on pure noise: 0.17 to 0.22; on particles that no start solved: 0.34 to 0.39
BEYOND = 1.5  # times the common radius: on pure noise, mask and search carry agreement to 1.4 times
CERTAIN = 0.5  # share of particles whose best pose holds nine tenths of the posterior
FITTING = 0.6  # share of particles that fit as well as their pose promises
COVERED = 0.5  # of the sampling compensation factor
MISSING = 0.02  # share of directions of Fourier space that no view shows
FEW = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason: passed, failed, or nothing to be said (None)."""

    name: str
    passed: bool | None
    value: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict is drawn from.

    Attributes:
        starts, agreeing, likeness: of ab initio, None where refinement began from somebody else's map or poses.
        shell, resolution_angstrom: gold standard, None where the halves do not correlate.
        common_shell: up to which the halves' start was common: agreement up to there proves nothing.
        certain, fitting: shares of particles.
        mean_score: log p(particle) - log p(no particle), nats an image; expected_score: what right poses give.
        settled: refinement ended because nothing was gained any more; None where poses were not refined.
        coverage: sampling compensation factor, 1 is uniform; missing_share: of the directions of Fourier space, those
            without views, around missing_axis (x, y, z); single_view_share: of particles, where nearly all show one.
        best_direction_angstrom, worst_direction_angstrom: of the directional FSC.
        particles: used; nyquist_shell: of the working box; symmetry_score: of the map before symmetry was imposed.
    """

    particles: int
    starts: int | None
    agreeing: int | None
    likeness: float | None
    shell: float
    resolution_angstrom: float | None
    resolution_half_angstrom: float | None
    common_shell: int
    nyquist_shell: int
    certain: float
    fitting: float
    mean_score: float
    expected_score: float
    settled: bool | None
    coverage: float | None
    missing_share: float
    missing_axis: tuple[float, float, float]
    single_view_share: float | None
    best_direction_angstrom: float | None
    worst_direction_angstrom: float | None
    directional_resolution_angstrom: tuple[tuple[float, float, float, float], ...]
    symmetry: str
    symmetry_score: float | None
    b_factor_angstrom2: float | None
    b_factor_note: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the user is told first."""

    outcome: Outcome
    headline: str
    findings: tuple[Finding, ...]
    resolution_angstrom: float | None
    resolution_half_angstrom: float | None
    particles_used: int
    hand_determined: bool
    symmetry: str
    b_factor_angstrom2: float | None
    coverage: float | None
    directional_resolution_angstrom: tuple[tuple[float, float, float, float], ...]


def judge(e: Evidence) -> Verdict:
    """Weigh the evidence."""
    findings = [f for f in (_starts(e), _halves(e), _poses(e), _fit(e), _settled(e), _coverage(e), _number(e)) if f]
    failed = {f.name for f in findings if f.passed is False}
    outcome: Outcome
    alike = e.likeness is None or e.likeness >= NOISE_LIKENESS
    if e.resolution_angstrom is None or ({"half maps", "starts", "poses"} <= failed and not alike):
        outcome = "noise"
    elif len(failed & {"half maps", "starts", "poses", "fit"}) > 1:
        outcome = "failed"
    elif failed - {"views"}:
        outcome = "uncertain"
    else:
        outcome = "converged"
    findings += [_hand(), _sharpening(e)]
    if e.symmetry_score is not None:
        findings.append(_symmetry(e))
        if e.symmetry_score < 0.5 and outcome == "converged":
            outcome = "uncertain"
    return Verdict(
        outcome=outcome,
        headline=_headline(outcome, e),
        findings=tuple(findings),
        resolution_angstrom=e.resolution_angstrom if outcome in ("converged", "uncertain") else None,
        resolution_half_angstrom=e.resolution_half_angstrom if outcome in ("converged", "uncertain") else None,
        particles_used=e.particles,
        hand_determined=False,
        symmetry=e.symmetry,
        b_factor_angstrom2=e.b_factor_angstrom2,
        coverage=e.coverage,
        directional_resolution_angstrom=e.directional_resolution_angstrom,
    )


def _headline(outcome: Outcome, e: Evidence) -> str:
    resolution = "no resolution" if e.resolution_angstrom is None else f"{e.resolution_angstrom:.1f} Å"
    return {
        "converged": f"Converged: {resolution} from {e.particles:,} particles.",
        "uncertain": f"Uncertain: the map reaches {resolution} by its halves, but not all signs agree.",
        "failed": "Failed: the result is not to be trusted.",
        "noise": "Noise: no particle was found in these images that could be reconstructed.",
    }[outcome]


def _starts(e: Evidence) -> Finding | None:
    if e.starts is None:
        return Finding("starts", None, None, "No independent random starts to compare: one map was begun with.")
    if e.likeness is None:
        return Finding("starts", None, None, "One start only: nothing to compare it with (--restarts 2 or more).")
    if e.likeness >= LIKENESS:
        text = f"{e.agreeing} of {e.starts} independent random starts led to the same map (likeness {e.likeness:.2f})."
        return Finding("starts", True, e.likeness, text)
    text = f"{e.starts} independent random starts led to different maps (best likeness {e.likeness:.2f} of 1)"
    if _beyond_doubt(e):
        return Finding("starts", None, e.likeness, text + ", but what refinement made of the best leaves no doubt.")
    return Finding("starts", False, e.likeness, text + ".")


def _beyond_doubt(e: Evidence) -> bool:
    """Halves that agree far beyond their common start, at poses that are nearly all certain: a wrong start gave, at
    best, a third of certain poses and a few shells."""
    agree = e.resolution_angstrom is not None and e.shell >= BEYOND * e.common_shell
    return agree and e.certain >= 0.9 and e.fitting >= FITTING


def _halves(e: Evidence) -> Finding:
    if e.resolution_angstrom is None:
        return Finding("half maps", False, None, "The half maps do not correlate beyond chance.")
    ok = e.shell >= BEYOND * e.common_shell or e.shell >= e.nyquist_shell - 2
    text = f"Gold-standard FSC falls below 0.143 at {e.resolution_angstrom:.1f} Å (shell {e.shell:.1f})"
    if ok:
        text += f"; what both halves had in common at their start ended at shell {e.common_shell}."
    else:
        text += f", which is little more than what both halves had in common at their start (shell {e.common_shell})."
    return Finding("half maps", ok, e.resolution_angstrom, text)


def _poses(e: Evidence) -> Finding:
    ok = e.certain >= CERTAIN
    return Finding(
        "poses",
        ok,
        e.certain,
        f"{100 * e.certain:.0f} % of the particles have one pose that holds nine tenths of the posterior.",
    )


def _fit(e: Evidence) -> Finding:
    ok = e.fitting >= FITTING
    return Finding(
        "fit",
        ok,
        e.fitting,
        f"{100 * e.fitting:.0f} % of the particles fit the map as well as their pose promises; on average a particle "
        f"makes its image more likely by {e.mean_score:.0f} nats ({e.expected_score:.0f} expected of right poses).",
    )


def _settled(e: Evidence) -> Finding:
    if e.settled is None:
        return Finding("convergence", None, None, "Poses are those that were given: they were weighed, not refined.")
    text = "Refinement went on until nothing was gained." if e.settled else "Refinement ended before it had settled."
    return Finding("convergence", e.settled, None, text)


def _coverage(e: Evidence) -> Finding | None:
    if e.coverage is None:
        return None
    ok = e.coverage >= COVERED and e.missing_share < MISSING and e.single_view_share is None
    text = f"Orientation coverage {e.coverage:.2f} (1 is uniform)"
    if e.worst_direction_angstrom is not None and e.best_direction_angstrom is not None:
        text += f"; resolution by direction {e.best_direction_angstrom:.1f} to {e.worst_direction_angstrom:.1f} Å"
    if e.single_view_share is not None:
        text += f"; {100 * e.single_view_share:.0f} % of the particles show a single view"
    if e.missing_share >= MISSING:
        axis = ", ".join(f"{x:.2f}" for x in e.missing_axis)
        text += f"; no view shows {100 * e.missing_share:.0f} % of all directions, those around the axis ({axis})"
    return Finding("views", ok, e.coverage, text + ("." if ok else ": some views are missing or rare."))


def _number(e: Evidence) -> Finding | None:
    if e.particles >= FEW:
        return None
    return Finding(
        "number",
        None,
        float(e.particles),
        f"{e.particles} particles are few: resolution and uncertainty are themselves uncertain.",
    )


def _hand() -> Finding:
    return Finding("hand", None, None, "Undetermined: images fit the mirror image as well (--flip gives the other).")


def _sharpening(e: Evidence) -> Finding:
    if e.b_factor_angstrom2 is None:
        return Finding("sharpening", None, None, f"No B-factor: {e.b_factor_note}")
    return Finding(
        "sharpening", None, e.b_factor_angstrom2, f"Sharpened by a B-factor of {e.b_factor_angstrom2:.0f} Å²."
    )


def _symmetry(e: Evidence) -> Finding:
    assert e.symmetry_score is not None
    ok = e.symmetry_score >= 0.5
    return Finding(
        "symmetry",
        ok,
        e.symmetry_score,
        f"Before {e.symmetry} was imposed, the map agreed with its symmetry copies to {e.symmetry_score:.2f}"
        + ("." if ok else ": the particle may not have this symmetry."),
    )
