"""A symmetry that was not stated, found in the poses between which images are in doubt and proved by the half maps.

The poses of a symmetric particle are right up to its symmetry: a run in C1 on which all images are in doubt between
mates is as good as any. Whether it is a symmetry, or two similar views of a particle that has none, the maps tell: one
half map, turned, must agree with the other as far as unturned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.shared_doubt import SharedDoubt, shared_doubt
from cryoloom.jobs.final_maps import FinalMaps
from cryoloom.maps.align import apply_alignment, refine_alignment
from cryoloom.maps.fsc import gold_standard
from cryoloom.physics.rotations import axis_order, exponential, generated_group, geodesic_degrees, group_name
from cryoloom.recipes.refine import RefineResult
from cryoloom.recipes.refine_pass import DOUBT_NATS
from cryoloom.runs.seeds import numpy_generator, torch_generator

AS_FAR = 0.9  # of the shell to which the half maps agree: one of them, turned, must agree with the other
GENERATORS = 3  # axes that are looked for at most: two generate any point group, one may be a power of another
NEAR_DEGREES = 4.0  # the half maps' own turn must be that of the poses


@dataclass(frozen=True, slots=True)
class UnstatedSymmetry:
    """A point group that the map has: its name and rotations [G, 3, 3] about axes of any orientation."""

    name: str
    group: Float[Tensor, "G 3 3"]


def unstated_symmetry(refined: RefineResult, maps: FinalMaps, seed: int) -> UnstatedSymmetry | None:
    """The symmetry by which images are in doubt and which the half maps have; None without one."""
    if refined.doubt is None or maps.gold.resolution_angstrom is None:
        return None
    turns: list[Tensor] = []
    group: Tensor = torch.eye(3)[None]
    doubt: SharedDoubt | None = refined.doubt[0]
    while doubt is not None and len(turns) < GENERATORS:
        turn = _turn_of_maps(maps, doubt, seed)
        larger = None if turn is None else generated_group(torch.stack([*turns, turn]))
        if turn is None or larger is None or len(larger) == len(group):
            break
        turns, group = [*turns, turn], larger.float()
        unsure = 1 - refined.mode_weight(group) > math.exp(-DOUBT_NATS)
        generator = numpy_generator(seed, "unstated symmetry", len(turns))
        doubt = shared_doubt(refined.posed.poses, unsure, generator, group)
    return UnstatedSymmetry(group_name(group), group) if turns else None


def _turn_of_maps(maps: FinalMaps, doubt: SharedDoubt, seed: int) -> Tensor | None:
    """The rotation of a symmetry near that of the poses, float64 [3, 3], if the half maps have it."""
    radians = torch.tensor(doubt.axis, dtype=torch.float64) * math.radians(doubt.degrees)
    gold, mask, pixel = maps.gold, maps.mask, maps.gold.pixel_size
    one, two = (h * mask for h in maps.halves)
    found = refine_alignment(two, one, pixel, exponential(radians), math.ceil(gold.shell))
    if float(geodesic_degrees(found.R, exponential(radians))) > NEAR_DEGREES:
        return None
    turned = apply_alignment(maps.halves[1], found, pixel)
    generator = torch_generator(seed, "unstated symmetry", "random phases")
    if gold_standard(maps.halves[0], turned, mask, pixel, generator).shell < AS_FAR * gold.shell:
        return None
    return _exact(found.R)


def _exact(R: Tensor) -> Tensor | None:
    """The rotation about the same axis by the nearest multiple of 360 / n degrees; None if it is near none."""
    vector = roma.rotmat_to_rotvec(R)
    degrees = math.degrees(float(vector.norm()))
    order = axis_order(degrees)
    if order is None:
        return None
    step = 360 / order
    return exponential(vector * (round(degrees / step) * step / degrees))
