"""cryoloom reconstruct, abinit and refine: from particles to poses, maps and a verdict."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cryoloom.cli.options import Output, Particles, RunningOptions, taking
from cryoloom.cli.runs import start_run

if TYPE_CHECKING:
    from cryoloom.jobs.settings import ReconstructSettings

Restarts = Annotated[
    int | None,
    typer.Option(min=1, max=50, help="Most random starts; two that agree are enough.", show_default="4"),
]
Poses = Annotated[
    Literal["search", "amortized", "hybrid"] | None,
    typer.Option(
        help="How poses are found: by search; by an encoder and a volume that learn together from nothing (cryoAI); or "
        "by an encoder that learns from the first map, its proposals then polished.",
        show_default="search",
    ),
]
VolumeKind = Annotated[
    Literal["fouriernet", "voxel", "real"] | None,
    typer.Option("--volume", help="What learns the density in --poses amortized.", show_default="fouriernet"),
]
Polish = Annotated[
    bool | None,
    typer.Option("--polish/--no-polish", help="Refine the poses of --poses amortized.", show_default="no"),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.toml",
        help="Settings from a file: cryoai, cryoai-compact, cryoposenet, hybrid, or one of your own.",
        show_default=False,
    ),
]
Symmetry = Annotated[str, typer.Option(help="C1, Cn, Dn, T, O or I; imposed after its axes are found.")]
Flip = Annotated[bool, typer.Option("--flip", help="Give the other hand.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="reconstruct")(reconstruct)
    app.command(name="abinit")(abinit)
    app.command(name="refine")(refine)


@dataclass(frozen=True, kw_only=True)
class RunOptions(RunningOptions):
    """What all three commands take."""

    symmetry: Symmetry = "C1"
    flip: Flip = False

    def settings(self, job: Literal["reconstruct", "abinit", "refine"], particles: Path) -> ReconstructSettings:
        """Settings of a run with these options."""
        from cryoloom.jobs.settings import ReconstructSettings

        return ReconstructSettings(
            self.input(particles),
            job,
            symmetry=self.symmetry,
            particle_diameter_angstrom=self.particle_diameter,
            box=self.box,
            seed=self.seed,
            flip=self.flip,
        )


@taking(RunOptions)
def reconstruct(
    particles: Particles,
    output: Output,
    restarts: Restarts = None,
    poses: Poses = None,
    volume: VolumeKind = None,
    polish: Polish = None,
    preset: Preset = None,
    *,
    options: RunOptions,
) -> None:
    """The main job: particles in; poses, gold-standard map and verdict out. No starting model.

    Ab initio from random starts, then refinement with half sets apart; or, with --poses, networks that learn poses.
    """
    from cryoloom.jobs.presets import with_preset

    settings = options.settings("reconstruct", particles)
    if preset is not None:
        settings = with_preset(settings, preset)
    settings = _with_restarts(settings, restarts)
    if poses is not None:
        settings = replace(settings, poses=poses)
    if settings.poses != "amortized" and (volume is not None or polish is not None):
        raise ValueError("--volume and --polish are for --poses amortized: the other methods have a map and refine it")
    amortized = settings.amortized
    amortized = replace(
        amortized,
        volume=amortized.volume if volume is None else volume,
        polish=amortized.polish if polish is None else polish,
    )
    start_run(replace(settings, amortized=amortized), output, options)


@taking(RunOptions)
def abinit(particles: Particles, output: Output, restarts: Restarts = None, *, options: RunOptions) -> None:
    """A first map from random starts, without refinement."""
    start_run(_with_restarts(options.settings("abinit", particles), restarts), output, options)


@taking(RunOptions)
def refine(
    particles: Particles,
    output: Output,
    start: Annotated[
        str,
        typer.Option("--from", metavar="poses|MAP.mrc", help="Poses in the STAR file, or a map.", show_default=False),
    ],
    low_pass: Annotated[
        float | None, typer.Option(help="Angstrom: cut a given map there.", show_default="by the particle's diameter")
    ] = None,
    *,
    options: RunOptions,
) -> None:
    """Refine from somebody else's poses or map: half sets apart, gold-standard map and verdict."""
    settings = options.settings("refine", particles)
    given = start if start == "poses" else os.path.abspath(start)
    start_run(replace(settings, start=given, low_pass_angstrom=low_pass), output, options)


def _with_restarts(settings: ReconstructSettings, restarts: int | None) -> ReconstructSettings:
    """What is said on the command line comes before a preset."""
    return settings if restarts is None else replace(settings, abinit=replace(settings.abinit, restarts=restarts))
