"""The verdict in words, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable

from cryoloom.inference.conformations.evidence import ConformationEvidence
from cryoloom.jobs.verdict import (
    CHANGED,
    MISSING,
    MUCH_MISSING,
    SYMMETRIC,
    Evidence,
    Finding,
    FindingName,
    Outcome,
    Verdict,
)
from cryoloom.physics.rotations import axis_order, is_polyhedral

WORDS: dict[Outcome, str] = {
    "converged": "Converged",
    "uncertain": "Uncertain",
    "failed": "Not converged",
    "noise": "Noise",
}
_MARKS = {True: "+", False: "-", None: " "}


def lines(verdict: Verdict) -> list[str]:
    """The verdict as text: the headline, then a line for each finding."""
    found = [f"  {_MARKS[f.passed]} {f.name}: {describe(f, verdict)}" for f in verdict.findings]
    return [headline(verdict), *found]


def headline(verdict: Verdict) -> str:
    """'Converged: 9.1 Å from 58 particles.'"""
    said = summary(verdict)
    # after a colon, sentences that begin with a name or a number stay as they are
    return f"{WORDS[verdict.outcome]}: {said[0].lower()}{said[1:]}"


def summary(verdict: Verdict) -> str:
    """The headline without the word for the outcome."""
    e = verdict.evidence
    said = {
        "converged": f"{_angstrom(e.resolution_angstrom)} from {e.particles:,} particles.",
        "uncertain": f"The half maps agree to {_angstrom(e.resolution_angstrom)}, but not every check was passed.",
        "failed": "The result is not reliable.",
        "noise": "No particle could be reconstructed from these images.",
    }[verdict.outcome]
    return said if verdict.conformations is None else f"{said} {conformations_in_short(verdict.conformations)}"


def conformations_in_short(found: ConformationEvidence) -> str:
    """'Heterogeneity along 2 components.'"""
    if found.components == 0:
        return "No heterogeneity detected."
    return f"Heterogeneity along {number_of(found.components, 'component')}."


def describe(finding: Finding, verdict: Verdict) -> str:
    """One or a few sentences on a finding."""
    if finding.name == "conformations":
        assert verdict.conformations is not None
        return _conformations(verdict.conformations)
    return _SENTENCES[finding.name](verdict.evidence)


def _conformations(found: ConformationEvidence) -> str:
    return _heterogeneity(found) if found.components else _one_conformation(found)


def _one_conformation(found: ConformationEvidence) -> str:
    consistent = "the data are consistent with one conformation."
    if found.reliability is None:
        return f"No component improves the likelihood of held-out images: {consistent}"
    return (
        f"The latent coordinates do not distinguish the images (reliability {found.reliability:.3f} of 1): {consistent}"
    )


def _heterogeneity(found: ConformationEvidence) -> str:
    said = []
    kept = number_of(found.components, "component")
    if found.gain_nats is not None:
        improve = "improves" if found.components == 1 else "improve"
        said.append(f"{kept} {improve} the log-likelihood of held-out images by {found.gain_nats:.2f} nats per image.")
    if found.resolution_angstrom is not None:
        said.append(f"The best is reproducible between half sets to {found.resolution_angstrom:.0f} Å.")
    if found.reliability is not None:
        said.append(
            f"The latent coordinates distinguish the images along {found.components} of {found.latent_dimensions} "
            f"directions, along the best with a reliability of {found.reliability:.2f} (1 is exact, 0 no information)."
        )
    if not said:
        said.append(f"{kept} kept.")
    if found.rejected_share > 0:
        said.append(f"{_percent(found.rejected_share, 1)} of the images do not show the particle and were left out.")
    shares = found.class_shares
    if len(shares) > (most := found.components + 1):
        separate = "separates" if found.components == 1 else "separate"
        said.append(
            f"{len(shares)} classes were requested, but {number_of(found.components, 'component')} in general "
            f"{separate} only {most}: the other classes may be an arbitrary split (-k {most} avoids it)."
        )
    if shares:
        said.append("Class shares: " + ", ".join(f"{100 * share:.1f}" for share in shares) + " %.")
    return " ".join(said)


def _starts(e: Evidence) -> str:
    if e.starts is None:
        return "Not applicable: no random starts were made."
    if not e.seen:
        return (
            "No random start explains held-out images better than noise alone does (log-likelihood gain "
            f"{e.strength:.2f} nats per image)."
        )
    if e.confirmed and e.further_likeness is not None:
        return (
            f"The first {e.starts} random starts gave different maps, but of {e.further} made after refinement one "
            f"gave the refined map (similarity {e.further_likeness:.2f} of 1)."
        )
    if e.likeness is None and e.starts > 1:
        return (
            f"{e.starts} random starts were made, but the one used has no other to be compared with (raise --restarts)."
        )
    if e.likeness is None:
        return "Only one random start was made, so its map can't be compared with another (--restarts 2 or more)."
    # where a polyhedral symmetry is imposed, every other start begins with a map made from that of the start before
    starts = "random starts and their counterparts" if is_polyhedral(e.symmetry) else "independent random starts"
    if e.starts_agree:
        return f"{e.agreeing} of {e.starts} {starts} gave the same map (similarity {e.likeness:.2f} of 1)."
    said = f"{e.starts} {starts} gave different maps (highest similarity {e.likeness:.2f} of 1)"
    if e.further is not None and e.further_likeness is not None:
        said += (
            f", and of {e.further} made after refinement none gave the refined map (highest similarity "
            f"{e.further_likeness:.2f})"
        )
    if e.proved:
        return (
            f"{said}, but refinement of the best one does not depend on that: nearly all poses are certain, and the "
            f"half maps agree to {e.shell / e.common_shell:.1f} times the resolution of their common start."
        )
    return f"{said}."


def _halves(e: Evidence) -> str:
    if e.resolution_angstrom is None:
        return "The half maps do not correlate beyond chance."
    said = f"The gold-standard FSC falls below 0.143 at {_angstrom(e.resolution_angstrom)} (shell {e.shell:.1f})"
    if not e.halves_agree:
        return f"{said}, hardly beyond the starting map that both half sets shared (up to shell {e.common_shell})."
    if not e.common_shell:
        return f"{said}; the half maps are independent only if the given poses were refined in these half sets."
    shared = f"{said}; the half sets shared a starting map up to shell {e.common_shell}"
    if e.joined:
        return (
            f"{shared}; later, ambiguous images were assigned to one of their candidate poses with the map of all "
            "images, and each pose was refined against its own half map."
        )
    return f"{shared} only."


def _poses(e: Evidence) -> str:
    if e.certain is None:
        return f"Not applicable: the poses were not compared with others.{_own_symmetry(e)}"
    group = e.unstated_symmetry or e.symmetry
    modulo = "" if group == "C1" else f" and up to {group}"
    said = (
        f"For {_percent(e.certain)} of the particles, a single pose, within its uncertainty{modulo}, holds at least "
        "90 % of the posterior probability."
    )
    if e.unstated_symmetry is not None:
        return said + _own_symmetry(e)
    if e.doubtful is None or e.doubt_axis is None:
        return said
    assert e.doubt_degrees is not None
    axis = ", ".join(f"{x:.2f}" for x in e.doubt_axis)
    order = axis_order(e.doubt_degrees)
    as_in = "" if order is None else f", as in C{order}"
    return (
        f"{said} For {_percent(e.doubtful)}, another pose is possible; many of these are {e.doubt_degrees:.0f} degrees "
        f"apart about the axis ({axis}){as_in}: if the particle has that symmetry, state it (--symmetry)."
    )


def _own_symmetry(e: Evidence) -> str:
    if e.unstated_symmetry is None:
        return ""
    return (
        f" The half maps are consistent with {e.unstated_symmetry} symmetry, and none was stated: if the particle has "
        f"it, --symmetry {e.unstated_symmetry} gives a higher resolution from the same images."
    )


def _fit(e: Evidence) -> str:
    return (
        f"{_percent(e.fitting)} of the particles fit the map as well as expected for a correct pose. Mean "
        f"log-likelihood gain over noise alone: {e.mean_score:.0f} nats per image ({e.expected_score:.0f} expected for "
        "correct poses)."
    )


def _one_structure(e: Evidence) -> str:
    if not e.components:
        return (
            "One structure explains the images: no component around the map improves the likelihood of held-out images."
        )
    said = (
        f"{number_of(e.components, 'component')} around the map {'improves' if e.components == 1 else 'improve'} the "
        f"log-likelihood of held-out images by {e.component_gain:.2f} nats per image: the images show more than one "
        "structure"
    )
    if e.mixed and e.changed is not None:
        return f"{said}: this class may hold images of several molecules."
    if e.mixed:
        return (
            f"{said}, and the map is an average over different molecules (run cryoloom reconstruct --classes auto) or "
            "over a large motion (run cryoloom hetero)."
        )
    return f"{said}; the structures differ little (see cryoloom hetero)."


def _convergence(e: Evidence) -> str:
    changing = ""
    if e.changed is not None and e.changed > CHANGED:
        changing = (
            f" {_percent(e.changed)} of the images came from other classes, or went there, in the last round of "
            "sorting: the class may still hold images of other molecules."
        )
    if e.settled is None:
        return f"Not applicable: the poses were used as they are, without refinement.{changing}"
    if e.settled:
        return f"Refinement ended when it brought no further improvement.{changing}"
    return f"Refinement ended before it had converged.{changing}"


def _views(e: Evidence) -> str:
    said = [f"Sampling compensation factor {e.coverage:.2f} (1: uniform views)."]
    if e.cfar is not None:
        said.append(f"cFAR {e.cfar:.2f} (conical FSC area ratio; 1: isotropic).")
    if e.worst_direction_angstrom is not None and e.best_direction_angstrom is not None:
        said.append(
            f"Resolution by direction: {e.best_direction_angstrom:.1f} to {_angstrom(e.worst_direction_angstrom)}."
        )
    if e.single_view_share is not None:
        said.append(f"{_percent(e.single_view_share)} of the particles show a single view.")
    if e.missing_share >= MISSING:
        axis = ", ".join(f"{x:.2f}" for x in e.missing_axis)
        said.append(
            f"{_percent(e.missing_share)} of the directions in Fourier space are not sampled by any view, around the "
            f"axis ({axis}) of the map."
        )
    if e.missing_share >= MUCH_MISSING:
        said.append("With so few views, a wrong map can pass the other checks.")
    return " ".join(said)


def _number(e: Evidence) -> str:
    return f"With only {e.particles} particles, the resolution and the uncertainties are themselves uncertain."


def _hand(e: Evidence) -> str:
    return "Not determined: the mirror image fits the images equally well (--flip gives the other hand)."


def _sharpening(e: Evidence) -> str:
    if e.b_factor_angstrom2 is None:
        return f"No B-factor was fitted: {e.b_factor_note.rstrip('.')}."
    return f"The map was sharpened by the B-factor that a Guinier fit found, {e.b_factor_angstrom2:.0f} Å²."


def _symmetry(e: Evidence) -> str:
    said = f"Before {e.symmetry} was imposed, the correlation of the map with its symmetry-related copies was "
    said += f"{e.symmetry_score:.2f}"
    low = e.symmetry_score is not None and e.symmetry_score < SYMMETRIC
    return said + (": the particle may not have this symmetry." if low else ".")


def _image_model(e: Evidence) -> str:
    stated = "; ".join(str(effect) for effect in e.unmodelled)
    return (
        f"The particle file states effects that the image model does not have: {stated}. They may limit the resolution."
    )


_SENTENCES: dict[FindingName, Callable[[Evidence], str]] = {
    "starts": _starts,
    "half maps": _halves,
    "poses": _poses,
    "fit": _fit,
    "one structure": _one_structure,
    "convergence": _convergence,
    "views": _views,
    "number": _number,
    "hand": _hand,
    "sharpening": _sharpening,
    "symmetry": _symmetry,
    "image model": _image_model,
}


def _angstrom(value: float | None) -> str:
    return "no resolution" if value is None else f"{value:.1f} Å"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def number_of(count: int, thing: str) -> str:
    """A number of things: 1 map, 2 maps, 2 classes."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}{'es' if thing.endswith('s') else 's'}"
