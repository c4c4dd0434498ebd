"""Networks in training as plain arrays: parameters, buffers and Adam's moments, into a checkpoint and back exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of some modules and their optimiser, by name; never written into."""

    arrays: Mapping[str, Tensor]


class Trainer:
    """Modules by name with one Adam (amsgrad off) over all, a learning rate each.

    `weights` and `restore` carry everything that the next update depends on, so that a run that goes on from them
    equals one that was never interrupted.
    """

    def __init__(self, modules: Mapping[str, nn.Module], rates: Mapping[str, float]) -> None:
        self.modules = nn.ModuleDict(modules)
        self.rates = dict(rates)
        self._adam = torch.optim.Adam(
            [{"params": list(m.parameters()), "lr": rates[n]} for n, m in modules.items()], foreach=True
        )
        self._last: Weights | None = None

    def update(self, loss: Tensor, rate: float = 1.0) -> dict[str, float]:
        """One step of Adam at `rate` times the learning rates; norms of the gradients, by module, before clipping."""
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        norms = {
            name: float(nn.utils.clip_grad_norm_(module.parameters(), GRADIENT_NORM))
            for name, module in self.modules.items()
        }
        for group, name in zip(self._adam.param_groups, self.modules, strict=True):
            group["lr"] = rate * self.rates[name]
        self._adam.step()
        return norms

    def weights(self) -> Weights:
        """A copy of the present state."""
        arrays = {name: value.detach().clone() for name, value in self.modules.state_dict().items()}
        for name, parameter in self.modules.named_parameters():
            for key, value in self._adam.state.get(parameter, {}).items():
                arrays[f"adam.{key}.{name}"] = value.detach().clone()
        self._last = Weights(arrays)
        return self._last

    def restore(self, weights: Weights) -> None:
        """Back to a state; free of cost where it is the one that was handed out last."""
        if weights is self._last:
            return
        arrays = weights.arrays
        self.modules.load_state_dict({n: v for n, v in arrays.items() if not n.startswith("adam.")})
        self._adam.state.clear()
        for name, parameter in self.modules.named_parameters():
            state = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = arrays.get(f"adam.{key}.{name}")
                if value is not None:
                    # Adam counts its steps in a tensor on the CPU
                    state[key] = value.clone().cpu() if key == "step" else value.clone().to(parameter)
            if state:
                self._adam.state[parameter] = state
        self._last = weights


def to_arrays(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Flat arrays for a checkpoint."""
    return {prefix + name: value.cpu() for name, value in weights.arrays.items()}


def from_arrays(arrays: Mapping[str, np.ndarray | Tensor], prefix: str) -> Weights:
    """The inverse of `to_arrays`."""
    return Weights(
        {name[len(prefix) :]: torch.as_tensor(value) for name, value in arrays.items() if name.startswith(prefix)}
    )
