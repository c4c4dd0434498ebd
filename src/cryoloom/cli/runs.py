"""Runs from the command line: started in a new folder, or gone on with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from cryoloom.cli.options import RunningOptions

if TYPE_CHECKING:
    from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
    from cryoloom.runs.folder import RunFolder

    Settings: TypeAlias = ReconstructSettings | HeteroSettings


def start_run(settings: Settings, command: str, output: Path, options: RunningOptions) -> None:
    """Check everything, then compute in a new run folder."""
    from cryoloom.cli.device import choose_device, set_threads
    from cryoloom.cli.terminal import announce, open_progress
    from cryoloom.runs.folder import RunFolder, check_output_folder

    check_output_folder(output, options.overwrite)
    count = set_threads(options.threads)
    with open_progress(options.quiet) as progress:
        from cryoloom.jobs import layout
        from cryoloom.jobs.reconstruct import open_input, prepare
        from cryoloom.jobs.settings import ReconstructSettings
        from cryoloom.physics.rotations import symmetry_group
        from cryoloom.runs.interrupts import Interrupts

        found = choose_device(options.device.value, progress.say)
        chosen: Literal["cpu", "cuda"] = "cuda" if found.type == "cuda" else "cpu"
        settings = replace(settings, device=chosen, threads=count)
        if isinstance(settings, ReconstructSettings):
            symmetry_group(settings.symmetry)
        particles = open_input(settings.input)
        preprocessing = prepare(particles, settings)
        _check_memory(settings, particles.box, len(particles))
        with (
            Interrupts(announce) as interrupts,
            RunFolder.create(
                output,
                settings,
                particles.fingerprint(),
                command,
                input_path=particles.path,
                seed=settings.seed,
                threads=count,
                device=chosen,
                argv=tuple(sys.argv),
                overwrite=layout.RESULTS if options.overwrite else None,
            ) as folder,
        ):
            _work(
                settings,
                particles,
                preprocessing=preprocessing,
                folder=folder,
                progress=progress,
                interrupts=interrupts,
            )


def continue_run(folder: Path, *, threads: int | None, quiet: bool) -> None:
    """Go on with an interrupted run; the result is that of an uninterrupted one."""
    from cryoloom.cli.device import choose_device, set_threads
    from cryoloom.cli.terminal import announce, open_progress
    from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
    from cryoloom.runs.folder import RunFolder, read_record, read_settings

    kind = HeteroSettings if read_record(folder).command == "hetero" else ReconstructSettings
    settings: Settings = read_settings(folder, kind)
    count = set_threads(settings.threads if threads is None else threads)
    with open_progress(quiet) as progress:
        from cryoloom.jobs.reconstruct import open_input, prepare
        from cryoloom.runs.interrupts import Interrupts

        if count != settings.threads:
            progress.say(f"{count} threads instead of {settings.threads}: equal up to rounding only", warning=True)
        choose_device(settings.device, progress.say)
        particles = open_input(settings.input)
        preprocessing = prepare(particles, settings)
        with (
            Interrupts(announce) as interrupts,
            RunFolder.resume(folder, settings, particles.fingerprint(), threads=count, device=settings.device) as run,
        ):
            _work(
                settings, particles, preprocessing=preprocessing, folder=run, progress=progress, interrupts=interrupts
            )


def _work(settings: Settings, particles, preprocessing, folder: RunFolder, progress, interrupts) -> None:
    import numba
    import torch

    from cryoloom.jobs import layout
    from cryoloom.jobs.hetero import run_hetero
    from cryoloom.jobs.reconstruct import run
    from cryoloom.jobs.settings import HeteroSettings
    from cryoloom.report.page import write_report

    torch.set_num_threads(settings.threads)
    numba.set_num_threads(min(settings.threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if isinstance(settings, HeteroSettings):
        verdict = run_hetero(
            settings, particles, preprocessing=preprocessing, folder=folder, progress=progress, interrupts=interrupts
        )
    else:
        verdict = run(settings, particles, preprocessing, folder, progress, interrupts)
    folder.finish(verdict)
    if verdict is not None:
        with folder.timing("report"):
            write_report(folder.path)
        progress.say(verdict.headline)
        for finding in verdict.findings:
            mark = {True: "+", False: "-", None: " "}[finding.passed]
            progress.say(f"  {mark} {finding.name}: {finding.text}")
    progress.say(f"Results in {folder.path}" + ("" if verdict is None else f"; open {layout.REPORT.name} first"))


def _check_memory(settings: Settings, box: int, count: int) -> None:
    """Refuse at once what could not fit."""
    from cryoloom.cli.errors import check_memory

    box = settings.box or box
    coefficients = 8 * 0.4 * box**2
    grids = (2 * settings.threads + 8) * 12 * (2 * box) ** 3 / 2
    batch = 3 * 500 * coefficients
    estimate = 5e8 + min(settings.cache_bytes, count * coefficients) + grids + batch + 1000 * count
    check_memory(int(estimate), f"{count} particles in a box of {box} px")
