"""The verdict on a run with several molecules: the classes with their own verdicts, and the images of none of them."""

from __future__ import annotations

from dataclasses import dataclass

from cryoloom.jobs.verdict import Outcome
from cryoloom.jobs.verdict_text import WORDS, number_of


@dataclass(frozen=True, slots=True)
class ClassVerdict:
    """One class: name of its folder, number of its molecule (of which other classes show other conformations, perhaps),
    number of images, share of all images, and what its own verdict says."""

    name: str
    molecule: int
    particles: int
    share: float
    outcome: Outcome
    resolution_angstrom: float | None
    components: int | None


@dataclass(frozen=True, slots=True)
class MixtureVerdict:
    """What a run says of the molecules in its images.

    Attributes:
        outcome: converged where all classes are, and as many were found as were asked for; uncertain where some
            are; failed where none is.
        classes: the classes, by their numbers; particles: number of images of the whole set.
        none: images that belong to no class; requested: number of classes that was asked for, None if it was to be
            found; begun: number of maps with which the search began.
        rejected: maps whose half sets did not agree, with the number of images of each.
        settled: whether hardly any image changed its class in the last round.
    """

    outcome: Outcome
    classes: tuple[ClassVerdict, ...]
    particles: int
    none: int
    requested: int | None
    begun: int
    rejected: tuple[int, ...]
    settled: bool

    @property
    def none_share(self) -> float:
        """Share of the images that belong to no class."""
        return self.none / self.particles


def judge_mixture(
    classes: tuple[ClassVerdict, ...],
    particles: int,
    none: int,
    *,
    requested: int | None,
    begun: int,
    rejected: tuple[int, ...],
    settled: bool,
) -> MixtureVerdict:
    """The verdict on the whole set."""
    right = sum(c.outcome == "converged" for c in classes)
    stated = sum(c.outcome in ("converged", "uncertain") for c in classes)
    as_asked = requested is None or len(classes) == requested
    outcome: Outcome = "failed"
    if classes and right == len(classes) and settled and as_asked:
        outcome = "converged"
    elif stated:
        outcome = "uncertain"
    return MixtureVerdict(outcome, classes, particles, none, requested, begun, rejected, settled)


def mixture_headline(verdict: MixtureVerdict) -> str:
    """'Converged: 4 molecules from 8,000 particles, 2 of which move; 1,440 particles (18.0 %) belong to none.'"""
    said = mixture_summary(verdict)
    return f"{WORDS[verdict.outcome]}: {said[0].lower()}{said[1:]}"


def mixture_summary(verdict: MixtureVerdict) -> str:
    """The headline without the word for the outcome."""
    if not verdict.classes:
        return f"No class was found in {verdict.particles:,} particles."
    count, molecules = len(verdict.classes), len({c.molecule for c in verdict.classes})
    said = number_of(molecules, "molecule")
    if count > molecules:
        said = f"{count} classes of {said}"
    said += f" from {verdict.particles:,} particles"
    moving = sum(bool(c.components) for c in verdict.classes)
    if moving:
        said += ", which moves" if count == 1 else f", {moving} of which {'moves' if moving == 1 else 'move'}"
    if verdict.none:
        said += f"; {verdict.none:,} particles ({100 * verdict.none_share:.1f} %) belong to none"
    return f"{said}."


def mixture_findings(verdict: MixtureVerdict) -> list[tuple[bool | None, str, str]]:
    """Whether each check was passed (None for a remark), its name, and a sentence on it."""
    found: list[tuple[bool | None, str, str]] = []
    for c in verdict.classes:
        resolution = "no resolution" if c.resolution_angstrom is None else f"{c.resolution_angstrom:.1f} Å"
        said = f"{WORDS[c.outcome]}, {resolution} from {c.particles:,} particles ({100 * c.share:.1f} %)."
        if c.components:
            said += f" Its images vary along {c.components} component{'s' if c.components != 1 else ''}: see {c.name}."
        found.append((c.outcome == "converged", c.name, said))
    found.append(_number(verdict))
    if verdict.classes:
        found.append((verdict.settled, "convergence", _settled(verdict)))
    if verdict.none:
        said = (
            f"{verdict.none:,} particles ({100 * verdict.none_share:.1f} %) belong to no class (rlnClassNumber 0): an "
            "unknown body of the same size explains them as well as any class does, or a map whose half sets do not "
            "agree, or they do not fit the map of their class, or too few images fit it."
        )
        found.append((None, "none", said))
    return found


def mixture_lines(verdict: MixtureVerdict) -> list[str]:
    """The verdict as text: the headline, then a line for each finding."""
    marks = {True: "+", False: "-", None: " "}
    return [
        mixture_headline(verdict),
        *(f"  {marks[ok]} {name}: {said}" for ok, name, said in mixture_findings(verdict)),
    ]


def _number(verdict: MixtureVerdict) -> tuple[bool | None, str, str]:
    count, rejected = len({c.molecule for c in verdict.classes}), len(verdict.rejected)
    said = f"The search began with {verdict.begun} maps and ended with {number_of(count, 'molecule')}."
    if rejected:
        said += f" {rejected} {'was' if rejected == 1 else 'were'} rejected since the half maps did not agree."
    for molecule in sorted({c.molecule for c in verdict.classes}):
        names = [c.name for c in verdict.classes if c.molecule == molecule]
        if len(names) > 1:
            said += f" {', '.join(names[:-1])} and {names[-1]} are conformations of one molecule."
    if verdict.requested is None:
        return None, "number of classes", said
    if len(verdict.classes) == verdict.requested:
        return True, "number of classes", said
    return False, "number of classes", f"{verdict.requested} classes were requested. {said}"


def _settled(verdict: MixtureVerdict) -> str:
    if verdict.settled:
        return "Hardly any image changed its class in the last round."
    return "Images still changed their classes in the last round."
