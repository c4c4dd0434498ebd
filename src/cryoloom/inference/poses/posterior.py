"""The one type that every pose method returns: a weighted set of candidate poses an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PosePosterior:
    """K candidate poses for each of B images.

    Attributes:
        R: [B, K, 3, 3], image frame to volume frame.
        t: [B, K, 2], angstrom; the content of the image sits at +t.
        log_weight: [B, K], normalised over K (log-sum-exp 0); -inf marks an unused slot.
        state: [B, K] class index, where classes are inferred jointly.
        covariance: [B, K, 5, 5] of (rotation vector in radian, shift in angstrom), where it is known.
    """

    R: Tensor
    t: Tensor
    log_weight: Tensor
    state: Tensor | None = None
    covariance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.R)

    @staticmethod
    def certain(R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]) -> PosePosterior:
        """Known poses: K = 1, weight 1."""
        return PosePosterior(R[:, None], t[:, None], R.new_zeros(len(R), 1))

    def rows(self, index: Tensor) -> PosePosterior:
        """The posteriors of some images."""
        state = None if self.state is None else self.state[index]
        covariance = None if self.covariance is None else self.covariance[index]
        return PosePosterior(self.R[index], self.t[index], self.log_weight[index], state, covariance)

    def to(self, device: torch.device) -> PosePosterior:
        """Moved to a device."""
        state = None if self.state is None else self.state.to(device)
        covariance = None if self.covariance is None else self.covariance.to(device)
        return PosePosterior(self.R.to(device), self.t.to(device), self.log_weight.to(device), state, covariance)

    def best(self) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 2"]]:
        """The candidate of largest weight of each image."""
        row = torch.arange(len(self.R), device=self.R.device)
        k = self.log_weight.argmax(1)
        return self.R[row, k], self.t[row, k]

    def bare(self) -> PosePosterior:
        """The same candidates, their widths unknown."""
        return PosePosterior(self.R, self.t, self.log_weight, self.state)

    def normalised(self) -> PosePosterior:
        """The same candidates with weights that sum to one."""
        log_weight = self.log_weight - torch.logsumexp(self.log_weight, 1, keepdim=True)
        return PosePosterior(self.R, self.t, log_weight, self.state, self.covariance)

    @staticmethod
    def joined(parts: Sequence[PosePosterior]) -> PosePosterior:
        """Of several batches, one after the other; states and covariances where all have them."""

        def together(name: str) -> Tensor | None:
            tensors = [getattr(part, name) for part in parts]
            return None if any(x is None for x in tensors) else torch.cat(tensors)

        R, t, log_weight = (torch.cat([getattr(part, name) for part in parts]) for name in ("R", "t", "log_weight"))
        return PosePosterior(R, t, log_weight, together("state"), together("covariance"))

    def top(self, count: int) -> PosePosterior:
        """The `count` heaviest candidates, heaviest first, normalised anew."""
        k = min(count, self.log_weight.shape[1])
        weight, order = torch.topk(self.log_weight, k, dim=1)
        row = torch.arange(len(self.R), device=self.R.device)[:, None]
        state = None if self.state is None else self.state[row, order]
        covariance = None if self.covariance is None else self.covariance[row, order]
        return PosePosterior(self.R[row, order], self.t[row, order], weight, state, covariance).normalised()
