"""The head of the page: the verdict with its reasons, and the key numbers."""

from __future__ import annotations

from typing import Any

from cryoloom.jobs.mixture_verdict import MixtureVerdict, mixture_findings, mixture_summary
from cryoloom.jobs.verdict import Verdict
from cryoloom.jobs.verdict_text import WORDS, describe, summary
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import angstrom, duration, number
from cryoloom.runs import layout
from cryoloom.runs.record import RunRecord

_TONES = {"converged": "good", "uncertain": "warn", "failed": "bad", "noise": "bad"}
_UNFINISHED = {
    "running": "The run has not finished, or was killed: there is no verdict.",
    "interrupted": "The run was interrupted: there is no verdict. Continue it with 'cryoloom resume'.",
    "failed": "The run ended with an error (see run.log): there is no verdict.",
    "finished": "The run finished without a verdict.",
}
_SIGNS = {True: ("pass", "✓ passed"), False: ("fail", "✗ failed"), None: ("open", "– note")}


def verdict_part(record: RunRecord, verdict: Verdict | None) -> dict[str, Any]:
    """Word, tone, headline and findings."""
    if verdict is None:
        return {"word": "No verdict", "tone": "idle", "headline": _UNFINISHED[record.status], "findings": []}
    findings = [
        {
            "style": _SIGNS[f.passed][0],
            "sign": _SIGNS[f.passed][1],
            "name": _title(f.name),
            "text": describe(f, verdict),
            "value": "" if f.value is None else number(f.value),
        }
        for f in verdict.findings
    ]
    word, tone = WORDS[verdict.outcome], _TONES[verdict.outcome]
    return {"word": word, "tone": tone, "headline": summary(verdict), "findings": findings}


def mixture_part(verdict: MixtureVerdict) -> dict[str, Any]:
    """The same for a run that looks for several molecules."""
    findings = [
        {"style": _SIGNS[ok][0], "sign": _SIGNS[ok][1], "name": _title(name), "text": said, "value": ""}
        for ok, name, said in mixture_findings(verdict)
    ]
    word, tone = WORDS[verdict.outcome], _TONES[verdict.outcome]
    return {"word": word, "tone": tone, "headline": mixture_summary(verdict), "findings": findings}


def _title(name: str) -> str:
    """The name of a finding, capitalised unless it is that of a folder."""
    return name if "_" in name else name[:1].upper() + name[1:]


def key_numbers(run: ShownRun) -> list[dict[str, str]]:
    """Name, value and remark of each number; those that a damaged file holds are left out."""
    record, verdict = run.run.record, run.run.verdict
    count, box = _count(run), _box(run)
    wall, cpu = record.wall_s, record.cpu_s
    threads = f"{record.machine.threads} {'thread' if record.machine.threads == 1 else 'threads'}"
    out = [
        _classes(run.run.mixture) if run.run.several_molecules else _resolution(verdict, box),
        _particles(verdict, count),
        ("Time", duration(wall), f"{threads}, {record.machine.device}"),
        ("CPU time", duration(cpu), _per_particle(cpu / count) if count else ""),
    ]
    if verdict is not None:
        e = verdict.evidence
        out.append(("Symmetry", e.symmetry, ""))
        if e.b_factor_angstrom2 is not None:
            b = f"{number(round(e.b_factor_angstrom2))} Å²"
            out.append(("B-factor", b, "by which the map was sharpened"))
        if e.coverage is not None:
            out.append(("Sampling compensation factor", f"{e.coverage:.2f}", "1: uniform views"))
        if e.cfar is not None:
            out.append(("cFAR", f"{e.cfar:.2f}", "1: as good in all directions"))
    if box is not None:
        out.append(("Box", f"{box[0]} px", f"{box[1]:.4g} Å per pixel"))
    return [{"name": name, "value": value, "more": more} for name, value, more in out]


def _per_particle(seconds: float) -> str:
    return f"{seconds:.2g} s per particle" if seconds >= 1 else f"{1000 * seconds:.2g} ms per particle"


def _count(run: ShownRun) -> int | None:
    try:
        return None if run.run.estimates is None else run.run.estimates.count
    except ValueError:  # the panels of the particles say what is wrong with them
        return None


def _box(run: ShownRun) -> tuple[int, float] | None:
    try:
        view = run.view(layout.MAP)
    except ValueError:  # the panels of the map say what is wrong with it
        return None
    return None if view is None else (view.box, view.pixel_size)


def _resolution(verdict: Verdict | None, box: tuple[int, float] | None) -> tuple[str, str, str]:
    resolution = verdict.resolution_angstrom if verdict else None
    half = verdict.resolution_half_angstrom if verdict else None
    more = f"{angstrom(half)} at FSC 0.5" if half else "at FSC 0.143 between half maps"
    if resolution and box and resolution < 1.005 * 2 * box[1]:
        more = "limited by the pixel size (Nyquist)"
    return "Resolution", angstrom(resolution) if resolution else "none", more


def _classes(mixture: MixtureVerdict | None) -> tuple[str, str, str]:
    if mixture is None:
        return "Classes", "none yet", ""
    converged = sum(c.outcome == "converged" for c in mixture.classes)
    return "Classes", number(len(mixture.classes)), f"{converged} of them converged"


def _particles(verdict: Verdict | None, count: int | None) -> tuple[str, str, str]:
    used = verdict.evidence.particles if verdict else None
    more = f"of {number(count)}" if count is not None and used is not None and used != count else ""
    return "Particles", number(used if used is not None else count), more
