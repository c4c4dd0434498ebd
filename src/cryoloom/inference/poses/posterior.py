"""PosePosterior: the type that every pose method returns, weighted candidate poses for every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, repr=False)
class PosePosterior:
    """K candidate poses for each of B images.

    Attributes:
        R: rotations from the image frame to the volume frame, [B, K, 3, 3].
        t: shifts in angstrom, [B, K, 2]; the particle lies at +t in its image.
        log_weight: log weights [B, K], normalised over K (log-sum-exp 0); -inf marks an unused slot.
        covariance: covariance of (rotation vector in radian, shift in angstrom), [B, K, 5, 5]; None where unknown.
    """

    R: Tensor
    t: Tensor
    log_weight: Tensor
    covariance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.R)

    def __repr__(self) -> str:
        B, K = self.log_weight.shape
        known = "" if self.covariance is None else ", with covariances"
        return f"PosePosterior({B} images x {K} candidate{'s' if K != 1 else ''}: R, t in Å{known})"

    @staticmethod
    def certain(R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]) -> PosePosterior:
        """Known poses: one candidate of weight 1 for each image."""
        return PosePosterior(R[:, None], t[:, None], R.new_zeros(len(R), 1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> PosePosterior:
        covariance = None if self.covariance is None else change(self.covariance)
        return PosePosterior(change(self.R), change(self.t), change(self.log_weight), covariance)

    def rows(self, index: Tensor) -> PosePosterior:
        """The posteriors of the images with the given indices."""
        return self._each(lambda x: x[index])

    def to(self, device: torch.device) -> PosePosterior:
        """The same posteriors on a device."""
        return self._each(lambda x: x.to(device))

    def best(self) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 2"]]:
        """Rotation and shift of the candidate of largest weight of each image."""
        row = torch.arange(len(self.R), device=self.R.device)
        k = self.log_weight.argmax(1)
        return self.R[row, k], self.t[row, k]

    def bare(self) -> PosePosterior:
        """The same candidates without covariances."""
        return PosePosterior(self.R, self.t, self.log_weight)

    def normalised(self) -> PosePosterior:
        """The same candidates with weights that sum to one."""
        log_weight = self.log_weight - torch.logsumexp(self.log_weight, 1, keepdim=True)
        return PosePosterior(self.R, self.t, log_weight, self.covariance)

    @staticmethod
    def joined(parts: Sequence[PosePosterior]) -> PosePosterior:
        """The posteriors of several batches in order, with covariances where all batches have them."""
        R, t, log_weight = (torch.cat([getattr(part, name) for part in parts]) for name in ("R", "t", "log_weight"))
        covariances = [part.covariance for part in parts if part.covariance is not None]
        return PosePosterior(R, t, log_weight, torch.cat(covariances) if len(covariances) == len(parts) else None)

    def top(self, count: int) -> PosePosterior:
        """The `count` candidates of largest weight of each image, in falling order, normalised anew."""
        _, order = torch.topk(self.log_weight, min(count, self.log_weight.shape[1]), dim=1)
        row = torch.arange(len(self.R), device=self.R.device)[:, None]
        return self._each(lambda x: x[row, order]).normalised()
