"""cryoloom evaluate: poses, map and conformations of a run against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoloom.cli.options import Threads

if TYPE_CHECKING:
    from cryoloom.evaluation.scores import RunScores

Truth = Annotated[Path, typer.Option(help="STAR file with the true poses (truth.star of a simulated set).")]
Run = Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
TruthMap = Annotated[Path | None, typer.Option("--map", help="True map (truth_001.mrc).")]
Particles = Annotated[Path | None, typer.Option(help="STAR file with estimated poses, in place of RUN/particles.star.")]
EstimatedMap = Annotated[Path | None, typer.Option("--est-map", help="Estimated map, in place of RUN/map.mrc.")]
Symmetry = Annotated[
    str,
    typer.Option(
        "--symmetry", "-s", help="Point group of the true structure about the standard axes: Cn, Dn, T, O or I."
    ),
]
Radius = Annotated[
    float | None,
    typer.Option(
        min=1, help="Radius in voxels of the soft sphere in which the FSC is computed (default: 0.45 of the box)."
    ),
]
Mask = Annotated[Path | None, typer.Option(help="Soft mask in the frame of the true map, in place of the sphere.")]
Latent = Annotated[
    Path | None,
    typer.Option(
        metavar="Z.npy",
        help="Latent coordinates, one row for each row of the estimated STAR file.",
        show_default="RUN/z.npy, if any",
    ),
]
Maps = Annotated[
    list[str] | None,
    typer.Option(
        "--maps",
        metavar="FILES",
        help="Estimated maps, one for each true state, in order: paths joined by commas, or a pattern in quotes "
        "('state_*.mrc', sorted by number); may be repeated.",
        show_default="RUN/class_*.mrc, if any, each for the state it shares most images with",
    ),
]
TruthMaps = Annotated[
    list[str] | None,
    typer.Option("--truth-maps", metavar="FILES", help="True maps, one for each state, in order; same form as --maps."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with whole curves and matrices.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    truth: Truth,
    run: Run = None,
    truth_map: TruthMap = None,
    particles: Particles = None,
    estimated_map: EstimatedMap = None,
    symmetry: Symmetry = "C1",
    radius: Radius = None,
    mask: Mask = None,
    latent: Latent = None,
    maps: Maps = None,
    truth_maps: TruthMaps = None,
    as_json: AsJson = False,
    threads: Threads = None,
) -> None:
    """Score poses, map and conformations against the truth.

    The rotation (and hand) that brings most poses into agreement is found first; rotations, shifts and maps are
    compared in that frame. A particle missing from the result counts as an error of 180 degrees; junk (class 0 in the
    truth) is ignored.

    Where the truth has several states, classes are compared with them by the adjusted Rand index, latent coordinates by
    their rank correlation with the number of the state, and maps by the area under their FSC with the true maps
    (FSC-AUC).
    """
    from cryoloom.environment import set_threads

    set_threads(threads)

    from cryoloom.evaluation.conformation_scores import ConformationFiles, map_files
    from cryoloom.evaluation.scores import Compared, score_run

    # z.npy and class maps of a run have the rows of its own particles
    conformations = ConformationFiles(
        run=run if particles is None else None,
        latent=latent,
        maps=map_files(maps, "--maps"),
        truth_maps=map_files(truth_maps, "--truth-maps"),
    )
    files = Compared(
        truth=truth,
        run=run,
        truth_map=truth_map,
        particles=particles,
        estimated_map=estimated_map,
        mask=mask,
        conformations=conformations,
    )
    scores = score_run(files, symmetry=symmetry, radius_voxels=radius)
    if as_json:
        import json

        typer.echo(json.dumps(scores.as_json()))
    else:
        _print(scores)


def _print(scores: RunScores) -> None:
    from rich.console import Console

    from cryoloom.cli.score_tables import conformations_tables, scores_table, verdict_table
    from cryoloom.evaluation.scores import compare_with_claim

    console = Console()
    console.print(scores_table(scores.poses, scores.map))
    for table in [] if scores.conformations is None else conformations_tables(scores.conformations):
        console.print(table)
    if scores.verdict is not None:
        console.print(verdict_table(scores.verdict))
        sentence = compare_with_claim(scores.verdict, scores.map)
        if sentence is not None:
            console.print(sentence, soft_wrap=True)
