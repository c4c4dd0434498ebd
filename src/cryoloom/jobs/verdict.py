"""The verdict: whether the result can be trusted, and why, judged by the run's own evidence without ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from cryoloom.inference.conformations.evidence import ConformationEvidence
from cryoloom.inference.poses.start import ALIKE
from cryoloom.particles.table import UnmodelledEffect
from cryoloom.physics.rotations import is_polyhedral
from cryoloom.recipes.methods.search import UNSEEN

Outcome = Literal["converged", "uncertain", "failed", "noise"]
FindingName = Literal[
    "conformations",
    "starts",
    "half maps",
    "poses",
    "fit",
    "one structure",
    "convergence",
    "views",
    "number",
    "hand",
    "sharpening",
    "symmetry",
    "image model",
]

# Thresholds and what they were set by: runs on simulated sets of several molecules and noise levels, and on pure noise
LIKENESS = 0.75
BEYOND = 1.5  # times the common radius: on pure noise, mask and search carry agreement to 1.4 times
BEYOND_AT_NYQUIST = 1.4  # times it, where the halves agree up to the Nyquist frequency
BEYOND_ALIKE = 1.2  # times it, where independent starts were nearly the same (`ALIKE`): the signal may end there
# starts that disagree decide nothing where the half maps agree beyond this multiple of the common radius and so many
# poses are certain: refinement went far on its own. Wrong maps of starts that disagree: up to 1.9 times it, and 0.96 of
# the poses; a 70S ribosome in coloured noise, of whose starts one in five is right: 3.2 times it, and 0.999
PROVED, PROVED_CERTAIN = 2.5, 0.99
CERTAIN = 0.5  # share of particles whose best pose, within its uncertainty, holds nine tenths of the posterior
FITTING = 0.6  # share of particles that fit as well as expected for their pose
MIXED = 0.02  # gain of components, of the score: more than one structure
MIXED_CERTAIN = 0.9  # share of certain poses below which half of MIXED is enough: images of others have no sure pose
# and where also the better half of the misfits spreads by so many s.d. (1 for images of one structure), this share of
# MIXED is enough. One molecule: up to 1.5 (150 images), 2.6 where contrast varies by 12 to 22 %, more at a high SNR;
# several: mostly 1.5 to 4.2. With certain poses it is contrast: a ribosome with 20 % junk has 3.2 and a right map
UNEVEN, UNEVEN_ENOUGH = 1.5, 0.2
VERY_UNEVEN = 3.0  # and here any gain: half of the images hardly fit
CHANGED = 0.1  # share of a class's images that came from another, or went there, above which it is not settled
COVERED = 0.5  # of the sampling compensation factor
ISOTROPIC = 0.5  # of the conical FSC area ratio
MISSING = 0.02  # share of the directions of Fourier space that no view samples: views are uneven
# the map cannot be trusted: with all (0.27) or nine tenths of the views (0.096) within 20 degrees, a wrong map looks
# consistent
MUCH_MISSING = 0.05
SYMMETRIC = 0.5  # correlation of a map with its copies under the symmetry that is imposed
FEW = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One check; `passed` is None for a remark, and for a check that could not be made."""

    name: FindingName
    passed: bool | None
    value: float | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict on poses and map is drawn from.

    Attributes:
        particles: number used.
        starts, agreeing: random starts of ab initio, and those that gave the same map; None if the run did not begin
            with random starts. likeness: similarity of the most similar maps, 1 for identical ones, None if the one
            that was used could be compared with no other. strength: by how
            much the best start's map makes images that it was not made of likelier than no particle does, nats per
            image; None if it was not measured.
        further: number of random starts made after refinement, because those before disagreed, to be compared with the
            refined map; further_likeness: the similarity of the most similar one. None if none were made.
        shell, resolution_angstrom: where the gold-standard FSC falls below 0.143, None if the half maps do not
            correlate; resolution_half_angstrom: where it falls below 0.5.
        common_shell: both half sets shared their starting map up to this shell: agreement up to there proves nothing.
        nyquist_shell: of the working box.
        certain: share of the particles of which one pose, together with its symmetry mates and its neighbours within
            its uncertainty, holds nine tenths of the posterior; None if given poses were compared with no others.
        fitting: share of the particles that fit the map as well as expected for a correct pose.
        mean_score: mean of log p(image | pose, map) - log p(image | no particle), nats; expected_score: its expectation
            for correct poses.
        misfit_spread: s.d. of the misfits of those that fit better than the median (`better_half_spread`), 1 for images
            of one structure; what fits worse may be junk.
        components: number of components around the map that make held-out images likelier; component_gain: by how much,
            nats per image; None if they were not sought.
        settled: refinement ended because it brought no further improvement; None if poses were not refined.
        changed: share of the images of a class that came from another one, or went there, in the last round of sorting;
            None where the images are all of a set.
        coverage: sampling compensation factor, 1 is uniform; missing_share: share of the directions of Fourier space
            that no view samples, around missing_axis (x, y, z); single_view_share: share of the particles in one view,
            where nearly all show the same one.
        cfar: conical FSC area ratio, 1 for a map that is equally good in all directions; None where no cone correlates.
        best_direction_angstrom, worst_direction_angstrom: range of the directional FSC's resolutions.
        directional_resolution_angstrom: rows (x, y, z, resolution in angstrom), the resolution None where half maps do
            not correlate.
        symmetry: point group that was imposed; symmetry_score: correlation of the map with its symmetry-related copies
            before, None in C1.
        b_factor_angstrom2: of the Guinier fit; b_factor_note: why there is none.
        unmodelled: effects that the particle file states and the image model does not have.
        joined: number of iterations in which images in doubt chose between their poses on the map of all images.
        doubtful: share of the particles in doubt between poses, where many of them are so by one rotation, of
            doubt_degrees about doubt_axis (x, y, z), as of a symmetry that was not stated; None where they are not.
        unstated_symmetry: point group that the half maps have although it was not stated; poses are then certain up to
            it. None where they have none, or one was stated.
    """

    particles: int
    starts: int | None
    agreeing: int | None
    likeness: float | None
    strength: float | None
    shell: float
    resolution_angstrom: float | None
    resolution_half_angstrom: float | None
    common_shell: int
    nyquist_shell: int
    certain: float | None
    fitting: float
    mean_score: float
    expected_score: float
    components: int | None
    component_gain: float | None
    settled: bool | None
    coverage: float | None
    missing_share: float
    missing_axis: tuple[float, float, float]
    single_view_share: float | None
    cfar: float | None
    best_direction_angstrom: float | None
    worst_direction_angstrom: float | None
    directional_resolution_angstrom: tuple[tuple[float, float, float, float | None], ...]
    symmetry: str
    symmetry_score: float | None
    b_factor_angstrom2: float | None
    b_factor_note: str
    unmodelled: tuple[UnmodelledEffect, ...] = ()
    joined: int | None = None
    doubtful: float | None = None
    doubt_degrees: float | None = None
    doubt_axis: tuple[float, float, float] | None = None
    unstated_symmetry: str | None = None
    further: int | None = None
    further_likeness: float | None = None
    misfit_spread: float | None = None
    changed: float | None = None

    @property
    def starts_agree(self) -> bool:
        """Whether independent random starts gave the same map."""
        # where a polyhedral symmetry is imposed, all maps are somewhat alike
        needed = ALIKE if is_polyhedral(self.symmetry) else LIKENESS
        return self.likeness is not None and self.likeness >= needed

    @property
    def confirmed(self) -> bool:
        """Whether a further random start gave the refined map."""
        return self.further_likeness is not None and self.further_likeness >= LIKENESS

    @property
    def proved(self) -> bool:
        """Whether refinement itself shows that its start was right: much finer than it, with certain poses."""
        certain = self.certain is not None and self.certain >= PROVED_CERTAIN
        finer = self.resolution_angstrom is not None and self.shell >= PROVED * self.common_shell
        return self.common_shell > 0 and finer and certain and not self.mixed and self.missing_share < MISSING

    @property
    def seen(self) -> bool:
        """Whether ab initio saw any particle in the images, or did not look."""
        return self.strength is None or self.strength > UNSEEN

    @property
    def halves_agree(self) -> bool:
        """Whether the half maps agree beyond what they shared at their start."""
        times = BEYOND_AT_NYQUIST if self.shell >= self.nyquist_shell - 2 else BEYOND
        if self.likeness is not None and self.likeness >= ALIKE:
            times = BEYOND_ALIKE
        beyond = self.shell >= times * self.common_shell
        return self.resolution_angstrom is not None and beyond

    @property
    def mixed(self) -> bool:
        """Whether the map is a mean of structures that differ much."""
        if not self.components or self.component_gain is None:
            return False
        enough = 1.0
        if self.certain is not None and self.certain < MIXED_CERTAIN:
            enough = 0.5
            if self.misfit_spread is not None and self.misfit_spread >= UNEVEN:
                enough = UNEVEN_ENOUGH if self.misfit_spread < VERY_UNEVEN else 0.0
        return self.component_gain > enough * MIXED * self.mean_score


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of its own result; `verdict_text` puts it into words.

    Attributes:
        outcome: in one word; findings: the checks behind it; evidence: the numbers behind the checks.
        resolution_angstrom, resolution_half_angstrom: as stated to the user, None unless the result can be trusted.
        conformations: what was found of heterogeneity, None if the run did not look for it.
        hand_determined: whether the map's hand is known.
    """

    outcome: Outcome
    findings: tuple[Finding, ...]
    resolution_angstrom: float | None
    resolution_half_angstrom: float | None
    evidence: Evidence
    conformations: ConformationEvidence | None = None
    hand_determined: bool = False

    @property
    def unconfirmed(self) -> bool:
        """Whether the disagreement of random starts is the only failed check that counts."""
        return self.outcome != "converged" and judge(replace(self.evidence, starts=None)).outcome == "converged"

    def __str__(self) -> str:
        from cryoloom.jobs.verdict_text import lines

        return "\n".join(lines(self))


def judge(e: Evidence) -> Verdict:
    """Weigh the evidence."""
    checks = (_starts, _halves, _poses, _fit, _one_structure, _settled, _coverage, _number)
    findings = [f for f in (check(e) for check in checks) if f]
    failed = {f.name for f in findings if f.passed is False}
    outcome: Outcome
    if "half maps" in failed and (not e.seen or (e.resolution_angstrom is None and e.strength is None)):
        outcome = "noise"
    elif e.resolution_angstrom is None or len(failed & {"half maps", "starts", "poses", "fit"}) > 1:
        outcome = "failed"
    elif failed - {"views"} or e.missing_share >= MUCH_MISSING:
        outcome = "uncertain"
    else:
        outcome = "converged"
    if outcome in ("noise", "failed"):  # there is no map around which another structure could be found
        findings = [f for f in findings if f.name != "one structure"]
    findings += [Finding("hand", None, None), Finding("sharpening", None, e.b_factor_angstrom2)]
    if e.unmodelled:
        findings.append(Finding("image model", None, None))
    if e.symmetry_score is not None:
        findings.append(Finding("symmetry", e.symmetry_score >= SYMMETRIC, e.symmetry_score))
        if e.symmetry_score < SYMMETRIC and outcome == "converged":
            outcome = "uncertain"
    stated = outcome in ("converged", "uncertain")
    return Verdict(
        outcome=outcome,
        findings=tuple(findings),
        resolution_angstrom=e.resolution_angstrom if stated else None,
        resolution_half_angstrom=e.resolution_half_angstrom if stated else None,
        evidence=e,
    )


def with_conformations(verdict: Verdict, found: ConformationEvidence) -> Verdict:
    """The verdict on the consensus, with what was found of heterogeneity as its first finding."""
    value = found.gain_nats if found.reliability is None else found.reliability
    finding = Finding("conformations", True if found.components else None, value)
    return replace(verdict, conformations=found, findings=(finding, *verdict.findings))


def _starts(e: Evidence) -> Finding:
    if not e.seen:
        return Finding("starts", False, e.strength)
    if e.starts is None:
        return Finding("starts", None, None)
    if e.confirmed:
        return Finding("starts", True, e.further_likeness)
    if e.likeness is None:
        return Finding("starts", False if e.starts > 1 else None, None)
    return Finding("starts", True if e.starts_agree else None if e.proved else False, e.likeness)


def _halves(e: Evidence) -> Finding:
    return Finding("half maps", e.halves_agree, e.resolution_angstrom)


def _poses(e: Evidence) -> Finding:
    return Finding("poses", None if e.certain is None else e.certain >= CERTAIN, e.certain)


def _fit(e: Evidence) -> Finding:
    return Finding("fit", e.fitting >= FITTING, e.fitting)


def _one_structure(e: Evidence) -> Finding | None:
    if e.components is None or e.component_gain is None:
        return None
    if e.components == 0:
        return Finding("one structure", True, 0.0)
    return Finding("one structure", False if e.mixed else None, e.component_gain)


def _settled(e: Evidence) -> Finding:
    changing = e.changed is not None and e.changed > CHANGED
    return Finding("convergence", False if changing else e.settled, None)


def _coverage(e: Evidence) -> Finding | None:
    if e.coverage is None:
        return None
    even = e.coverage >= COVERED and (e.cfar is None or e.cfar >= ISOTROPIC)
    ok = even and e.missing_share < MISSING and e.single_view_share is None
    return Finding("views", ok, e.coverage)


def _number(e: Evidence) -> Finding | None:
    return Finding("number", None, float(e.particles)) if e.particles < FEW else None
