"""State of networks in training as plain arrays (parameters, buffers, Adam's moments), for exact checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of some modules and their optimiser, by name; never written into."""

    arrays: Mapping[str, Tensor]


class Trainer:
    """Named modules with one Adam optimiser (without amsgrad) and a learning rate for each module.

    `weights` and `restore` carry everything that the next update depends on, so that a resumed run equals one that was
    never interrupted.
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
        self._last = None
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
        """Restore a state; nothing is done if it is the present one."""
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


@dataclass(frozen=True, slots=True)
class Table:
    """C parameters for each of N images, with Adam's moments and number of updates separate for every row.

    An image comes up once in a pass over the set: a common Adam would move its row by outdated momentum, and apply the
    bias correction of a wrong number of updates.

    Attributes:
        values, first, second: [N, C], parameters and Adam's moments; steps: [N], updates so far.
    """

    values: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor

    @staticmethod
    def create(values: Tensor) -> Table:
        """A table with these initial values [N, C]."""
        zeros = torch.zeros_like(values)
        return Table(values.clone(), zeros, zeros.clone(), values.new_zeros(len(values)))

    def copy(self) -> Table:
        """A copy, which can be updated without changing this table."""
        return Table(self.values.clone(), self.first.clone(), self.second.clone(), self.steps.clone())

    def rows(self, index: Tensor) -> Tensor:
        """Parameters of some images as a leaf of the graph, whose gradient `update` takes."""
        return self.values[index].requires_grad_()

    def update(self, index: Tensor, gradient: Tensor, rate: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        """A step of Adam on some rows, in place; moments have a short memory because rows are seldom updated.

        Args:
            gradient: gradient of each row's own loss, [B, C]; index: the rows, [B], without repetition.
        """
        steps = self.steps[index] + 1
        first = torch.lerp(self.first[index], gradient, 1 - betas[0])
        second = torch.lerp(self.second[index], gradient.square(), 1 - betas[1])
        unbiased = [m / (1 - b**steps)[:, None] for m, b in ((first, betas[0]), (second, betas[1]))]
        self.values[index] -= rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        self.first[index], self.second[index], self.steps[index] = first, second, steps
