"""Conformations from opened particles to a filled run folder: consensus first, then the method, maps, verdict."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.files.durable import write_durably
from cryoloom.inference.conformations.classes import Classes, fit_classes
from cryoloom.inference.conformations.evidence import ConformationEvidence
from cryoloom.inference.conformations.local_maps import StateMap, map_of_rows
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import Refined
from cryoloom.jobs import layout
from cryoloom.jobs.class_table import ClassRow, write_class_table
from cryoloom.jobs.reconstruct import Reconstruction, conclude, make_feed, particle_columns, reconstruct
from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
from cryoloom.jobs.verdict import Verdict, with_conformations
from cryoloom.maps.coupled_backprojection import mask_in_box
from cryoloom.maps.io import DensityMap, read_map, write_map
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import ParticleSet, write_particles
from cryoloom.particles.preprocess import Preprocessing
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.pca import SubspaceRecipe, SubspaceSettings, SubspaceState, component_resolutions
from cryoloom.recipes.pca_with_poses import TurnsRecipe
from cryoloom.recipes.refine import RefineState
from cryoloom.recipes.vae import VariationalRecipe
from cryoloom.runs.folder import RunFolder
from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.loop import run_recipe, torch_generator
from cryoloom.runs.progress import Progress
from cryoloom.volumes.conformation_file import to_bytes
from cryoloom.volumes.interface import ConformationVolume
from cryoloom.volumes.linear_family import LinearFamily

STAGE_INDEX = 10
SHARPENED = 3  # times that the volumes are fitted to classes, and classes to the volumes
JUNK_CONTRAST = 0.5  # images below show no particle to speak of
LEAST_FIT = 0.45  # of the score of a right pose: on a ribosome with junk, junk has 0.03 (95 %: 0.23), molecules 0.97
# least reliability of a direction that a network uses: 0.94 and more on adenylate kinase's path; where nothing is to be
# told (a ribosome, coordinates that are not in use) 0.004 and less
SEEN = 0.05


@dataclass(frozen=True)
class Found:
    """What a method found: latents and their volumes, None where there is no heterogeneity; and the evidence."""

    latents: LatentPosterior | None
    volume: ConformationVolume | None
    classes: Classes | None
    evidence: ConformationEvidence


def run_hetero(
    settings: HeteroSettings,
    particles: ParticleSet,
    preprocessing: Preprocessing,
    folder: RunFolder,
    progress: Progress,
    interrupts: Interrupts,
    *,
    seconds: float = 10.0,
) -> Verdict:
    """Carry out the job within an open run folder, resuming what is done."""
    base = consensus_settings(settings)
    feed = make_feed(particles, preprocessing, base)
    for said in (*particles.notes, *preprocessing.said):
        progress.say(said)
    consensus = reconstruct(base, feed, folder, progress, interrupts, seconds=seconds)
    found, posed = None, None
    if settings.poses == "search":
        turns = _turns(settings, feed, consensus)
        posed = turns.posed(run_recipe(turns, folder, progress, interrupts, seconds=seconds))
    # an autodecoder's latents, learnt image by image, tell images apart even where all are alike (reliability 0.48 on a
    # ribosome): whether there is anything to be told is asked of held-out images first
    if settings.method != "vae" or settings.poses == "search":
        poses = consensus.state.poses if posed is None else posed.posterior
        recipe = SubspaceRecipe(*_of_family(settings, feed, consensus, poses), mask=_mask(settings, feed))
        family = run_recipe(recipe, folder, progress, interrupts, seconds=seconds)
        if posed is not None and family.components > 0:
            consensus = conclude(base, feed, consensus.start, reposed(consensus.state, posed), folder)
        found = _linear(settings, recipe, family, consensus, folder)
    if settings.method in ("vae", "autodecoder") and (found is None or found.latents is not None):
        found = _network(
            settings,
            feed,
            consensus=consensus,
            folder=folder,
            progress=progress,
            interrupts=interrupts,
            seconds=seconds,
        )
    assert found is not None
    with folder.timing("conformations"):
        _write(found, feed, consensus, folder)
    return with_conformations(consensus.verdict, found.evidence)


def consensus_settings(settings: HeteroSettings) -> ReconstructSettings:
    """Of the reconstruction that comes first: given poses are weighed and inserted, others are found."""
    s = settings
    base = ReconstructSettings(
        s.input,
        particle_diameter_angstrom=s.particle_diameter_angstrom,
        box=s.box,
        seed=s.seed,
        device=s.device,
        threads=s.threads,
        cache_bytes=s.cache_bytes,
        abinit=s.abinit,
        refine=s.refine,
    )
    if s.poses == "search":
        return base
    kept = replace(s.refine, most_iterations=1, least_iterations=1, climb_steps=0)
    return replace(base, job="refine", start="poses", refine=kept)


def _given_mask(path: Path, feed: ImageFeed) -> Tensor:
    given = read_map(path)
    side = feed.box * feed.pixel_size
    if abs(given.pixel_size * given.data.shape[-1] / side - 1) > 0.01:
        raise ValueError(
            f"{path}: a mask of {given.pixel_size * given.data.shape[-1]:.1f} angstrom\n  expected: the field of view "
            f"of the images, {side:.1f} angstrom"
        )
    return mask_in_box(given.data.float(), feed.box)


def _turns(settings: HeteroSettings, feed: ImageFeed, consensus: Reconstruction) -> TurnsRecipe:
    state = consensus.state
    given = _of_family(settings, feed, consensus, state.poses)
    return TurnsRecipe(*given, sigma_angstrom=state.sigma_angstrom, turns=settings.turns, mask=_mask(settings, feed))


def _of_family(
    settings: HeteroSettings, feed: ImageFeed, consensus: Reconstruction, poses: PosePosterior
) -> tuple[ImageFeed, SubspaceSettings, int, PosePosterior, np.ndarray, Tensor]:
    """What both recipes of linear families are given."""
    state = consensus.state
    half = np.where(shows_the_particle(state).numpy(), state.half, -1)
    return feed, settings.subspace, settings.seed, poses, half, state.noise.float()


def _mask(settings: HeteroSettings, feed: ImageFeed) -> Tensor | None:
    return None if settings.mask is None else _given_mask(Path(settings.mask), feed)


def reposed(state: RefineState, found: Refined) -> RefineState:
    """The consensus with poses that were found along with conformations; its sums are to be made anew."""
    best = found.posterior.top(state.poses.log_weight.shape[1])
    assert best.covariance is not None
    return replace(
        state,
        poses=best.bare(),
        covariance=best.covariance[:, 0],
        score=found.score,
        power=found.power,
        statistics=None,
    )


def _linear(
    settings: HeteroSettings,
    recipe: SubspaceRecipe,
    found: SubspaceState,
    consensus: Reconstruction,
    folder: RunFolder,
) -> Found:
    feed, shown = recipe.feed, torch.from_numpy(recipe.half >= 0)
    if found.components == 0:
        return Found(None, None, None, ConformationEvidence(settings.method, 0, 0, gain_nats=0.0))
    with folder.timing("latents"):
        latents = recipe.latents(found).without(~shown)
        classes = None
        if settings.method == "classes":
            for _ in range(SHARPENED + 1):
                if classes is not None:
                    found = recipe.sharpened(found, classes.centres, classes.shares)
                    latents = recipe.latents(found).without(~shown)
                classes = fit_classes(latents, settings.classes, torch_generator(settings.seed, STAGE_INDEX, 0))
        volumes = torch.stack([rebox(v, feed.box) for v in found.volumes.cpu()])
    evidence = _linear_evidence(settings.method, found, latents, classes, feed)
    return Found(latents, LinearFamily(feed.pixel_size, volumes), classes, evidence)


def shows_the_particle(state: RefineState) -> Tensor:
    """Which images the consensus explains at least in part, bool [N].

    A right map and pose make an image more likely by half its power. What fits a good part less is not another
    conformation but another thing, and would have components of its own.
    """
    return state.score > LEAST_FIT * 0.5 * state.power


def _linear_evidence(
    method: str, state: SubspaceState, latents: LatentPosterior, classes: Classes | None, feed: ImageFeed
) -> ConformationEvidence:
    sharp = [r for r in component_resolutions(state, feed.box * feed.pixel_size)[1:] if r is not None]
    return ConformationEvidence(
        method=method,
        components=state.components,
        latent_dimensions=state.components,
        gain_nats=float(state.gains[state.components]),
        resolution_angstrom=min(sharp) if sharp else None,
        rejected_share=float((latents.contrast < JUNK_CONTRAST).float().mean()),
        class_shares=() if classes is None else tuple(classes.shares.tolist()),
    )


def _network(
    settings: HeteroSettings,
    feed: ImageFeed,
    consensus: Reconstruction,
    folder: RunFolder,
    progress: Progress,
    interrupts: Interrupts,
    seconds: float,
) -> Found:
    state, method = consensus.state, "autodecoder" if settings.method == "autodecoder" else "vae"
    recipe = VariationalRecipe(
        feed=feed,
        settings=settings.network,
        seed=settings.seed,
        poses=state.poses,
        mean=consensus.maps.combined,
        noise=state.noise.float(),
        method=method,
    )
    done = run_recipe(recipe, folder, progress, interrupts, seconds=seconds)
    with folder.timing("latents"):
        latents = recipe.latents(done)
    reliability = latents.told_apart()[0]
    used = int((reliability > SEEN).sum())
    evidence = ConformationEvidence(
        settings.method, used, latent_dimensions=len(reliability), reliability=float(reliability[0])
    )
    if used == 0:
        return Found(None, None, None, evidence)
    return Found(latents, recipe.volume(done), None, evidence)


def _write(found: Found, feed: ImageFeed, consensus: Reconstruction, folder: RunFolder) -> None:
    if found.latents is not None and found.volume is not None:
        latents = found.latents
        for file, values in (
            (layout.LATENTS, latents.mean),
            (layout.LATENT_COVARIANCES, latents.covariance),
            (layout.CONTRAST, latents.contrast),
        ):
            write_durably(file.path(folder.path), npy_bytes(values.float().numpy()))
        write_durably(layout.CONFORMATIONS.path(folder.path), to_bytes(found.volume))
    # classes that the file brought along are not this run's: where it has none, all images are of one
    columns = particle_columns(consensus.state) | {"rlnClassNumber": np.ones(len(feed), np.int64)}
    if found.classes is not None:
        columns["rlnClassNumber"] = found.classes.posterior.best().numpy() + 1
        columns["rlnMaxValueProbDistribution"] = found.classes.posterior.log_weight.amax(1).exp().double().numpy()
    write_particles(layout.PARTICLES.path(folder.path), feed.source.particles, columns)
    if found.classes is not None and found.latents is not None:
        _write_classes(found.classes, found.latents, feed, consensus, folder)


def _write_classes(
    classes: Classes, latents: LatentPosterior, feed: ImageFeed, consensus: Reconstruction, folder: RunFolder
) -> None:
    """A map for each class, and their table."""
    labels = classes.posterior.best().numpy()
    rows = []
    for k, share in enumerate(classes.shares.tolist()):
        mine = np.flatnonzero((labels == k) & (latents.contrast.numpy() >= JUNK_CONTRAST))
        name, resolution = f"class_{k + 1:03d}", None
        if min(int((consensus.state.half[mine] == h).sum()) for h in (0, 1)) > 0:
            drawn = class_map(feed, consensus, mine)
            write_map(
                layout.CLASS_MAP.path(folder.path, number=k + 1),
                DensityMap(drawn.combined.contiguous(), feed.pixel_size),
            )
            resolution = drawn.resolution_angstrom(feed.pixel_size)
        rows.append(ClassRow(name, int((labels == k).sum()), share, resolution))
    write_class_table(layout.CLASSES.path(folder.path), tuple(rows))


def class_map(feed: ImageFeed, consensus: Reconstruction, rows: np.ndarray) -> StateMap:
    """The map of some images at the consensus' poses, half sets apart."""
    state = consensus.state
    R, t = state.poses.best()
    return map_of_rows(
        feed,
        PosePosterior.certain(R, t),
        half=state.half,
        noise=state.noise.float(),
        mask=consensus.maps.mask,
        rows=rows,
    )


def npy_bytes(values: np.ndarray) -> bytes:
    """A .npy file's content."""
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()
