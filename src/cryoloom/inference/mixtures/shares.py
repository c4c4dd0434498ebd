"""Classes of images from the evidence of each: shares, posteriors, offsets for even shares, classes to be dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROUNDS = 50  # of EM for the shares, which converge long before
LEAST_SHARE = 1e-4  # of a class that may still win images back
EVEN_ROUNDS, EVEN_STEP = 30, 0.7


@dataclass(frozen=True, slots=True)
class ClassShares:
    """K classes and a last one for images of none of them.

    Attributes:
        posterior: probability of each class for each image, [N, K + 1]; shares: of all images, [K + 1].
    """

    posterior: Float[Tensor, "N C"]
    shares: Float[Tensor, " C"]

    @property
    def best(self) -> Tensor:
        """The likeliest class of each image, int64 [N]; K for none."""
        return self.posterior.argmax(1)


def class_shares(evidence: Float[Tensor, "N K"], generic: Float[Tensor, " N"]) -> ClassShares:
    """Posterior over the classes and the unknown body, with the shares of highest likelihood (EM).

    Args:
        evidence: log p(image | class) - log p(image | no particle), nats; -inf where it is known to be low.
        generic: the same of an unknown body (`inference.mixtures.generic`).
    """
    L = torch.cat([evidence, generic[:, None]], 1).double()
    count = L.shape[1]
    shares = torch.full((count,), 1.0 / count, dtype=torch.float64)
    posterior = torch.softmax(L + shares.log(), 1)
    for _ in range(ROUNDS):
        shares = posterior.mean(0).clamp(min=LEAST_SHARE)
        shares = shares / shares.sum()
        posterior = torch.softmax(L + shares.log(), 1)
    return ClassShares(posterior.float(), shares.float())


def even_offsets(evidence: Float[Tensor, "B K"], temperature: float) -> Float[Tensor, " K"]:
    """Offsets b with which softmax(evidence / temperature + b) gives every class the same share of the images."""
    L, K = evidence / temperature, evidence.shape[1]
    offset = torch.zeros(K, device=L.device)
    for _ in range(EVEN_ROUNDS):
        share = torch.softmax(L + offset, 1).mean(0)
        offset = offset - EVEN_STEP * torch.log(share * K + 1e-9)
    return offset - offset.mean()


def beyond_unknown(evidence: Float[Tensor, "N K"], generic: Float[Tensor, " N"], least: float) -> tuple[int, ...]:
    """Classes without which their images lose more than the share `least` of their evidence to the unknown body.

    An image counts for the class that it fits best. Those of maps that gather junk lose next to nothing.
    """
    best, kept = evidence.argmax(1), []
    for k in range(evidence.shape[1]):
        own, unknown = evidence[best == k, k].sum(), generic[best == k].sum()
        if own > 0 and float(own - unknown) > least * float(own):
            kept.append(k)
    return tuple(kept)


def loss_without(
    evidence: Float[Tensor, "N K"],
    generic: Float[Tensor, " N"],
    index: int,
    median: bool = False,
    mine: Bool[Tensor, " N"] | None = None,
) -> tuple[float, int]:
    """What a class's images lose without it, as a share of their evidence, and the number of these images.

    Without the class an image goes to the best of the others or to the unknown body. Two zeros for a class without
    images.

    Args:
        median: take the median over the images, not the mean. Of several refined maps of one molecule, some images find
            their pose with one only and lose half of their evidence without it, all others next to nothing. Early maps
            may show several molecules, and the median would hide those in the minority.
        mine: the images that count, those that fit the class best if left out. Images that are known to be of a class
            count whether or not they fit it best, and a class that shows what another does loses nothing on average.
    """
    L = torch.cat([evidence, generic[:, None]], 1)
    if mine is None:
        mine = L.argmax(1) == index
    if not bool(mine.any()):
        return 0.0, 0
    others = torch.cat([L[mine, :index], L[mine, index + 1 :]], 1).amax(1)
    own = L[mine, index]
    middle = _middle(own, median)
    if middle <= 0:  # they are no likelier with a particle than without
        return 0.0, int(mine.sum())
    return _middle(own - others, median) / middle, int(mine.sum())


def _middle(values: Tensor, median: bool) -> float:
    return float(values.median() if median else values.mean())


def needless(
    evidence: Float[Tensor, "N K"],
    generic: Float[Tensor, " N"],
    least: float,
    among: Sequence[int] | None = None,
    median: bool = False,
    members: Int[Tensor, " N"] | None = None,
) -> tuple[int, ...]:
    """Classes whose images lose less than the share `least` of their evidence without them, one after the other.

    After each, the losses of the rest are computed anew: of two classes of one molecule, one is left. So is at least
    one class.

    Args:
        among: classes that may be dropped; all if left out. median: see `loss_without`.
        members: class that each image counts for, that which it fits best if left out; those of a class that was
            dropped count no more.
    """
    left = list(range(evidence.shape[1]))
    may = set(left if among is None else among)
    dropped: list[int] = []
    while len(left) > 1 and may & set(left):
        losses = {
            k: loss_without(evidence[:, left], generic, i, median, None if members is None else members == k)[0]
            for i, k in enumerate(left)
            if k in may
        }
        lowest = min(losses, key=losses.__getitem__)
        if losses[lowest] >= least:
            break
        left.remove(lowest)
        dropped.append(lowest)
    return tuple(dropped)
