"""A symmetry that was not stated, found in the poses between which images are in doubt and confirmed by the half maps.

The poses of a symmetric particle are right up to its symmetry: a run in C1 on which all images are in doubt between
mates is as good as any. Whether it is a symmetry, or two similar views of a particle that has none, the maps tell: one
half map, rotated, must agree with the other as well as it does unrotated. A deviation that the images do not show (one
tenth of one subunit) cannot be told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.modes import certain_share
from cryoloom.inference.poses.shared_doubt import SharedDoubt, shared_doubt
from cryoloom.jobs.final_maps import FinalMaps
from cryoloom.maps.align import FINE_RADIUS, apply_alignment, refine_alignment
from cryoloom.maps.fsc import GoldStandard, gold_standard, shell_counts
from cryoloom.physics.rotations import axis_order, exponential, generated_group, geodesic_degrees, group_name
from cryoloom.recipes.refine import MISFIT, RefineResult
from cryoloom.recipes.refine_pass import in_doubt
from cryoloom.runs.seeds import numpy_generator, torch_generator

SURE = 0.9  # share of certain poses in C1 from which on no symmetry is looked for
# FSC of a half map with the other one rotated, as a share of their own: copies of a subunit of which 30 % is missing,
# or that is distorted by a third of the resolution, have 0.8 and less, true copies 0.98 to 1.04
AS_WELL = 0.92
COMPARED = 0.3  # FSC of the half maps down to which shells are compared: below, noise decides
MOST_AXES = 3  # two generate any point group; one that is found may be a power of another
NEAR_DEGREES = 4.0  # the rotation that fits the half maps must be that of the poses


@dataclass(frozen=True, slots=True)
class UnstatedSymmetry:
    """A point group that the map has: its name and rotations [G, 3, 3] about axes of any orientation."""

    name: str
    group: Float[Tensor, "G 3 3"]


def unstated_symmetry(refined: RefineResult, maps: FinalMaps, seed: int) -> UnstatedSymmetry | None:
    """The symmetry by which images are in doubt and which the half maps have; None without one.

    Axes of up to 12-fold symmetry are found, each by its share of the doubts: cyclic and dihedral groups, and T.
    """
    group: Tensor = torch.eye(3)[None]
    certain = certain_share(refined.mode_weight(group))
    if refined.doubt is None or maps.gold.resolution_angstrom is None or certain >= SURE:
        return None
    rotations: list[Tensor] = []
    doubt: SharedDoubt | None = refined.doubt[0]
    while doubt is not None and len(rotations) < MOST_AXES:
        found = _rotation_of_maps(maps, doubt, seed)
        larger = None if found is None else generated_group(torch.stack([*rotations, found]))
        if found is None or larger is None or len(larger) == len(group):
            break
        rotations, group = [*rotations, found], larger.float()
        unsure = in_doubt(refined.mode_weight(group)) & (refined.misfit <= MISFIT)
        generator = numpy_generator(seed, "unstated symmetry", len(rotations))
        doubt = shared_doubt(refined.posed.poses, unsure, generator, group)
    return UnstatedSymmetry(group_name(group), group) if rotations else None


def _rotation_of_maps(maps: FinalMaps, doubt: SharedDoubt, seed: int) -> Tensor | None:
    """The rotation of a symmetry near that of the poses, float64 [3, 3], if the half maps have it."""
    wanted = exponential(torch.tensor(doubt.axis, dtype=torch.float64) * math.radians(doubt.degrees))
    gold, mask, pixel = maps.gold, maps.mask, maps.gold.pixel_size
    one, two = (h * mask for h in maps.halves)
    # to twice the usual radius at most: the memory of the sampler grows with its cube
    found = refine_alignment(two, one, pixel, wanted, min(math.ceil(gold.shell), 2 * FINE_RADIUS))
    if float(geodesic_degrees(found.R, wanted)) > NEAR_DEGREES:
        return None
    rotated = apply_alignment(maps.halves[1], found, pixel)
    generator = torch_generator(seed, "unstated symmetry", "random phases")
    if agreement(gold_standard(maps.halves[0], rotated, mask, pixel, generator), gold) < AS_WELL:
        return None
    return _exact(found.R)


def agreement(rotated: GoldStandard, gold: GoldStandard) -> float:
    """FSC of one half map with the other one rotated, as a share of that unrotated: mean over the voxels of all shells
    in which the half maps agree by `COMPARED`; 0 without such shells."""
    box = 2 * (len(gold.corrected) - 1)
    count = shell_counts(box, gold.corrected.device)
    used = (gold.corrected >= COMPARED) & (torch.arange(len(count)) > 0)
    if not used.any():
        return 0.0
    return float((count * rotated.corrected)[used].sum() / (count * gold.corrected)[used].sum())


def _exact(R: Tensor) -> Tensor | None:
    """The rotation about the same axis by the nearest multiple of 360 / n degrees; None if it is near none."""
    vector = roma.rotmat_to_rotvec(R)
    degrees = math.degrees(float(vector.norm()))
    order = axis_order(degrees)
    if order is None:
        return None
    step = 360 / order
    return exponential(vector * (round(degrees / step) * step / degrees))
