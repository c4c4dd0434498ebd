"""Single steps on images in memory: open, search, refine, backproject, compare maps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from cryoloom.api.results import FSCCurve, Maps
from cryoloom.inference.poses.given_map import fit_to_images
from cryoloom.inference.poses.global_search import candidates_of, references_of
from cryoloom.inference.poses.global_search import search as search_images
from cryoloom.inference.poses.posed import BATCH, PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import refine_poses
from cryoloom.inference.poses.search import FIRST_SIGMA
from cryoloom.jobs.final_maps import scored_maps
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.band import Band
from cryoloom.maps.fsc import GoldStandard, fourier_shell_correlation
from cryoloom.maps.fsc import gold_standard as gold_standard_fsc
from cryoloom.maps.io import DensityMap
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.particle_set import write_particles as write_file
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.table import ImageResults
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import symmetry_group
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.runs.display import LiveProgress, in_terminal
from cryoloom.runs.loop import Recipe
from cryoloom.runs.progress import Progress, SilentProgress, StepInfo
from cryoloom.runs.seeds import torch_generator
from cryoloom.runs.session import Session

S = TypeVar("S")
R = TypeVar("R")
_SETTINGS = RefineSettings()
_WIDER = 1.5  # radius of each stage of a climb over that of the one before


def open(
    path: Path | str,
    *,
    datadir: Path | str | None = None,
    pixel_size: float | None = None,
    voltage_kv: float | None = None,
    spherical_aberration_mm: float | None = None,
    amplitude_contrast: float | None = None,
    b_factor_sign: Literal["positive", "negative"] = "positive",
    no_ctf: bool = False,
    on_bad: Literal["error", "drop"] = "error",
    on_duplicates: Literal["error", "keep", "drop"] = "error",
) -> ParticleSet:
    """Open a particle file and check everything that can be checked before computing.

    `open(path).images()` gives the images for `search`, `refine` and `backproject`.

    Args:
        path: RELION STAR file.
        datadir: folder that image names are relative to; by default the folder of the file, then those above it.
        pixel_size: pixel size, angstrom; this and the next three values replace those of the file.
        voltage_kv: acceleration voltage, kV.
        spherical_aberration_mm: spherical aberration, mm.
        amplitude_contrast: amplitude contrast, 0 to 1.
        b_factor_sign: sign in the file of the B-factors by which the CTF falls off, "negative" in exports of M.
        no_ctf: treat the images as free of a CTF.
        on_bad: what to do with images that hold NaN or infinities, or have no contrast.
        on_duplicates: what to do with rows that name the same image.

    Raises:
        BadInput: naming file, row, what was found, what was expected and what to do.
    """
    stated = StatedInput(
        datadir=None if datadir is None else str(datadir),
        pixel_size=pixel_size,
        voltage_kv=voltage_kv,
        spherical_aberration_mm=spherical_aberration_mm,
        amplitude_contrast=amplitude_contrast,
        b_factor_sign=b_factor_sign,
        no_ctf=no_ctf,
        on_bad=on_bad,
        on_duplicates=on_duplicates,
    )
    return open_particles(path, stated)


def search(
    images: ImageFeed,
    volume: DensityMap,
    *,
    low_pass: float | None = None,
    candidates: int = 4,
    symmetry: str = "C1",
    quiet: bool = False,
) -> PosePosterior:
    """Search every image against a map over all orientations and shifts.

    Poses lie on a grid of 7.5 degrees; `refine` them next.

    Args:
        images: N images, from `open(...).images()`.
        volume: the map; it is brought to the images' field of view and scale, and low-pass filtered to the resolution
            of the search.
        low_pass: resolution of the search, angstrom; by default the particle's diameter / 12.
        candidates: number of distinct poses kept for each image, K.
        symmetry: point group of the map about the standard axes; its copies of a pose count as one.
        quiet: show no progress in a terminal.

    Returns:
        K weighted poses of each image, best first, on the CPU.

    Raises:
        BadInput: if the map does not fit the images' field of view.
    """
    level = images.radius_of(_SETTINGS.fine_levels[-1])
    radius = level if low_pass is None else images.field_of_view / low_pass
    fitted = fit_to_images(images, volume, radius, _warn)
    radius = Band.of_box(fitted.shape[-1]).radius
    group = symmetry_group(symmetry).float()
    references = references_of(images, fitted, _SETTINGS.coarse_level, radius, group)
    sigma = FIRST_SIGMA * images.field_of_view
    parts = []
    for rows in _batches(images, "search", quiet):
        found = search_images(images, images.images(rows, radius, images.noise), references, sigma)
        best = candidates_of(
            images, [found], radius=radius, sigma_angstrom=sigma, count=candidates, group=group.to(images.device)
        )
        parts.append(best.to(torch.device("cpu")))
    return PosePosterior.joined(parts).top(candidates)


def refine(
    images: ImageFeed,
    volume: DensityMap,
    poses: PosePosterior | None = None,
    *,
    low_pass: float | None = None,
    symmetry: str = "C1",
    quiet: bool = False,
) -> PosePosterior:
    """Refine poses against a map that stays as it is, by Levenberg-Marquardt on every candidate.

    The resolution of the comparison grows in stages from the particle's diameter / 7.5 to that of the map.

    Args:
        images: N images, as for `search`.
        volume: the map, as for `search`.
        poses: candidates of each image; by default those of `search`.
        low_pass: finest resolution of the comparison, angstrom; by default that of the map's grid. Give the resolution
            of the map if it is noisy beyond.
        symmetry: point group of the map about the standard axes.
        quiet: show no progress in a terminal.

    Returns:
        The candidates at their optima, best first, weighted by their evidence, with the covariance of each.

    Raises:
        BadInput: if the map does not fit the images' field of view.
    """
    if poses is None:
        poses = search(images, volume, symmetry=symmetry, quiet=quiet)
    _check_count(images, poses)
    last = (images.box - 1) // 2 if low_pass is None else images.field_of_view / low_pass
    fitted = fit_to_images(images, volume, last, _warn)
    last = Band.of_box(fitted.shape[-1]).radius
    radii = [min(last, images.radius_of(_SETTINGS.fine_levels[0]))]
    while radii[-1] < last:
        radii.append(min(last, round(_WIDER * radii[-1])))
    grids = [volume_to_half(rebox(fitted, Band(radius).box)) for radius in radii]
    sigma = max(float(poses.best()[1].square().mean().sqrt()), images.pixel_size)
    group = symmetry_group(symmetry).float().to(images.device)
    parts = []
    for rows in _batches(images, "refine", quiet):
        mine = poses.rows(torch.from_numpy(rows)).to(images.device)
        batch = images.images(rows, last, images.noise)
        for radius, grid in zip(radii, grids, strict=True):
            steps = _SETTINGS.climb_steps
            mine = refine_poses(grid, batch.prefix(radius), mine, sigma, steps, group=group).posterior
        parts.append(mine.to(torch.device("cpu")))
    count = max(part.log_weight.shape[1] for part in parts)
    return PosePosterior.joined([part.top(count) for part in parts])


def backproject(
    images: ImageFeed,
    poses: PosePosterior,
    *,
    half_sets: np.ndarray | None = None,
    mask: DensityMap | None = None,
    symmetry: str = "C1",
    seed: int = 1,
) -> Maps:
    """Reconstruct a map and two half maps from images at known or weighted poses.

    Images are inserted at every candidate with its weight, over the width of the posterior where its covariance is
    known. The FSC is gold-standard only if the poses of the two half sets were found on independent maps. Poses that
    were found on one map make the half maps agree, in their noise too, up to the resolution of that map.

    Args:
        images: N images.
        poses: poses of the same N images.
        half_sets: [N] of 1 and 2; by default those of the particle file, or alternating ones where it has none.
        mask: soft mask of the FSC, in the images' box; by default found from the map.
        symmetry: point group that is imposed.
        seed: seed of the random phases of the FSC, and of the samples of the posteriors.

    Raises:
        ValueError: if the poses are of other images, or a half set is empty.
    """
    _check_count(images, poses)
    if half_sets is None:
        half_sets = images.source.particles.half_sets()
    half = np.arange(len(images)) % 2 if half_sets is None else np.asarray(half_sets) - 1
    sigma = max(float(poses.best()[1].square().mean().sqrt()), images.pixel_size)
    posed = PosedImages(images, poses, half, noise=images.noise, sigma_angstrom=sigma)
    samples, rough, final = (torch_generator(seed, "backproject", part) for part in ("samples", "rough", "final"))
    sums = posed.sums((images.box - 1) // 2, symmetry_group(symmetry).float().to(images.device), samples)
    found = scored_maps(images, sums, rough, final, None if mask is None else mask.data)
    one, two, both, soft = (
        DensityMap(v.float(), images.pixel_size) for v in (*found.halves, found.combined, found.mask)
    )
    return Maps(map=both, half_maps=(one, two), mask=soft, fsc=found.gold)


def fsc(first: DensityMap, second: DensityMap, *, mask: DensityMap | None = None) -> FSCCurve:
    """Fourier shell correlation of two maps of the same box and pixel size.

    Args:
        first: a map.
        second: a map in the same frame.
        mask: soft mask, 0 to 1, applied to both.

    Raises:
        ValueError: for maps that are not cubes of one size.
    """
    soft = 1.0 if mask is None else mask.data.double()
    curve = fourier_shell_correlation(first.data.double() * soft, second.data.double() * soft)
    return FSCCurve(curve, len(first.data), first.pixel_size)


def gold_standard(half1: DensityMap, half2: DensityMap, mask: DensityMap, *, seed: int = 1) -> GoldStandard:
    """Gold-standard FSC of two half maps, corrected for the mask by phase randomisation (Chen et al. 2013).

    Args:
        half1: half map of one half set, unfiltered.
        half2: half map of the other half set, found independently.
        mask: soft mask, 0 to 1.
        seed: seed of the random phases.

    Raises:
        ValueError: for maps that are not cubes of one size, or an empty mask.
    """
    generator = torch_generator(seed, "gold standard")
    return gold_standard_fsc(half1.data, half2.data, mask.data, half1.pixel_size, generator)


def run(recipe: Recipe[S, R], *, quiet: bool = False) -> R:
    """Run a recipe in memory, without a run folder, to its result.

    Args:
        recipe: a method as a sequence of steps, such as `cryoloom.recipes.AbInitRecipe`.
        quiet: show no progress in a terminal.
    """
    with _display(quiet) as progress:
        return Session.in_memory(progress).run(recipe)


def write_particles(path: Path | str, images: ImageFeed, poses: PosePosterior) -> None:
    """Write a RELION 3.1 STAR file: every column and row of the images' particle file, with their best poses.

    Raises:
        BadInput: if the file can't be written. ValueError: if the poses are of other images.
    """
    _check_count(images, poses)
    R, t = poses.best()
    results = ImageResults(R=R.double().cpu().numpy(), t=t.double().cpu().numpy())
    write_file(path, images.source.particles, results)


def _check_count(images: ImageFeed, poses: PosePosterior) -> None:
    if len(poses) != len(images):
        raise ValueError(f"poses of {len(poses)} images for {len(images)} images; expected those of the same images")


def _batches(images: ImageFeed, stage: str, quiet: bool) -> Iterator[np.ndarray]:
    """Rows of all images batch by batch, with a bar on stderr if that is a terminal."""
    with _display(quiet) as progress:
        starts = range(0, len(images), BATCH)
        progress.begin(stage, 0)
        for step, start in enumerate(starts, start=1):
            yield np.arange(start, min(start + BATCH, len(images)))
            ahead = float(len(starts) - step)
            progress.update(StepInfo(stage, step, total=len(starts), cost=1.0, cost_ahead=ahead))
        progress.end(stage)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)  # the line that called search or refine


@contextmanager
def _display(quiet: bool) -> Iterator[Progress]:
    if quiet or not in_terminal():
        yield SilentProgress()
        return
    with LiveProgress() as live:
        yield live
