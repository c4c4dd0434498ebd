"""cryoloom reconstruct, abinit and refine: from particles to poses, maps and a verdict."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cryoloom.cli.options import Device, DeviceName, InputOptions, Quiet, Seed, Threads, taking

if TYPE_CHECKING:
    from cryoloom.reconstruct.config import ReconstructSettings
    from cryoloom.reconstruct.run_folder import RunFolder

Particles = Annotated[Path, typer.Argument(metavar="PARTICLES.star", help="RELION STAR file.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="RUN", help="Folder of the run.", show_default=False)]
Diameter = Annotated[
    float | None,
    typer.Option("--particle-diameter", min=1, help="Longest extent, angstrom.", show_default="estimated"),
]
Box = Annotated[int | None, typer.Option(min=16, help="Working box, px.", show_default="that of the images")]
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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in RUN.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="reconstruct")(reconstruct)
    app.command(name="abinit")(abinit)
    app.command(name="refine")(refine)


@dataclass(frozen=True, kw_only=True)
class RunOptions(InputOptions):
    """What all three commands take."""

    particle_diameter: Diameter = None
    symmetry: Symmetry = "C1"
    box: Box = None
    flip: Flip = False
    seed: Seed = 1
    threads: Threads = None
    device: Device = DeviceName.AUTO
    overwrite: Overwrite = False
    quiet: Quiet = False

    def settings(self, job: Literal["reconstruct", "abinit", "refine"], particles: Path) -> ReconstructSettings:
        """Settings of a run with these options."""
        from cryoloom.reconstruct.config import ReconstructSettings

        return ReconstructSettings(
            self.input(particles), job, symmetry=self.symmetry, particle_diameter_angstrom=self.particle_diameter,
            box=self.box, seed=self.seed, flip=self.flip,
        )  # fmt: skip


@taking(RunOptions)
def reconstruct(
    particles: Particles, output: Output, restarts: Restarts = None, poses: Poses = None, volume: VolumeKind = None,
    polish: Polish = None, preset: Preset = None, *, options: RunOptions,
) -> None:  # fmt: skip
    """The main job: particles in; poses, gold-standard map and verdict out. No starting model.

    Ab initio from random starts, then refinement with half sets apart; or, with --poses, networks that learn poses.
    """
    from cryoloom.reconstruct.presets import with_preset

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
        amortized, volume=amortized.volume if volume is None else volume,
        polish=amortized.polish if polish is None else polish,
    )  # fmt: skip
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


def start_run(settings: ReconstructSettings, output: Path, options: RunOptions) -> None:
    """Check everything, then compute in a new run folder."""
    from cryoloom.cli.device import choose_device, set_threads
    from cryoloom.cli.terminal import announce, open_progress
    from cryoloom.reconstruct.run_folder import RunFolder, check_output_folder

    check_output_folder(output, options.overwrite)
    count = set_threads(options.threads)
    with open_progress(options.quiet) as progress:
        from cryoloom.physics.rotations import symmetry_group
        from cryoloom.reconstruct.interrupts import Interrupts
        from cryoloom.reconstruct.pipeline import open_input, prepare

        found = choose_device(options.device.value, progress.say)
        chosen: Literal["cpu", "cuda"] = "cuda" if found.type == "cuda" else "cpu"
        settings = replace(settings, device=chosen, threads=count)
        symmetry_group(settings.symmetry)
        particles = open_input(settings.input)
        preprocessing = prepare(particles, settings)
        _check_memory(settings, particles.box, len(particles))
        with (
            Interrupts(announce) as interrupts,
            RunFolder.create(
                output, settings, particles.fingerprint(), settings.job, input_path=particles.path, seed=settings.seed,
                threads=count, device=chosen, argv=tuple(sys.argv), overwrite=options.overwrite,
            ) as folder,
        ):  # fmt: skip
            _work(settings, particles, preprocessing, folder, progress, interrupts)


def continue_run(folder: Path, *, threads: int | None, quiet: bool) -> None:
    """Go on with an interrupted run; the result is that of an uninterrupted one."""
    from cryoloom.cli.device import choose_device, set_threads
    from cryoloom.cli.terminal import announce, open_progress
    from cryoloom.reconstruct.run_folder import RunFolder, read_settings

    from cryoloom.reconstruct.config import ReconstructSettings  # isort: skip

    settings = read_settings(folder, ReconstructSettings)
    count = set_threads(settings.threads if threads is None else threads)
    with open_progress(quiet) as progress:
        from cryoloom.reconstruct.interrupts import Interrupts
        from cryoloom.reconstruct.pipeline import open_input, prepare

        if count != settings.threads:
            progress.say(f"{count} threads instead of {settings.threads}: equal up to rounding only", warning=True)
        choose_device(settings.device, progress.say)
        particles = open_input(settings.input)
        preprocessing = prepare(particles, settings)
        with (
            Interrupts(announce) as interrupts,
            RunFolder.resume(folder, settings, particles.fingerprint(), threads=count, device=settings.device) as run,
        ):
            _work(settings, particles, preprocessing, run, progress, interrupts)


def _work(settings, particles, preprocessing, folder: RunFolder, progress, interrupts) -> None:
    import numba
    import torch

    from cryoloom.report.page import write_report

    from cryoloom.reconstruct.pipeline import run  # isort: skip

    torch.set_num_threads(settings.threads)
    numba.set_num_threads(min(settings.threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    verdict = run(settings, particles, preprocessing, folder, progress, interrupts)
    folder.finish(verdict)
    if verdict is not None:
        with folder.timing("report"):
            write_report(folder.path)
        progress.say(verdict.headline)
        for finding in verdict.findings:
            mark = {True: "+", False: "-", None: " "}[finding.passed]
            progress.say(f"  {mark} {finding.name}: {finding.text}")
    progress.say(f"Results in {folder.path}" + ("" if verdict is None else f"; open {folder.report.name} first"))


def _check_memory(settings: ReconstructSettings, box: int, count: int) -> None:
    """Refuse at once what could not fit."""
    from cryoloom.cli.errors import check_memory

    box = settings.box or box
    coefficients = 8 * 0.4 * box**2
    grids = (2 * settings.threads + 8) * 12 * (2 * box) ** 3 / 2
    batch = 3 * 500 * coefficients
    estimate = 5e8 + min(settings.cache_bytes, count * coefficients) + grids + batch + 1000 * count
    check_memory(int(estimate), f"{count} particles in a box of {box} px")


def _with_restarts(settings: ReconstructSettings, restarts: int | None) -> ReconstructSettings:
    """What is said on the command line comes before a preset."""
    return settings if restarts is None else replace(settings, abinit=replace(settings.abinit, restarts=restarts))
