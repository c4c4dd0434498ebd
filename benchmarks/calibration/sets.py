"""Sets of the calibration: made with the shared folder's tools (needs RELION), filtered where a case asks for it."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

from bench import SHARED_BENCH, run_measured
from calibration.molecules import Molecule
from calibration.plan import Case

MODELS = SHARED_BENCH.parent / "data" / "models"
WIDER = 1.5  # box from which wide sets are cut, in final boxes
CLEAN_SNR = 1e6  # of sets to which real_like.py adds noise
LEAST_GAIN = 0.02  # of the filters: no frequency is lost altogether


class SetFailed(RuntimeError):
    """A tool that makes sets has failed; the message has the end of its output."""


def make_case(case: Case, folder: Path, maps: Path) -> float:
    """Make the set of a case in `folder`: particles.star, truth.star, truth_001.mrc ...; CPU-seconds used.

    Args:
        maps: where maps of molecules are kept between cases.

    Raises:
        SetFailed: if a tool fails.
    """
    box = round(WIDER * case.box) if case.wide else case.box
    pixel = round(case.side / case.box, 4)
    found = [density(m, box, pixel, case.b, maps) for m in case.structures]
    spent = sum(cpu_s for _, cpu_s in found)
    first = folder / "clean" if case.wide else folder
    spent += _tool("simulate.py", [first, *(path for path, _ in found), *simulate_options(case)], folder)
    if case.wide:
        options = ["--snr", case.snr, "--crop", case.box, "--seed", case.seed, *_nuisance_options(case)]
        spent += _tool("real_like.py", [first, folder, *options], folder)
        for path in first.iterdir():
            path.unlink()
        first.rmdir()
    if case.denoising != "none":
        denoise(folder / "particles.mrcs", case)
    return spent


def simulate_options(case: Case) -> list[object]:
    """Options of simulate.py."""
    words: list[object] = ["-n", case.images, "--snr", CLEAN_SNR if case.wide else case.snr, "--seed", case.seed]
    words += ["--shift", case.shift, "--preferred", case.preferred]
    if case.junk:
        words += ["--junk", case.junk, "--junk-images", case.junk_images]
    if len(case.shares) > 1:
        words += ["--shares", *case.shares]
    if case.kind == "noise":
        words.append("--noise-only")
    return words if case.wide else words + _nuisance_options(case)


def _nuisance_options(case: Case) -> list[object]:
    return [word for name, value in case.nuisances for word in (f"--{name}", value)]


def density(molecule: Molecule, box: int, pixel: float, b: float, maps: Path) -> tuple[Path, float]:
    """Map of a molecule, made if it is not there, and the CPU-seconds for it; safe where others make the same one."""
    made_by = [molecule.source, *molecule.options(b)]
    path = maps / f"{molecule.name}-{box}-{pixel}-{hashlib.sha1(' '.join(made_by).encode()).hexdigest()[:8]}.mrc"
    if path.exists():
        return path, 0.0
    maps.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=maps) as scratch:
        part = Path(scratch) / path.name
        words = [MODELS / molecule.source, part, "--box", box, "--pixel", pixel, *molecule.options(b)]
        spent = _tool("make_map.py", words, Path(scratch))
        os.replace(part, path)
    return path, spent


def _tool(name: str, words: list[object], folder: Path) -> float:
    """Run a tool of the shared folder; its CPU-seconds."""
    log = folder / f"{name}.log"
    spent = run_measured([sys.executable, SHARED_BENCH / name, *(str(w) for w in words)], log)
    if spent.returncode:
        raise SetFailed(f"{name} ended with {spent.returncode}:\n{log.read_text(errors='replace')[-1500:]}")
    return spent.cpu_s


def denoise(stack: Path, case: Case) -> None:
    """Filter the images of a stack in place, so that their noise is no longer white."""
    with mrcfile.open(stack, mode="r+") as m:
        images = np.asarray(m.data)
        gain = lowpass(case.box, case.cutoff) if case.denoising == "lowpass" else wiener(images)
        m.set_data(np.fft.irfft2(np.fft.rfft2(images) * gain, s=images.shape[1:]).astype(np.float32))


def lowpass(box: int, cutoff: float) -> np.ndarray:
    """Butterworth filter [box, box // 2 + 1], its cutoff in parts of the Nyquist frequency."""
    return np.maximum(1 / (1 + (_radii(box) / (cutoff * box / 2)) ** 8), LEAST_GAIN)


def wiener(images: np.ndarray) -> np.ndarray:
    """Wiener filter [box, box // 2 + 1] from the mean power of images [N, box, box] by shell; the noise is taken to be
    white, at the power of the outermost quarter of shells."""
    box = images.shape[-1]
    shell = np.minimum(np.rint(_radii(box)).astype(int), box // 2)
    power = (np.abs(np.fft.rfft2(images[:500])) ** 2).mean(0)
    by_shell = np.bincount(shell.ravel(), power.ravel()) / np.bincount(shell.ravel())
    noise = np.median(by_shell[3 * box // 8 :])
    return np.maximum(1 - noise / by_shell, LEAST_GAIN)[shell]


def _radii(box: int) -> np.ndarray:
    """Radius of each frequency of rfft2, in Fourier pixels."""
    return box * np.hypot(np.fft.fftfreq(box)[:, None], np.fft.rfftfreq(box)[None])
