"""Simulation of a particle set with known truth, written to disk batch by batch.

Images follow the image model: Y(k) = C(k) e^{-2 pi i k.t} V(R k) + n(k) in the box. The CTF is applied in the box
itself, as reconstruction programs assume, so signal delocalised beyond one edge wraps around to the other.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

import cryoloom
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.simulation.images import ImageSource
from cryoloom.simulation.output import PixelSums, StackWriter, write_truth
from cryoloom.simulation.states import StateGeometry, model_state
from cryoloom.simulation.structure import load_embedded_structure
from cryoloom.simulation.truth import SimulationSettings, draw_truth

DEMO_PIXEL_SIZE = 4.0


@dataclass(frozen=True, slots=True)
class SimulationSummary:
    """Summary of a simulated set.

    Attributes:
        folder: folder with particles.mrcs, particles.star, truth.star, truth_NNN.mrc and simulate.json.
        count, box, pixel_size: number, box and pixel size of the images.
        per_state: number of images of each state.
        junk: number of images without a molecule.
        scale: factor on the maps by which the noise has standard deviation 1.
        snr_measured: mean variance of the signal of molecules in an image, with its contrast, over all images.
    """

    folder: Path
    count: int
    box: int
    pixel_size: float
    per_state: tuple[int, ...]
    junk: int
    scale: float
    snr_measured: float


def simulate_dataset(
    states: tuple[DensityMap, ...],
    settings: SimulationSettings,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda images: None,
) -> SimulationSummary:
    """Simulates `settings.count` images of the states; writes them, and their truth to separate files.

    Memory does not grow with the number of images, except for a few numbers per image. Equal arguments give equal bytes
    on the CPU.

    Args:
        states: maps of one box and pixel size.
        folder: created if missing.
        device: device on which images are computed.
        overwrite: replace an existing set.
        progress: called with the number of images written since the last call.

    Raises:
        ValueError: for impossible settings, maps on different grids, or a folder that holds a set or has too little
            space.
    """
    settings.check(len(states))
    box, pixel_size = _common_grid(states)
    _prepare_folder(folder, settings, box, overwrite)
    truth = draw_truth(settings, len(states), pixel_size, np.random.default_rng(settings.seed))
    if settings.noise_only:
        truth = replace(truth, state=np.zeros_like(truth.state))
    source = ImageSource(states, truth, settings, torch.device(device))
    with StackWriter(folder / "particles.mrcs", len(truth), box, pixel_size, settings.dtype) as stack:
        _write_behind(source.batches(), stack, progress)
    for stale in folder.glob("truth_*.mrc"):
        stale.unlink()
    for i, state in enumerate(() if settings.noise_only else states):
        write_map(folder / f"truth_{i + 1:03d}.mrc", replace(state, data=state.data.cpu() * source.scale))
    write_truth(folder / "truth.star", truth, box, pixel_size, "particles.mrcs", with_poses=True)
    write_truth(folder / "particles.star", truth, box, pixel_size, "particles.mrcs", with_poses=False)
    counts = np.bincount(truth.state, minlength=len(states) + 1).tolist()
    summary = SimulationSummary(
        folder=folder,
        count=len(truth),
        box=box,
        pixel_size=pixel_size,
        per_state=tuple(counts[1:]),
        junk=counts[0],
        scale=source.scale,
        snr_measured=source.measured_snr,
    )
    _write_record(folder / "simulate.json", settings, summary)
    return summary


def simulate_demo(
    folder: Path,
    count: int = 3000,
    seed: int = 1,
    *,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda images: None,
) -> SimulationSummary:
    """Simulates the embedded structure, an antibody: 64 px at 4 A, SNR 0.1; needs no files and is solved in seconds."""
    state = model_state(load_embedded_structure(), StateGeometry(box=64, pixel_size=DEMO_PIXEL_SIZE))
    settings = SimulationSettings(count=count, seed=seed)
    return simulate_dataset((state,), settings, folder, device=device, overwrite=overwrite, progress=progress)


def _common_grid(states: tuple[DensityMap, ...]) -> tuple[int, float]:
    shapes = {tuple(state.data.shape) for state in states}
    pixels = {round(state.pixel_size, 4) for state in states}
    if len(shapes) != 1 or len(pixels) != 1 or len(set(next(iter(shapes)))) != 1:
        raise ValueError(f"states have shapes {sorted(shapes)} and pixels {sorted(pixels)}; expected cubes of one grid")
    return next(iter(shapes))[0], states[0].pixel_size


def _prepare_folder(folder: Path, settings: SimulationSettings, box: int, overwrite: bool) -> None:
    if (folder / "particles.star").exists() and not overwrite:
        raise ValueError(f"{folder}: holds a particle set; choose another folder, or ask to overwrite it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: can't be made ({error.strerror}); choose another folder") from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder}: is not writable; choose another folder")
    needed = settings.count * box**2 * np.dtype(settings.dtype).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f"{folder}: the stack needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room")


def _write_behind(
    batches: Iterator[tuple[np.ndarray, np.ndarray, PixelSums]], stack: StackWriter, progress: Callable[[int], None]
) -> None:
    """Iterates over batches, computing the next one while one is written."""
    with ThreadPoolExecutor(1) as pool:
        pending: Future[None] | None = None
        for rows, images, sums in batches:
            if pending is not None:
                pending.result()
            pending = pool.submit(stack.write, rows, images, sums)
            progress(len(rows))
        if pending is not None:
            pending.result()


def _write_record(path: Path, settings: SimulationSettings, summary: SimulationSummary) -> None:
    record = {
        "cryoloom_version": cryoloom.__version__,
        "settings": asdict(settings),
        "box": summary.box,
        "pixel_size_angstrom": summary.pixel_size,
        "images_per_state": summary.per_state,
        "junk": summary.junk,
        "map_scale": summary.scale,
        "snr_measured": summary.snr_measured,
        "snr_definition": "mean per-image variance of the clean, CTF-modulated images of molecules over the whole box, "
        "over the variance of the noise; snr_measured includes the per-image contrast",
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
