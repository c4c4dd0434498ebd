"""Final maps from refined poses: half maps, the filtered and the sharpened map, masks and FSC curves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.maps.backprojection import (
    NormalEquations,
    Together,
    molecule_mask,
    solve,
    ssnr_of_sum,
)
from cryoloom.maps.coverage import OrientationCoverage, orientation_coverage
from cryoloom.maps.fsc import DirectionalFSC, GoldStandard, HalfMaps, directional_fsc
from cryoloom.maps.local_resolution import local_resolution
from cryoloom.maps.sharpen import GuinierFit, guinier_b_factor, sharpen
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import symmetry_group, view_grid
from cryoloom.recipes.refine import RefineResult
from cryoloom.runs.seeds import torch_generator

CONES_NSIDE = 3  # axes of the directional FSC, 20 degrees apart: their cones, as wide, overlap
FITTING_MISFIT = 3.0  # s.d. below the score expected of a correct pose


@dataclass(frozen=True)
class FinalMaps:
    """Maps in the working box D, on the scale of the images, and their scores.

    Attributes:
        combined: Wiener-filtered map of both halves; sharp: sharpened; halves: unfiltered.
        mask: soft mask of the molecule; local: resolution in angstrom at each voxel.
        gold: gold-standard FSC; guinier: the fitted B-factor.
        directional: FSC in cones about directions all around.
        coverage: coverage of orientations and of Fourier space.
    """

    combined: Tensor
    sharp: Tensor
    halves: tuple[Tensor, Tensor]
    mask: Tensor
    local: Tensor
    gold: GoldStandard
    guinier: GuinierFit
    directional: DirectionalFSC
    coverage: OrientationCoverage


@dataclass(frozen=True, slots=True)
class ScoredMaps:
    """Maps of two half sets in the working box D and how well they agree.

    Attributes:
        combined: Wiener-filtered map of both halves; halves: unfiltered; mask: soft; gold: gold-standard FSC in it.
    """

    combined: Tensor
    halves: tuple[Tensor, Tensor]
    mask: Tensor
    gold: GoldStandard


def _in_box(volume: Tensor, box: int) -> Tensor:
    """The volume in the working box; density per voxel as an image of that box would show it."""
    return rebox(volume, box).contiguous().cpu()


def scored_maps(
    feed: ImageFeed,
    halves: tuple[NormalEquations, NormalEquations],
    rough: torch.Generator,
    final: torch.Generator,
    mask: Tensor | None = None,
    mates: int = 1,
) -> ScoredMaps:
    """Maps of two halves at full radius and their FSC.

    Args:
        rough, final: generators of the random phases of the FSC within the sphere, and within the mask.
        mask: [D, D, D]; computed from the map if left out.
        mates: order of the symmetry that the halves have.
    """
    radius = (feed.box - 1) // 2
    box, pixel = feed.box, feed.pixel_size
    one, two = (_in_box(solve(h, None, radius), box) for h in halves)
    maps = HalfMaps.of(one, two)
    if mask is None:
        sphere = feed.mask(box).cpu()
        whole = maps.gold_standard(sphere, pixel, rough, mates, draws=1)
        found = molecule_mask(
            halves,
            whole.corrected[: radius + 1],
            box=box,
            field_of_view=feed.field_of_view,
            diameter_angstrom=feed.source.preprocessing.particle_diameter_angstrom,
            resolution_angstrom=whole.resolution_angstrom,
        )
        mask = found.cpu() * sphere
    gold = maps.gold_standard(mask, pixel, final, mates)
    combined = _in_box(solve(Together(halves), ssnr_of_sum(gold.corrected[: radius + 1]), radius), box)
    return ScoredMaps(combined, (one, two), mask, gold)


def final_maps(refined: RefineResult, symmetry: str, seed: int) -> FinalMaps:
    """Reconstruct, mask, filter, sharpen and score."""
    feed = refined.posed.feed
    group = symmetry_group(symmetry).float().to(feed.device)
    radius = (feed.box - 1) // 2
    halves = refined.posed.sums(radius, group, torch_generator(seed, "final maps", "samples"))
    box, pixel = feed.box, feed.pixel_size
    rough, final = (torch_generator(seed, "final maps", part) for part in ("rough", "final"))
    scored = scored_maps(feed, halves, rough, final, mates=len(group))
    raw, mask, gold = scored.halves, scored.mask, scored.gold
    # unfiltered: the fit and the sharpening weigh by the FSC themselves
    unfiltered = _in_box(solve(Together(halves), None, radius), box) * mask
    del halves
    guinier = guinier_b_factor(unfiltered, gold.corrected, pixel)
    sharp = sharpen(unfiltered, guinier.b_factor_angstrom2, gold.corrected, pixel)
    local = local_resolution(raw[0], raw[1], mask, pixel)
    directional = directional_fsc(raw[0], raw[1], mask, gold, view_vectors(CONES_NSIDE))
    # images that fit nowhere, or everywhere, are at random poses: they would fill gaps between the views
    known = refined.mode_weight(group.cpu()) * (refined.misfit < FITTING_MISFIT)
    weight = known if bool(known.any()) else None  # where none fits, the verdict says so
    coverage = orientation_coverage(refined.posed.poses.R[:, 0], weight, symmetry=symmetry)
    return FinalMaps(
        combined=scored.combined,
        sharp=sharp,
        halves=(raw[0], raw[1]),
        mask=mask,
        local=local,
        gold=gold,
        guinier=guinier,
        directional=directional,
        coverage=coverage,
    )


def view_vectors(nside: int) -> Tensor:
    """Unit vectors of the upper half of the HEALPix directions, float32 [V, 3]: d and -d are one direction."""
    angles = torch.deg2rad(view_grid(nside))
    phi, theta = angles[:, 0], angles[:, 1]
    vectors = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], 1).float()
    return vectors[vectors[:, 2] > -1e-6]
