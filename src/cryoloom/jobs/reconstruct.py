"""The main job from opened particles to a filled run folder: stages, final maps, verdict, files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.files.durable import write_durably
from cryoloom.inference.poses.encoder_file import to_bytes
from cryoloom.inference.poses.frames import HALF_TURN
from cryoloom.inference.poses.grids import cached_rotation_grid
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.jobs import layout
from cryoloom.jobs.chimerax import write_chimerax_script
from cryoloom.jobs.final_maps import FITTING_MISFIT, FinalMaps, final_maps
from cryoloom.jobs.settings import HeteroSettings, InputSettings, ReconstructSettings
from cryoloom.jobs.verdict import Evidence, Verdict, judge
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.align import apply_rigid, mirrored
from cryoloom.maps.backprojection import particle_mask
from cryoloom.maps.band import Band
from cryoloom.maps.io import DensityMap, read_map, write_map
from cryoloom.maps.symmetry import find_axes, impose
from cryoloom.particles.batches import ParticleSource
from cryoloom.particles.errors import BadInput
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.input_poses import pose_columns
from cryoloom.particles.particle_set import ParticleSet, open_particles, write_particles
from cryoloom.particles.preprocess import Preprocessing, measure
from cryoloom.particles.stated import StatedInput
from cryoloom.physics.fourier import pad_real, rebox, resize_real
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import symmetry_group
from cryoloom.recipes.abinit import FIRST_SIGMA, AbInitRecipe, AbInitResult
from cryoloom.recipes.amortized import AmortizedRecipe
from cryoloom.recipes.refine import (
    RefineRecipe,
    RefineSettings,
    RefineState,
    angular_error_degrees,
    maps_of_poses,
    shift_error_angstrom,
)
from cryoloom.recipes.wake_sleep import WakeSleepRecipe
from cryoloom.runs.folder import RunFolder
from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.loop import run_recipe, torch_generator
from cryoloom.runs.progress import Progress

STAGE_INDEX = 3  # of what happens around the stages


@dataclass(frozen=True)
class Start:
    """What refinement begins with.

    Attributes:
        maps: [m, m, m], one a half; noise: [G, S]; sigma_angstrom: of shifts.
        poses, half: given ones or None; spread: whether they are inserted over their width (see `RefineRecipe`).
        abinit: how the map came about, None if it was given; symmetry_score: of the map, None in C1.
    """

    maps: tuple[Tensor, Tensor]
    noise: Tensor
    sigma_angstrom: float
    poses: PosePosterior | None
    half: np.ndarray | None
    abinit: AbInitResult | None
    symmetry_score: float | None
    spread: bool | None = None


def open_input(settings: InputSettings) -> ParticleSet:
    """The particles of a run.

    Raises:
        BadInput: as `open_particles`.
    """
    s = settings
    stated = StatedInput(
        datadir=s.datadir,
        pixel_size=s.pixel_size,
        voltage_kv=s.voltage_kv,
        spherical_aberration_mm=s.spherical_aberration_mm,
        amplitude_contrast=s.amplitude_contrast,
        no_ctf=s.no_ctf,
        on_bad=s.on_bad,
        on_duplicates=s.on_duplicates,
    )
    return open_particles(s.particles, stated)


def prepare(particles: ParticleSet, settings: ReconstructSettings | HeteroSettings) -> Preprocessing:
    """Contrast, diameter and noise of the set, from a sample of its images."""
    return measure(
        particles,
        particle_diameter_angstrom=settings.particle_diameter_angstrom,
        box=settings.box,
        generator=torch_generator(settings.seed, STAGE_INDEX, 0),
    )


def make_feed(particles: ParticleSet, preprocessing: Preprocessing, settings: ReconstructSettings) -> ImageFeed:
    """The images on their way to the kernels."""
    disc = FourierDisc.create(preprocessing.box, preprocessing.pixel_size)
    source = ParticleSource(particles, preprocessing, disc, settings.cache_bytes)
    return ImageFeed(source, torch.device(settings.device))


@dataclass(frozen=True)
class Reconstruction:
    """What the main job ends with."""

    start: Start
    state: RefineState
    maps: FinalMaps
    verdict: Verdict


def run(
    settings: ReconstructSettings,
    particles: ParticleSet,
    preprocessing: Preprocessing,
    folder: RunFolder,
    progress: Progress,
    interrupts: Interrupts,
    *,
    seconds: float = 10.0,
) -> Verdict | None:
    """Carry out the job within an open run folder, resuming what is done; None for ab initio alone.

    Args:
        seconds: of wall time between checkpoints; 0 saves after every step.
    """
    feed = make_feed(particles, preprocessing, settings)
    for said in (*particles.notes, *preprocessing.said):
        progress.say(said)
    if settings.job == "abinit":
        start = _start(settings, feed, folder=folder, progress=progress, interrupts=interrupts, seconds=seconds)
        _write_abinit(layout.MAP.path(folder.path), start.maps[0], feed, settings.flip)
        write_chimerax_script(folder.path)
        return None
    return reconstruct(settings, feed, folder, progress, interrupts, seconds=seconds).verdict


def reconstruct(
    settings: ReconstructSettings,
    feed: ImageFeed,
    folder: RunFolder,
    progress: Progress,
    interrupts: Interrupts,
    *,
    seconds: float = 10.0,
) -> Reconstruction:
    """All stages up to maps, poses and verdict, which are written into the run folder."""
    start = _start(settings, feed, folder=folder, progress=progress, interrupts=interrupts, seconds=seconds)
    recipe = RefineRecipe(
        feed=feed,
        settings=_polish(settings),
        seed=settings.seed,
        start=start.maps,
        noise=start.noise,
        sigma_angstrom=start.sigma_angstrom,
        symmetry=settings.symmetry,
        poses=start.poses,
        half=start.half,
        spread=start.spread,
    )
    state = run_recipe(recipe, folder, progress, interrupts, seconds=seconds)
    return conclude(settings, feed, start, state, folder)


def conclude(
    settings: ReconstructSettings, feed: ImageFeed, start: Start, state: RefineState, folder: RunFolder
) -> Reconstruction:
    """Maps and verdict of poses that stay as they are, written into the run folder."""
    with folder.timing("maps"):
        maps = final_maps(feed, state, settings.symmetry, settings.seed)
        verdict = judge(_evidence(feed, state, maps, start, settings))
        _write_maps(folder, maps, feed.pixel_size, settings.flip)
        write_particles(
            layout.PARTICLES.path(folder.path), feed.source.particles, particle_columns(state, settings.flip)
        )
    return Reconstruction(start, state, maps, verdict)


def _polish(settings: ReconstructSettings) -> RefineSettings:
    """Refinement as asked for; of amortised poses that are to stay, one pass that weighs and inserts them."""
    if settings.poses == "amortized" and not settings.amortized.polish:
        return replace(settings.refine, most_iterations=1, least_iterations=1, climb_steps=0)
    return settings.refine


def _start(
    settings: ReconstructSettings,
    feed: ImageFeed,
    folder: RunFolder,
    progress: Progress,
    interrupts: Interrupts,
    seconds: float,
) -> Start:
    if settings.job == "refine":
        return _given_start(settings, feed)
    if settings.poses == "amortized" and settings.job == "reconstruct":
        return _amortized_start(
            settings, feed, folder=folder, progress=progress, interrupts=interrupts, seconds=seconds
        )
    sketch = layout.ABINIT_MAP.path(folder.path)
    recipe = AbInitRecipe(
        feed, settings.abinit, settings.seed, lambda volume: _write_abinit(sketch, volume, feed, settings.flip)
    )
    result = recipe.result(run_recipe(recipe, folder, progress, interrupts, seconds=seconds))
    volume, score = _on_axes(result.volume, feed, settings.symmetry, result.radius)
    _write_abinit(sketch, volume, feed, settings.flip)
    start = Start(
        maps=(volume, volume),
        noise=result.noise,
        sigma_angstrom=result.sigma_angstrom,
        poses=None,
        half=None,
        abinit=result,
        symmetry_score=score,
    )
    if settings.poses == "search" or settings.job == "abinit":
        return start
    wake_sleep = WakeSleepRecipe(
        feed=feed,
        settings=settings.wake_sleep,
        seed=settings.seed,
        volume=volume,
        noise=result.noise,
        sigma_angstrom=result.sigma_angstrom,
    )
    state = run_recipe(wake_sleep, folder, progress, interrupts, seconds=seconds)
    with folder.timing("proposals"):
        poses = wake_sleep.proposals(state)
    write_durably(layout.ENCODER.path(folder.path), to_bytes(wake_sleep.encode))
    return replace(start, maps=(state.volume, state.volume), poses=poses, spread=True)


def _amortized_start(
    settings: ReconstructSettings,
    feed: ImageFeed,
    folder: RunFolder,
    progress: Progress,
    interrupts: Interrupts,
    seconds: float,
) -> Start:
    """Networks learnt from the images alone; both halves start from their volume and their poses."""
    recipe = AmortizedRecipe(feed, settings.amortized, settings.seed)
    state = run_recipe(recipe, folder, progress, interrupts, seconds=seconds)
    with folder.timing("proposals"):
        poses = recipe.proposals(state)
    write_durably(layout.ENCODER.path(folder.path), to_bytes(recipe.encode))
    volume = recipe.map(state)
    _write_abinit(layout.ABINIT_MAP.path(folder.path), volume, feed, settings.flip)
    sigma = max(float(poses.best()[1].square().mean().sqrt()), feed.pixel_size)
    noise = feed.source.preprocessing.noise.float().clone()
    noise[:, : state.noise.shape[1]] = state.noise
    return Start(
        maps=(volume, volume),
        noise=noise,
        sigma_angstrom=sigma,
        poses=poses,
        half=None,
        abinit=None,
        symmetry_score=None,
        spread=True,
    )


def _on_axes(volume: Tensor, feed: ImageFeed, symmetry: str, radius: int) -> tuple[Tensor, float | None]:
    """The map turned onto the standard axes of its symmetry, which is imposed; and how well it had it."""
    if len(symmetry_group(symmetry)) == 1:
        return volume, None
    pixel = feed.box * feed.pixel_size / volume.shape[-1]
    # splines want the map smooth on its grid: twice finer
    box = volume.shape[-1]
    fine = resize_real(volume.cpu(), 2 * box, 3)
    axes = find_axes(fine, symmetry, pixel / 2, radius)
    turned = impose(apply_rigid(fine, axes.R.float(), axes.t.float(), pixel / 2), symmetry)
    return resize_real(turned, box, 3).to(volume), axes.score


def _given_start(settings: ReconstructSettings, feed: ImageFeed) -> Start:
    """From a map or from the poses in the particle file."""
    noise = feed.source.preprocessing.noise.float()
    sigma = FIRST_SIGMA * feed.box * feed.pixel_size
    if settings.start == "poses":
        particles = feed.source.particles
        given = particles.input_poses()
        subsets = particles.half_sets()
        poses = PosePosterior.certain(given.R.float(), given.t.float())
        half = np.arange(len(particles)) % 2 if subsets is None else subsets - 1
        sigma = max(float(given.t.square().mean().sqrt()), feed.pixel_size)
        maps = maps_of_poses(
            feed,
            poses,
            half=half,
            noise=noise,
            symmetry=settings.symmetry,
            generator=torch_generator(settings.seed, STAGE_INDEX, 1),
        )
        return Start(
            maps=maps, noise=noise, sigma_angstrom=sigma, poses=poses, half=half, abinit=None, symmetry_score=None
        )
    if settings.start is None:
        raise BadInput("refinement needs a start: --from poses, or --from MAP.mrc")
    return Start(
        maps=_given_map(settings, feed, Path(settings.start)),
        noise=noise,
        sigma_angstrom=sigma,
        poses=None,
        half=None,
        abinit=None,
        symmetry_score=None,
    )


def _given_map(settings: ReconstructSettings, feed: ImageFeed, path: Path) -> tuple[Tensor, Tensor]:
    """A map from a file, brought to the field of view of the images and cut to the start's resolution."""
    given = read_map(path)
    side = feed.box * feed.pixel_size
    volume = given.data.float()
    box = volume.shape[-1]
    wanted = round(side / given.pixel_size)
    if abs(wanted * given.pixel_size - side) > 0.01 * side:
        raise BadInput(
            f"{path}: voxels of {given.pixel_size:.4f} angstrom do not fit the images' field of view of {side:.1f} "
            f"angstrom\n  what to do: resample the map to the images' pixel size, {feed.pixel_size:.4f} angstrom"
        )
    volume = pad_real(volume, wanted, 3) if wanted != box else volume
    level = settings.refine.fine_levels[0] * feed.box / feed.diameter_px
    if settings.low_pass_angstrom is not None:
        level = side / settings.low_pass_angstrom
    radius = int(max(4, min((feed.box - 1) // 2 - 1, (wanted - 1) // 2 - 1, round(level))))
    masked = volume * particle_mask(wanted, feed.diameter_px * wanted / feed.box)
    volume = rebox(masked, Band(radius).box).contiguous().to(feed.device)
    scaled = volume * _scale_to_images(feed, volume, radius)
    return scaled, scaled


def _scale_to_images(feed: ImageFeed, volume: Tensor, radius: int) -> float:
    """The factor that gives a map from elsewhere the power that the images have above their noise."""
    rows = np.arange(0, len(feed), max(1, len(feed) // 500))
    noise = feed.source.preprocessing.noise.float()
    images = feed.images(rows, radius, noise)
    h = images.disc.weight
    excess = (h * (images.observed.abs().square() - images.variance[images.group])).mean(0).sum()
    views = cached_rotation_grid(2).R[::7].contiguous().to(volume.device)
    power = dispatch.slices(volume_to_half(volume), views, images.disc).abs().square().mean(0)
    predicted = (h * images.ctf.square().mean(0) * power).sum()
    return float((excess.clamp(min=0) / predicted.clamp(min=1e-20)).sqrt()) or 1.0


def _evidence(
    feed: ImageFeed, state: RefineState, maps: FinalMaps, start: Start, settings: ReconstructSettings
) -> Evidence:
    gold, abinit = maps.gold, start.abinit
    resolutions = [float(x) for x in maps.directions[:, 3] if np.isfinite(float(x))]
    given_poses = settings.start == "poses"
    x, y, z = maps.coverage.missing_axis.tolist()
    return Evidence(
        particles=len(feed),
        starts=None if abinit is None else abinit.starts,
        agreeing=None if abinit is None else abinit.agreeing,
        likeness=None if abinit is None else abinit.likeness,
        shell=gold.shell,
        resolution_angstrom=gold.resolution_angstrom,
        resolution_half_angstrom=gold.resolution_half_angstrom,
        common_shell=0 if given_poses else Band.of_box(start.maps[0].shape[-1]).radius,
        nyquist_shell=feed.box // 2,
        certain=float((state.poses.log_weight[:, 0] > np.log(0.9)).float().mean()),
        fitting=float((state.misfit < FITTING_MISFIT).float().mean()),
        mean_score=float(state.score.mean()),
        expected_score=float(state.power.mean() / 2),
        settled=state.settled if _polish(settings).climb_steps else None,
        coverage=maps.coverage.scf,
        missing_share=maps.coverage.missing_share,
        missing_axis=(x, y, z),
        single_view_share=maps.coverage.main_view_share if maps.coverage.single_view else None,
        best_direction_angstrom=min(resolutions) if resolutions else None,
        worst_direction_angstrom=max(resolutions) if resolutions else None,
        directional_resolution_angstrom=tuple(
            (float(x), float(y), float(z), float(r)) for x, y, z, r in maps.directions.tolist() if np.isfinite(r)
        ),
        symmetry=settings.symmetry,
        symmetry_score=start.symmetry_score,
        b_factor_angstrom2=maps.guinier.b_factor_angstrom2,
        b_factor_note=maps.guinier.reason,
    )


def particle_columns(state: RefineState, flip: bool = False) -> dict[str, np.ndarray]:
    """Columns of the written particles: poses, half sets, likelihood and uncertainty."""
    R = state.poses.R[:, 0].double()
    if flip:
        R = R @ HALF_TURN.double()
    return {
        **pose_columns(R, state.poses.t[:, 0]),
        "rlnRandomSubset": state.half.astype(np.int64) + 1,
        "rlnLogLikeliContribution": state.score.double().numpy(),
        "rlnMaxValueProbDistribution": state.poses.log_weight[:, 0].exp().double().numpy(),
        "cryoloomAngularErrorDegrees": angular_error_degrees(state.covariance).double().numpy(),
        "cryoloomShiftErrorAngst": shift_error_angstrom(state.covariance).double().numpy(),
    }


def _write_maps(folder: RunFolder, maps: FinalMaps, pixel_size: float, flip: bool) -> None:
    def write(file: layout.RunFile, volume: Tensor) -> None:
        path = file.path(folder.path)
        write_map(path, DensityMap((mirrored(volume) if flip else volume).float().cpu().contiguous(), pixel_size))

    write(layout.MAP, maps.combined)
    write(layout.SHARP_MAP, maps.sharp)
    write(layout.HALF1, maps.halves[0])
    write(layout.HALF2, maps.halves[1])
    write(layout.MASK, maps.mask)
    write(layout.LOCAL_RESOLUTION, maps.local)
    gold = maps.gold
    side = len(maps.combined) * pixel_size
    lines = ["shell,frequency_per_angstrom,resolution_angstrom,unmasked,masked,randomised,corrected"]
    for s in range(len(gold.corrected)):
        curves = ",".join(f"{float(c[s]):.5f}" for c in (gold.unmasked, gold.masked, gold.randomised, gold.corrected))
        lines.append(f"{s},{s / side:.6f},{side / s if s else float('inf'):.3f},{curves}")
    write_durably(layout.FSC.path(folder.path), ("\n".join(lines) + "\n").encode())
    inside = maps.combined[maps.mask > 0.5]
    level = float(inside.mean() + inside.std()) if len(inside) else None
    sharp_inside = maps.sharp[maps.mask > 0.5]
    sharp_level = float(sharp_inside.mean() + sharp_inside.std()) if len(sharp_inside) else None
    write_chimerax_script(folder.path, level, sharp_level)


def _write_abinit(path: Path, volume: Tensor, feed: ImageFeed, flip: bool) -> None:
    """The map of ab initio in the box of the images, to be looked at while refinement goes on."""
    volume = rebox(volume, feed.box)
    volume = mirrored(volume) if flip else volume
    write_map(path, DensityMap(volume.float().cpu().contiguous(), feed.pixel_size))
