"""How far poses have still to go, judged by their moves in two iterations of refinement; and how they get there sooner.

A move has two parts. Poses approach their optimum together with the map, each move a share q of the one before: small
moves may add up. And they jump about it, since the map is made anew from random samples of the posterior each time:
such moves go on for ever without getting anywhere, and do not count.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.modes import smallest_turns
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.physics.rotations import exponential

AHEAD = 10  # iterations ahead that are looked at, where moves do not become smaller
LARGEST = 3.0  # times the median move: images that moved farther have changed their mode
# share of its last move by which an image is inserted beyond its pose; where each move is 0.7 (0.85) of the one before,
# it becomes 0.53 (0.71) of it
MOMENTUM = 0.4
WIDEST_MOVE = 0.25  # radians: larger moves are no approach to an optimum


def beyond(poses: PosePosterior, before: PosePosterior, group: Float[Tensor, "G 3 3"]) -> PosePosterior:
    """Poses at which images are inserted into the next map: the best ones go on in the direction of their last move.

    Poses follow the map and the map follows them, so that both approach their optimum slowly where they move together;
    momentum makes it fewer iterations (on 5,000 images, a fifth of them junk, half of the views from one side: 8
    instead of 12).

    Args:
        poses: after this iteration; before: poses that it began with, none where all weights are 0. Candidates other
            than the best stay as they are.
    """
    moved = smallest_turns(before.R[:, 0], poses.R[:, 0], group)
    length = moved.norm(dim=1)
    small = (length <= min(WIDEST_MOVE, LARGEST * float(length.median()))) & (before.log_weight.amax(1) > -math.inf)
    onward = exponential(MOMENTUM * torch.where(small[:, None], moved, 0.0))
    R = poses.R.clone()
    R[:, 0] = R[:, 0] @ onward.to(R)
    return replace(poses, R=R)


def to_go(newest: Float[Tensor, "N 3"], before: Float[Tensor, "N 3"]) -> float:
    """Root mean square of the way that poses have still to go, in the unit of their moves.

    With directed moves a of mean square A before and q a now, and jumps e about them that are independent between
    iterations, the mean squares and products of the moves a + e1 - e0 and q a + e2 - e1 are

        <before^2> = A + 2 s^2,  <newest^2> = q^2 A + 2 s^2,  <before newest> = q A - s^2,

    from which A and q follow.

    Args:
        newest: moves in the last iteration; before: those in the iteration before.

    Returns:
        The sum of the directed moves of the next iterations, AHEAD at most.
    """
    length = torch.stack([newest.norm(dim=1), before.norm(dim=1)])
    kept = (length <= LARGEST * length.median(1, keepdim=True).values).all(0)
    newest, before = newest[kept].double(), before[kept].double()
    product = float((newest * before).sum(1).mean())
    first = float(before.square().sum(1).mean()) + 2 * product  # A (1 + 2 q)
    second = float(newest.square().sum(1).mean()) + 2 * product  # A (q^2 + 2 q)
    if first <= 0 or second <= 0:
        return 0.0
    q = (second - first + math.sqrt((second - first) ** 2 + first * second)) / first
    directed = q * math.sqrt(first / (1 + 2 * q))
    return directed * sum(min(q, 1.0) ** k for k in range(1, AHEAD + 1))
