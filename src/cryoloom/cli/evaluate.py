"""cryoloom evaluate: poses, map and conformations of a run against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryoloom.cli.options import Threads

if TYPE_CHECKING:
    from rich.table import Table

    from cryoloom.evaluation.map_error import MapScores
    from cryoloom.evaluation.pose_error import PoseScores

THRESHOLDS = (0.5, 0.143)
CLAIM_TOLERANCE = 0.1  # relative: how much finer than the truth allows a claimed resolution may be


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    truth: Annotated[Path, typer.Option(help="STAR file with the true poses (truth.star of a simulated set).")],
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run.", show_default=False)] = None,
    truth_map: Annotated[Path | None, typer.Option("--map", help="True map (truth_001.mrc).")] = None,
    particles: Annotated[
        Path | None, typer.Option(help="STAR file with estimated poses, in place of RUN/particles.star.")
    ] = None,
    estimated_map: Annotated[
        Path | None, typer.Option("--est-map", help="Estimated map, in place of RUN/map.mrc.")
    ] = None,
    symmetry: Annotated[
        str, typer.Option("--symmetry", "-s", help="Of the true structure, standard axes: Cn, Dn, T, O, I.")
    ] = "C1",
    radius: Annotated[
        float | None, typer.Option(min=1, help="Of the soft sphere of the FSC, voxels (default: 0.45 of the box).")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Soft mask in the truth's frame, in place of the sphere.")] = None,
    latent: Annotated[
        Path | None,
        typer.Option(
            metavar="Z.npy", help="Latent coordinates, rows as in the estimated STAR.", show_default="RUN/z.npy, if any"
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--maps",
            metavar="FILES",
            help="Estimated maps, one a true state, in order: paths joined by commas, or a pattern in quotes "
            "('state_*.mrc', taken in the order of their numbers); may be repeated.",
            show_default="RUN/class_*.mrc, if any, each for the state it shares most images with",
        ),
    ] = None,
    truth_maps: Annotated[
        list[str] | None,
        typer.Option("--truth-maps", metavar="FILES", help="True maps, one a state, in order; given like --maps."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with whole curves and matrices.")] = False,
    threads: Threads = None,
) -> None:
    """Scores poses, map and conformations against the truth.

    The motion (and hand) that brings most poses together is found first; rotations, shifts and maps are compared in
    that frame. A molecule that the run left out counts as 180 degrees wrong; junk (class 0 in the truth) is left out.

    Where the truth has several states: classes are compared with them by the adjusted Rand index, the latent by its
    rank correlation with the number of the state, and maps by the area under their FSC with the true ones (FSC-AUC).
    """
    from cryoloom.environment import set_threads

    set_threads(threads)

    from cryoloom.cli.conformation_scores import (
        ConformationFiles,
        conformations_as_json,
        conformations_tables,
        map_files,
        score_conformations,
    )
    from cryoloom.evaluation.map_error import score_map
    from cryoloom.evaluation.pose_error import score_poses
    from cryoloom.evaluation.pose_table import read_poses
    from cryoloom.maps.io import read_map

    # what else a run holds has the rows of its own particles
    files = ConformationFiles(
        run if particles is None else None, latent, map_files(maps, "--maps"), map_files(truth_maps, "--truth-maps")
    )
    if truth_map is None and (estimated_map is not None or (mask is not None and not files.truth_maps)):
        raise ValueError("--est-map and --mask need the true map: give it with --map")
    true, found = read_poses(truth), read_poses(_chosen(particles, run, "particles.star", "--particles"))
    poses = score_poses(true, found, symmetry)
    soft = None if mask is None else read_map(mask).data
    one_map = None
    if truth_map is not None:
        estimate = _chosen(estimated_map, run, "map.mrc", "--est-map")
        one_map = score_map(
            read_map(truth_map), read_map(estimate), poses.frame, symmetry=symmetry, radius_voxels=radius, mask=soft
        )
    conformations = score_conformations(
        true, found, poses.frame, files, symmetry=symmetry, radius_voxels=radius, mask=soft
    )
    verdict = None if run is None else _verdict(run)
    if as_json:
        import json

        out = scores_as_json(poses, one_map) | ({} if conformations is None else conformations_as_json(conformations))
        typer.echo(json.dumps(out | ({} if verdict is None else {"verdict": verdict})))
        return
    from rich.console import Console

    console = Console()
    console.print(scores_table(poses, one_map))
    for table in [] if conformations is None else conformations_tables(conformations):
        console.print(table)
    if verdict is not None:
        console.print(_claims(verdict))
        sentence = compare_with_claim(verdict, one_map)
        if sentence is not None:
            console.print(sentence, soft_wrap=True)


def _chosen(given: Path | None, run: Path | None, name: str, option: str) -> Path:
    if given is not None:
        return given
    if run is None:
        raise ValueError(f"nothing to score: name the folder of a run, or give {option}")
    if not (run / name).is_file():
        raise ValueError(f"{run / name}: no such file; expected the folder of a finished run, or {option}")
    return run / name


def scores_as_json(poses: PoseScores, maps: MapScores | None) -> dict[str, Any]:
    """All scores; None where a number is not finite or an agreement does not exist."""
    import math

    out: dict[str, Any] = {"particles": poses.particles, "of": poses.of}
    if poses.junk_auc is not None:
        out["junk_auc"] = poses.junk_auc
    out |= {
        "hand": int(poses.frame.hand),
        "rotation_median_deg": poses.median_degrees,
        "rotation_mean_deg": poses.mean_degrees,
        "rotation_frac_below_5deg": poses.share_below(5),
        "rotation_frac_below_10deg": poses.share_below(10),
        "shift_median_px": poses.shift_percentile_px(50),
        "shift_p90_px": poses.shift_percentile_px(90),
    }
    if maps is not None:
        for threshold in THRESHOLDS:
            out[f"fsc{threshold}_shell"] = maps.shell(threshold)
            out[f"fsc{threshold}_angstrom"] = maps.resolution_angstrom(threshold)
        out["fsc_area"] = maps.area
        out["fsc"] = [round(float(value), 4) for value in maps.fsc]
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in out.items()}


def scores_table(poses: PoseScores, maps: MapScores | None) -> Table:
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("particles", f"{poses.particles} of {poses.of}")
    table.add_row("hand", "mirrored" if poses.frame.hand else "as the truth")
    table.add_row("rotation error, median", f"{poses.median_degrees:.2f} degrees")
    table.add_row("within 5 / 10 degrees", f"{100 * poses.share_below(5):.1f} / {100 * poses.share_below(10):.1f} %")
    middle, most = poses.shift_percentile_px(50), poses.shift_percentile_px(90)
    table.add_row("shift error, median / 90 %", f"{middle:.2f} / {most:.2f} px")
    if poses.junk_auc is not None:
        table.add_row("junk ranked below molecules", f"AUC {poses.junk_auc:.3f}")
    if maps is None:
        return table
    for threshold in THRESHOLDS:
        resolution = maps.resolution_angstrom(threshold)
        text = "none" if resolution is None else f"{resolution:.1f} A (shell {maps.shell(threshold):.1f})"
        table.add_row(f"FSC {threshold} with the truth", text)
    table.add_row("mean FSC to Nyquist", f"{maps.area:.3f}")
    return table


def _verdict(run: Path) -> dict[str, Any] | None:
    """What the run said of itself, or None where it has not (yet)."""
    from cryoloom.runs.record import read_record

    if not (run / "run.json").is_file():
        return None
    verdict = read_record(run).verdict
    return None if verdict is None else dict(verdict)


def compare_with_claim(verdict: Mapping[str, Any], maps: MapScores | None) -> str | None:
    """Whether the resolution that the run claims holds against the truth; None where there is nothing to compare.

    Half maps at FSC 0.143 and a map against a perfect one at 0.5 mark the same signal-to-noise ratio (Rosenthal &
    Henderson, J. Mol. Biol. 333 (2003) 721), so the two may be set side by side.
    """
    if maps is None or "resolution_angstrom" not in verdict:
        return None
    claimed, found = verdict["resolution_angstrom"], maps.resolution_angstrom(0.5)
    if claimed is None:
        rest = "; nor does its map agree with the truth." if found is None else f", though it is true to {found:.1f} A."
        return "The run claims no resolution" + rest
    if found is None:
        return f"The run claims {claimed:.1f} A, but its map does not agree with the truth at all."
    judged = "holds" if claimed >= (1 - CLAIM_TOLERANCE) * found else "is too good"
    return f"The run claims {claimed:.1f} A; its map is true to {found:.1f} A (FSC 0.5): the claim {judged}."


def _claims(verdict: Mapping[str, Any]) -> Table:
    """The run's own verdict, beside which the scores above are to be read: its numbers and short texts."""
    from rich.table import Table

    from cryoloom.runs.display import printable

    table = Table(title="the run's own verdict", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column()
    for key, value in verdict.items():
        if isinstance(value, bool | int | float | str):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(printable(key.replace("_", " ")), printable(text))
    return table
