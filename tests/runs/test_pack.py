"""States packed from their type hints: what goes in comes out, and what does not belong is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.runs.pack import pack, unpack


@dataclass(frozen=True)
class Inner:
    values: Float[Tensor, " N"]
    name: str


@dataclass(frozen=True)
class State:
    step: int
    sigma: float
    done: bool
    kind: Literal["vae", "autodecoder"]
    label: str
    chosen: int | None
    half: np.ndarray
    pair: tuple[Tensor, Tensor]
    starts: tuple[Inner, ...]
    evidence: tuple[float, ...]
    inner: Inner | None
    statistics: tuple[Tensor, Tensor] | None
    weights: Mapping[str, Tensor]


def state(**changes) -> State:
    values = {
        "step": 3,
        "sigma": 0.1,
        "done": False,
        "kind": "vae",
        "label": "Å and more",
        "chosen": None,
        "half": np.arange(4),
        "pair": (torch.zeros(2), torch.ones(1, dtype=torch.complex64)),
        "starts": (Inner(torch.arange(3.0), "a"), Inner(torch.zeros(0), "")),
        "evidence": (1.5, -2.0),
        "inner": None,
        "statistics": None,
        "weights": {"net.0.weight": torch.ones(2, 2), "adam.step.net.0.weight": torch.tensor(3.0)},
    }
    return State(**(values | changes))  # type: ignore[arg-type]


def same(a: object, b: object) -> bool:
    one, two = pack(a), pack(b)
    return one.keys() == two.keys() and all(np.array_equal(np.asarray(v), np.asarray(two[k])) for k, v in one.items())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"chosen": 0},
        {"inner": Inner(torch.ones(1), "b"), "statistics": (torch.ones(1), torch.ones(2))},
        {"starts": (), "evidence": (), "weights": {}},
        {"done": True, "kind": "autodecoder", "sigma": 2},
    ],
    ids=str,
)
def test_what_goes_in_comes_out(changes):
    before = state(**changes)
    after = unpack(State, pack(before))
    assert same(before, after)
    assert type(after.step) is int
    assert type(after.sigma) is float
    assert type(after.done) is bool
    assert (after.chosen, after.kind, after.label) == (before.chosen, before.kind, before.label)
    assert len(after.starts) == len(before.starts)
    assert isinstance(after.half, np.ndarray)
    assert isinstance(after.pair[0], Tensor)
    assert (after.inner is None) == (before.inner is None)
    assert (after.statistics is None) == (before.statistics is None)
    assert after.weights.keys() == before.weights.keys()


def test_whole_numbers_stay_whole():
    packed = pack(state(step=2**53 + 1))
    assert packed["step"].dtype == np.int64
    assert unpack(State, packed).step == 2**53 + 1


def test_tensors_are_not_copied():
    before = state()
    assert pack(before)["pair.0"] is before.pair[0]


def test_arrays_that_are_missing_or_unknown_are_named():
    packed = dict(pack(state()))
    del packed["sigma"]
    with pytest.raises(KeyError, match="sigma"):
        unpack(State, packed)
    with pytest.raises(KeyError, match=r"unknown: numbers"):
        unpack(State, {**pack(state()), "numbers": np.zeros(3)})


def test_what_can_not_be_packed_is_refused():
    @dataclass(frozen=True)
    class Odd:
        table: object

    with pytest.raises(TypeError, match="table"):
        pack(Odd(3))
    with pytest.raises(TypeError, match="step"):
        pack(state(step="three"))
