"""Whole jobs from Python: the same runs, folders and reports as from the command line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cryoloom.api import runs
from cryoloom.environment import set_threads
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.presets import chosen_settings
from cryoloom.jobs.settings import HeteroSettings, InputSettings, ReconstructSettings
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.recipes.methods.registry import conformation_method, pose_method
from cryoloom.runs import layout
from cryoloom.runs.display import announce, open_progress
from cryoloom.runs.interrupts import Interrupts, Stopped
from cryoloom.runs.machine import memory_of
from cryoloom.runs.progress import Progress
from cryoloom.simulation.dataset import SimulationSummary, simulate_dataset
from cryoloom.simulation.states import StateGeometry, load_states, sources_of
from cryoloom.simulation.truth import SimulationSettings

Source = str | os.PathLike[str]
Device = Literal["auto", "cpu", "cuda"]


def reconstruct(
    particles: Source | ParticleSet,
    output: Source,
    *,
    poses: str | None = None,
    start: Source | Literal["poses"] | None = None,
    low_pass: float | None = None,
    classes: int | Literal["auto"] | None = None,
    classes_from: Sequence[Source] = (),
    symmetry: str = "C1",
    flip: bool = False,
    particle_diameter: float | None = None,
    box: int | None = None,
    preset: str | None = None,
    seed: int = 1,
    device: Device = "auto",
    threads: int | None = None,
    memory: str | float | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> FinishedRun:
    """Reconstruct a map: from particles to poses, a gold-standard map and a verdict, as `cryoloom reconstruct` does.

    Ctrl-C stops the run at a checkpoint and raises KeyboardInterrupt; `resume(output)` continues it.

    Args:
        particles: RELION STAR file, or what `open` returned.
        output: folder of the run; it must be new or empty, unless `overwrite` is set.
        poses: how poses are found without a starting model: "search" (by default), "hybrid", "amortized", or another
            registered pose method.
        start: refine from the poses in the particle file ("poses") or from a map (its path) instead.
        low_pass: resolution to which a map given as `start` is low-pass filtered, angstrom; by default the particle
            diameter / 7.5.
        classes: number of molecules in the images, or "auto" if it is to be found: each becomes a run of its own
            (`FinishedRun.molecules`). None, by default, for one molecule.
        classes_from: maps from which classes start instead, of any scale; some may be of molecules that are not there.
        symmetry: point group: C1, Cn, Dn, T, O or I. Its axes are found on the map of ab initio; a `start` must be on
            the standard axes.
        flip: give the other hand: maps and poses are mirrored.
        particle_diameter: longest extent of the particle, angstrom; estimated by default.
        box: working box in pixels; by default that of the images.
        preset: settings file, whose values replace the defaults: the name of a preset, or the path of a TOML file.
        seed: random seed; the same seed, number of threads and memory give the same result on a CPU.
        device: where to compute; "auto" takes a GPU if there is one.
        threads: number of threads; by default all cores that this process may use.
        memory: what the run may use for one map (an estimate), such as "8G", or in bytes: as many images as fit are
            kept. By default, what is needed to keep up to 1 GiB of images. A run that does not fit is refused.
        overwrite: replace an earlier run in `output`.
        quiet: print nothing but warnings; otherwise progress is shown on stderr.
        options: settings of the pose method, by name, as `restarts=2`.

    Raises:
        BadInput, BadRunFolder: for particles or a folder that can't be used. KeyboardInterrupt: see above.
    """
    settings = ReconstructSettings(
        input=_input(particles),
        job="reconstruct" if start is None else "refine",
        start="poses" if start == "poses" else None if start is None else os.path.abspath(start),
        low_pass_angstrom=low_pass,
        classes=classes,
        classes_from=tuple(os.path.abspath(name) for name in classes_from),
        symmetry=symmetry,
        flip=flip,
        particle_diameter_angstrom=particle_diameter,
        box=box,
        memory_bytes=None if memory is None else memory_of(memory),
        seed=seed,
    )
    settings = chosen_settings(settings, preset, poses=poses)
    chosen = settings.methods.with_options(pose_method(settings.poses).settings, options)
    settings = replace(settings, methods=chosen)
    return _started(settings, output, device=device, threads=threads, overwrite=overwrite, quiet=quiet)


def hetero(
    particles: Source | ParticleSet,
    output: Source,
    *,
    method: str | None = None,
    poses: str | None = None,
    mask: Source | None = None,
    particle_diameter: float | None = None,
    box: int | None = None,
    preset: str | None = None,
    seed: int = 1,
    device: Device = "auto",
    threads: int | None = None,
    memory: str | float | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> FinishedRun:
    """Find the conformations of particles, as `cryoloom hetero` does.

    Args:
        particles: particles (STAR file, or what `open` returned), with poses unless `poses` says how to find them; or
            the folder of a finished run.
        method: "pca" (by default) for components around a mean, "classes" for discrete classes, "vae" or "autodecoder"
            for networks, or another registered method.
        poses: "given" (by default) takes the poses of the particle file; "search" or another pose method finds poses
            on one map first, then poses and conformations are found in turns. The method "classes" with "search" is
            `reconstruct` with `classes`, where each class becomes a run of its own.
        mask: mask (0 to 1) within which conformations may differ; by default a sphere.
        options: settings of the conformation method, by name, as `classes=4` or `epochs=10`.

    The other arguments, Ctrl-C and errors are those of `reconstruct`.
    """
    settings = HeteroSettings(
        input=_input(particles),
        mask=None if mask is None else os.path.abspath(mask),
        particle_diameter_angstrom=particle_diameter,
        box=box,
        memory_bytes=None if memory is None else memory_of(memory),
        seed=seed,
    )
    settings = chosen_settings(settings, preset, method=method, poses=poses)
    chosen = settings.methods.with_options(conformation_method(settings.method).settings, options)
    settings = replace(settings, methods=chosen)
    return _started(settings, output, device=device, threads=threads, overwrite=overwrite, quiet=quiet)


def resume(folder: Source, *, threads: int | None = None, quiet: bool = False) -> FinishedRun:
    """Continue an interrupted run; the result equals that of an uninterrupted run.

    Args:
        folder: folder of the run.
        threads: number of threads; by default that of the run, with which the result is equal bit by bit.
        quiet: print nothing but warnings.

    Raises:
        BadRunFolder: if there is no run, the run is finished, or its input has changed.
        KeyboardInterrupt: see `reconstruct`.
    """
    path = Path(folder)
    count = runs.run_settings(path).threads if threads is None else threads
    return _carried_out(quiet, lambda progress, interrupts: runs.continue_run(path, count, progress, interrupts))


def open_run(folder: Source) -> FinishedRun:
    """Open a run folder: record, verdict, particles, maps and latents, each read when it is first asked for.

    Raises:
        BadRunFolder: if the folder holds no run of this version.
    """
    return FinishedRun(Path(folder))


def simulate(
    source: Source | Sequence[Source] | None = None,
    *,
    output: Source,
    count: int = 5000,
    snr: float = 0.1,
    box: int | None = None,
    pixel_size: float | None = None,
    shares: Sequence[float] = (),
    seed: int = 1,
    settings: SimulationSettings | None = None,
    overwrite: bool = False,
) -> SimulationSummary:
    """Simulate a particle set with known truth.

    Args:
        source: atomic model (.pdb, .cif), trajectory (.npz; its first frame is used) or map (.mrc); several are
            states of one molecule. By default an antibody that comes with the package (64 px of 4 angstrom).
        output: folder that gets particles.star, particles.mrcs and, apart from them, truth.star and true maps.
        count: number of images.
        snr: variance of the clean, CTF-modulated image over that of the noise, over the whole box.
        box: side of the images, pixels.
        pixel_size: pixel size, angstrom.
        shares: share of each state; equal by default.
        seed: random seed.
        settings: all other settings (CTF, shifts, nuisances); `count`, `snr`, `shares` and `seed` replace theirs.
        overwrite: replace an earlier set in `output`.

    Raises:
        ValueError: for settings that make no sense or a folder that can't be used.
    """
    chosen = replace(settings or SimulationSettings(), count=count, snr=snr, seed=seed, shares=tuple(shares))
    if source is None:
        from cryoloom.simulation.dataset import DEMO_PIXEL_SIZE
        from cryoloom.simulation.states import model_state
        from cryoloom.simulation.structure import load_embedded_structure

        geometry = StateGeometry(box=box or 64, pixel_size=pixel_size or DEMO_PIXEL_SIZE)
        states = (model_state(load_embedded_structure(), geometry),)
    else:
        listed = [source] if isinstance(source, str | os.PathLike) else list(source)
        sources = sources_of([Path(name) for name in listed], "0")
        states = load_states(sources, StateGeometry(box=box, pixel_size=pixel_size))
    return simulate_dataset(states, chosen, Path(output), overwrite=overwrite)


def _input(particles: Source | ParticleSet) -> InputSettings:
    if isinstance(particles, ParticleSet):
        return InputSettings(os.path.abspath(particles.path), particles.stated)
    return InputSettings(os.path.abspath(layout.particles_of(Path(particles))))


def _started(
    settings: runs.Settings, output: Source, *, device: str, threads: int | None, overwrite: bool, quiet: bool
) -> FinishedRun:
    settings = replace(settings, threads=set_threads(threads))
    path = Path(output)
    return _carried_out(
        quiet,
        lambda progress, interrupts: runs.start_run(
            settings, path, progress, interrupts, device=device, overwrite=overwrite
        ),
    )


def _carried_out(quiet: bool, work: Callable[[Progress, Interrupts], Path]) -> FinishedRun:
    """The result of a run; Ctrl-C stops it at a checkpoint."""
    with open_progress(quiet) as progress:
        try:
            folder = work(progress, Interrupts(announce, end_stages=False))
        except Stopped as stopped:
            if stopped.signal_number != signal.SIGINT:
                raise
            raise KeyboardInterrupt("\n".join([str(stopped), *getattr(stopped, "__notes__", [])])) from stopped
    return FinishedRun(folder)
