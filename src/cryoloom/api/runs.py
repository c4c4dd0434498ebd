"""Whole jobs in a run folder: started, resumed, and ended with their report. The command line uses these too."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

from cryoloom.environment import set_threads
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.hetero import run_hetero
from cryoloom.jobs.inputs import open_input, prepare
from cryoloom.jobs.memory import within_memory
from cryoloom.jobs.mixture import run_mixture
from cryoloom.jobs.mixture_verdict import MixtureVerdict, mixture_lines
from cryoloom.jobs.reconstruct import run
from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
from cryoloom.jobs.verdict import Verdict
from cryoloom.jobs.verdict_text import lines
from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.particles.preprocess import Preprocessing
from cryoloom.physics.rotations import symmetry_group
from cryoloom.recipes.methods.registry import pose_method
from cryoloom.report.page import write_report
from cryoloom.runs import layout
from cryoloom.runs.folder import BadRunFolder, RunFolder, check_output_folder, read_record, read_settings
from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.machine import choose_device
from cryoloom.runs.progress import Progress
from cryoloom.runs.session import Session

Settings: TypeAlias = ReconstructSettings | HeteroSettings


def start_run(
    settings: Settings,
    output: Path,
    progress: Progress,
    interrupts: Interrupts,
    *,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Check all input, then compute in a new run folder.

    Args:
        settings: of the job; `settings.threads` becomes the number of threads of the numerical libraries. Classes
            without poses (`HeteroSettings.job_of_classes`) are found by `reconstruct --classes`.
        device: "auto", "cpu" or "cuda".
        overwrite: replace an earlier run in `output`.

    Returns:
        The run folder.

    Raises:
        BadInput: for particles that can't be used. BadRunFolder: for a folder that can't be used.
        Stopped, KeyboardInterrupt: when the run was stopped by a signal; the folder can be resumed.
    """
    check_output_folder(output, overwrite)
    set_threads(settings.threads)
    found = choose_device(device, progress.say)
    chosen: Literal["cpu", "cuda"] = "cuda" if found.type == "cuda" else "cpu"
    if isinstance(settings, HeteroSettings):
        settings = settings.job_of_classes or settings
    settings = replace(settings, device=chosen, methods=settings.methods.of(settings.tables))
    if isinstance(settings, ReconstructSettings):
        _check_symmetry(settings)
        _check_classes(settings)
    _check_one_frame(settings)
    particles = open_input(settings.input)
    preprocessing = prepare(particles, settings)
    settings, need = within_memory(settings, particles)
    progress.say(need.said())
    with (
        interrupts,
        RunFolder.create(
            output,
            settings,
            particles.fingerprint(),
            "hetero" if isinstance(settings, HeteroSettings) else settings.job,
            input_path=particles.path,
            seed=settings.seed,
            threads=settings.threads,
            device=chosen,
            argv=tuple(sys.argv),
            input_notes=particles.notes,
            overwrite=layout.RESULTS if overwrite else None,
        ) as folder,
    ):
        return _work(settings, particles, preprocessing, Session(folder, progress, interrupts), folder)


def run_settings(folder: Path) -> Settings:
    """The settings with which a run was started.

    Raises:
        BadRunFolder: if the folder holds no run.
    """
    return read_settings(folder, HeteroSettings if read_record(folder).command == "hetero" else ReconstructSettings)


def continue_run(folder: Path, threads: int, progress: Progress, interrupts: Interrupts) -> Path:
    """Continue an interrupted run; the result equals that of an uninterrupted run.

    Raises:
        BadRunFolder: if there is no run, the run is finished or a class of another, or its input has changed.
            Otherwise as `start_run`.
    """
    settings, whole = run_settings(folder), layout.run_around(folder)
    if whole is not None and FinishedRun(whole).several_molecules:
        raise BadRunFolder(
            f"{folder}: this run is a class of {whole}\n  what to do: continue the whole with cryoloom resume {whole}"
        )
    set_threads(threads)
    if threads != settings.threads:
        progress.say(
            f"{threads} threads instead of {settings.threads}: results are equal up to rounding only", warning=True
        )
    choose_device(settings.device, progress.say)
    particles = open_input(settings.input)
    preprocessing = prepare(particles, settings)
    with (
        interrupts,
        RunFolder.resume(folder, settings, particles.fingerprint(), threads=threads, device=settings.device) as run_,
    ):
        return _work(settings, particles, preprocessing, Session(run_, progress, interrupts), run_)


def _work(
    settings: Settings, particles: ParticleSet, preprocessing: Preprocessing, session: Session, folder: RunFolder
) -> Path:
    verdict: Verdict | MixtureVerdict | None
    if isinstance(settings, HeteroSettings):
        verdict = run_hetero(settings, particles, preprocessing, session)
    elif settings.several_molecules:
        verdict = run_mixture(settings, particles, preprocessing, session)
    else:
        verdict = run(settings, particles, preprocessing, session)
    folder.finish(verdict)
    if verdict is not None:
        with folder.timing("report"):
            runs = (*layout.class_folders(folder.path), folder.path)
            failures = [failure for path in runs for failure in write_report(path)]
        for failure in failures:
            session.say(f"a part of the report could not be drawn: {failure}", warning=True)
        said = mixture_lines(verdict) if isinstance(verdict, MixtureVerdict) else lines(verdict)
        for line in said:  # a result that is not right is worth a warning
            session.say(line, warning=verdict.outcome != "converged")
    session.say(f"Results in {folder.path}" + ("" if verdict is None else f"; open {layout.REPORT.name} first"))
    return folder.path


def _check_symmetry(settings: ReconstructSettings) -> None:
    """Refuse what is no point group, and one that the pose method can't impose."""
    imposed = len(symmetry_group(settings.symmetry)) > 1
    if imposed and settings.job != "refine" and not pose_method(settings.poses).on_axes:
        raise BadInput(
            f"--poses {settings.poses} can't impose a symmetry ({settings.symmetry}): its map lies in any orientation\n"
            "  what to do: run it in C1, or find the poses with another method"
        )


def _check_classes(settings: ReconstructSettings) -> None:
    """Refuse what can't be combined with several molecules."""
    if not settings.several_molecules:
        return
    if settings.classes is not None and settings.classes_from:
        raise BadInput(
            "--classes and --classes-from: the given maps are the classes\n  what to do: leave out --classes"
        )
    if settings.job != "reconstruct":
        raise BadInput(f"several molecules are found without a start, not by {settings.job}")
    most = settings.mixture.most
    if isinstance(settings.classes, int) and not 2 <= settings.classes <= most:
        raise BadInput(f"--classes {settings.classes}: expected 2 to {most}, or auto")
    if settings.flip:
        raise BadInput(
            "--flip with --classes: each class may have either hand\n  what to do: leave it out; afterwards, refine a "
            "class with it"
        )
    if settings.symmetry != "C1":
        raise BadInput(
            f"--classes with --symmetry {settings.symmetry}: the molecules of a mixture may have different symmetries\n"
            "  what to do: leave it out; afterwards, reconstruct the particles of a class with its symmetry"
        )
    if settings.poses != "search":
        raise BadInput(
            f"--classes with --poses {settings.poses}: several molecules are found by search only\n"
            "  what to do: leave out --poses; afterwards, run a class with it"
        )


def _check_one_frame(settings: Settings) -> None:
    """Refuse the poses of a run with several molecules, each of which has a frame of its own."""
    given = settings.start if isinstance(settings, ReconstructSettings) else settings.poses
    folder = Path(settings.input.particles).parent
    if given not in ("poses", "given") or Path(settings.input.particles) != layout.PARTICLES.path(folder):
        return
    if layout.class_folders(folder) and FinishedRun(folder).several_molecules:
        raise BadInput(
            f"{folder}: this run has several molecules, whose poses are in different frames\n"
            f"  what to do: use the run of one class, such as {layout.class_folder(folder, 1)}"
        )
