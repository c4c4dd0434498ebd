"""The report of a run: one page that stands alone, with the verdict first."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from cryoloom.files.durable import write_durably
from cryoloom.jobs.verdict import Verdict
from cryoloom.jobs.verdict_text import WORDS, describe, summary
from cryoloom.report import figures
from cryoloom.report.conformation_section import conformation_section
from cryoloom.report.conformations import Conformations, read_conformations
from cryoloom.report.map_section import map_section
from cryoloom.report.map_views import PLANES, MapView
from cryoloom.report.particle_section import particle_section
from cryoloom.report.results import FSCCurves, read_fsc, read_steps, read_verdict
from cryoloom.report.spheres import direction_map
from cryoloom.report.text import angstrom, duration, file_size, flat, number, plain
from cryoloom.runs.metrics_log import LoggedStep
from cryoloom.runs.record import RunRecord, read_record

# outcome -> the page's tone, and what is said above the map
_TONES = {
    "converged": ("good", None),
    "uncertain": ("warn", "Not every check was passed: read the reasons above before you trust this map."),
    "failed": ("bad", "The run did not converge: do not interpret this map."),
    "noise": ("bad", "The verdict is noise: this map is what alignment makes of noise. Do not interpret it."),
}
_UNFINISHED = {
    "running": "The run has not finished (or was killed): there is no verdict.",
    "interrupted": "The run was interrupted: there is no verdict. Continue it with 'cryoloom resume'.",
    "failed": "The run broke off with an error (see run.log): there is no verdict.",
    "finished": "The run finished without a verdict.",
}
_FINDINGS = {True: ("pass", "✓ passed"), False: ("fail", "✗ failed"), None: ("open", "– note")}
_FILES = (
    ("map.mrc", "the map, filtered to its resolution"),
    ("map_sharp.mrc", "sharpened and masked, to look at"),
    ("half1.mrc", "map of the first half of the particles"),
    ("half2.mrc", "map of the second half"),
    ("mask.mrc", "soft mask of the molecule"),
    ("local_resolution.mrc", "local resolution in angstrom"),
    ("particles.star", "particles with poses (RELION 3.1)"),
    ("z.npy", "latent coordinates, one row a particle"),
    ("z_covariance.npy", "their covariances"),
    ("classes.csv", "classes with shares and resolutions"),
    ("encoder.safetensors", "the trained encoder: cryoloom infer asks it for poses of new images"),
    ("fsc.csv", "Fourier shell correlation"),
    ("open.cxc", "opens the maps in ChimeraX"),
    ("metrics.jsonl", "progress of the run, step by step"),
    ("run.json", "settings, versions, times, verdict"),
    ("run.log", "log"),
)


def write_report(folder: Path, conformations: Conformations | None = None) -> Path:
    """Write report.html into a run's folder and return its path; what is absent there is said on the page.

    Reads each map once; costs about 1 CPU-s at 5,000 particles of 64 pixels, and one parse of particles.star.

    Args:
        conformations: of the run; read from its folder where they are left out.

    Raises:
        BadRunFolder: when `folder` is no run.
        ValueError: for a file of the run that is there but damaged, with its name.
    """
    folder = Path(folder)
    record = read_record(folder)
    path = folder / "report.html"
    write_durably(path, render(folder, record, conformations).encode("utf-8"))
    return path


def render(folder: Path, record: RunRecord, conformations: Conformations | None = None) -> str:
    """The page as text: a function of the folder's contents, and of conformations that are not read from there."""
    verdict = read_verdict(record, str(folder / "run.json"))
    steps = read_steps(folder / "metrics.jsonl")
    fsc = read_fsc(folder / "fsc.csv")
    absent: dict[str, Any] = {}
    maps = map_section(folder, absent)
    particles = particle_section(folder, record, verdict, maps.view, absent)
    found = conformations if conformations is not None else read_conformations(folder)
    shown = None if found is None else conformation_section(folder, found).context
    scripts = {
        "viewer_script": _asset("3Dmol-min.js"),
        "page_script": _asset("page.js"),
        "conformation_script": _asset("conformations.js"),
    }
    needed = {"viewer_script": maps.surface is not None, "page_script": True, "conformation_script": shown is not None}
    used = [text for name, text in scripts.items() if needed[name]]
    return _template().render(
        **_verdict_part(record, verdict),
        **_resolution_part(verdict, fsc, steps, absent),
        **_record_part(folder, record, steps),
        training=figures.training_charts(steps),
        **maps.context,
        **particles.context,
        numbers=_key_numbers(record, verdict, particles.count, maps.view),
        absent=absent,
        plane_names=PLANES,
        angstrom=angstrom,
        css=Markup(_asset("page.css")),
        conformations=shown,
        conformation_css=Markup(_asset("conformations.css")),
        viewer_licence=_asset("3Dmol-LICENSE.txt"),
        # a script that came in through a name would not run even if it got past the escaping
        script_hashes=Markup(" ".join(_source_hash(text) for text in used)),
        **{name: Markup(text) for name, text in scripts.items()},
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda v: plain(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
        loader=jinja2.FunctionLoader(_asset),
    )
    return environment.from_string(_asset("page.html"))


def _asset(name: str) -> str:
    return (resources.files("cryoloom.report") / "assets" / name).read_text(encoding="utf-8")


def _source_hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _verdict_part(record: RunRecord, verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        word, tone, headline = "No verdict", "idle", _UNFINISHED[record.status]
        caution = "There is no verdict on this map yet."
    else:
        word, (tone, caution), headline = WORDS[verdict.outcome], _TONES[verdict.outcome], summary(verdict)
    found = (
        []
        if verdict is None
        else [
            {
                "style": _FINDINGS[f.passed][0],
                "sign": _FINDINGS[f.passed][1],
                "name": _capital(f.name),
                "text": describe(f, verdict),
                "value": "" if f.value is None else number(f.value),
            }
            for f in verdict.findings
        ]
    )
    return {
        "verdict_word": word,
        "tone": tone,
        "headline": headline,
        "caution": caution,
        "findings": found,
        **_hand(verdict),
    }


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _hand(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is not None and verdict.hand_determined:
        return {"hand_note": "", "hand_long": "The hand of this map was determined by the run."}
    return {
        "hand_note": "The hand is not determined: the mirror image fits the images exactly as well.",
        "hand_long": Markup(
            "Projections alone can't tell a molecule from its mirror image: this map has even odds to be the wrong "
            "one. If α-helices turn to the left, or a known structure fits only after mirroring, repeat the run with "
            "<code>--flip</code>, which mirrors maps and poses together. To look at the mirror image only: "
            "<code>volume flip #1 axis z</code> in ChimeraX."
        ),
    }


def _key_numbers(
    record: RunRecord, verdict: Verdict | None, particles: int | None, view: MapView | None
) -> list[dict[str, str]]:
    resolution = verdict.resolution_angstrom if verdict else None
    half = verdict.resolution_half_angstrom if verdict else None
    limit = 2 * view.pixel_size if view is not None else None
    more = f"{angstrom(half)} at 0.5" if half else "at 0.143 between half maps"
    if resolution and limit and resolution < 1.005 * limit:
        more = "the finest that the pixels can show (Nyquist)"
    used = verdict.evidence.particles if verdict else None
    out = [("Resolution", angstrom(resolution) if resolution else "none", more)]
    out.append(
        (
            "Particles used",
            number(used if used is not None else particles),
            f"of {number(particles)}" if particles is not None and used is not None else "",
        )
    )
    wall, cpu = record.wall_s, record.cpu_s
    out.append(("Time", duration(wall), f"{_counted(record.machine.threads, 'thread')}, {record.machine.device}"))
    out.append(("CPU time", duration(cpu), f"{1000 * cpu / particles:.2g} ms a particle" if particles else ""))
    if verdict is not None:
        e = verdict.evidence
        out.append(("Symmetry", e.symmetry, ""))
        if e.b_factor_angstrom2 is not None:
            out.append(("B-factor", f"{number(round(e.b_factor_angstrom2))} Å²", "of the sharpened map"))
        if e.coverage is not None:
            out.append(("Coverage", f"{e.coverage:.2f}", "of orientations; 1 is uniform"))
    if view is not None:
        out.append(("Box", f"{view.box} px", f"{view.pixel_size:.4g} Å a pixel"))
    return [{"name": name, "value": value, "more": more} for name, value, more in out]


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _resolution_part(
    verdict: Verdict | None, fsc: FSCCurves | None, steps: tuple[LoggedStep, ...], absent: dict[str, Any]
) -> dict[str, Any]:
    part: dict[str, Any] = {"fsc": None, "fsc_table": [], "directions": None, "time": figures.time_chart(steps)}
    if fsc is None:
        absent["fsc"] = "fsc.csv is not in the folder: no curve is shown."
    else:
        part["fsc"] = figures.fsc_chart(fsc, verdict)
        part["fsc_table"] = [
            (i, f"{1 / f:.2f}" if f > 0 else "∞", *(f"{v:.3f}" for v in values))
            for i, (f, *values) in enumerate(
                zip(fsc.frequency, fsc.unmasked, fsc.masked, fsc.randomised, fsc.corrected, strict=True)
            )
        ]
    rows = verdict.evidence.directional_resolution_angstrom if verdict else None
    found = direction_map(rows) if rows else None
    if found is None:
        absent["directions"] = "The verdict holds no resolution by direction."
    else:
        part["directions"] = {
            "picture": figures.picture(found.pixels, "resolution by direction"),
            "dots": found.dots,
            "scale": figures.direction_scale(found.finest, found.scale_end),
            "finest": found.finest,
            "coarsest": found.coarsest,
            "ratio": f"{found.coarsest / found.finest:.2f}",
            "silent": found.silent,
        }
    if part["time"] is None:
        absent["time"] = "metrics.jsonl is not in the folder, or no step in it has a resolution."
    return part


def _record_part(folder: Path, record: RunRecord, steps: tuple[LoggedStep, ...]) -> dict[str, Any]:
    machine = record.machine
    return {
        "run_name": folder.resolve().name,
        "command": record.command,
        "command_line": shlex.join(record.argv) if record.argv else "not recorded",
        "ended": _day(record.updated),
        "settings": flat(record.settings),
        "versions": {"cryoloom": record.versions.get("cryoloom", "?")},
        "version_facts": list(record.versions.items()),
        "run_facts": [
            ("status", record.status),
            ("input", record.input_path),
            ("fingerprint", record.fingerprint[:16]),
            ("seed", str(record.seed)),
            ("started", _day(record.started)),
            ("last change", _day(record.updated)),
            ("machine", machine.host),
            ("system", machine.system),
            ("device", machine.device),
            ("threads", f"{machine.threads} of {machine.cpu_count} cores"),
            ("memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ],
        "timings": [(t.stage, duration(t.wall_s), duration(t.cpu_s)) for t in record.timings],
        "messages": [f"{s.info.stage}: {s.info.message}" for s in steps if s.info.message],
        "files": _files(folder),
    }


def _day(stamp: str) -> str:
    return stamp.replace("T", " ")[:16]


def _files(folder: Path) -> list[Mapping[str, str]]:
    found = [(name, what) for name, what in _FILES if (folder / name).is_file()]
    return [
        {"name": name, "what": what, "href": quote(name), "size": file_size((folder / name).stat().st_size)}
        for name, what in found
    ]
