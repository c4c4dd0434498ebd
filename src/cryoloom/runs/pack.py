"""Conversion of frozen dataclasses to flat arrays and back, by their type hints: recipe states in checkpoints.

A field becomes one array (a number an array of dimension 0, a text its UTF-8 bytes) under its dotted name; nested
dataclasses, tuples and mappings add to the name. A value of None becomes no array.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

import numpy as np

if TYPE_CHECKING:
    import torch

    Arrays = Mapping[str, np.ndarray | torch.Tensor]

T = TypeVar("T")
_NUMBERS: dict[type, type] = {bool: np.bool_, int: np.int64, float: np.float64}
_LENGTH = "length"  # of a tuple of any length, beside its items


def pack(state: object) -> dict[str, np.ndarray | torch.Tensor]:
    """A dataclass as flat arrays; tensors and arrays are not copied.

    Raises:
        TypeError: for a field whose type can't be packed, or whose value is not of that type.
    """
    packed: dict[str, np.ndarray | torch.Tensor] = {}
    _pack(type(state), state, "", packed)
    return packed


def unpack(kind: type[T], arrays: Arrays) -> T:
    """The dataclass of type `kind` from which `pack` made these arrays.

    Raises:
        KeyError: for a missing array or one without a field: another version wrote the arrays.
    """
    names = set(arrays)
    found = _unpack(kind, arrays, "", names)
    if names:
        raise KeyError(f"unknown: {', '.join(sorted(names))}")
    return found


def _pack(hint: Any, value: Any, name: str, packed: dict[str, Any]) -> None:
    optional, hint = _without_none(hint)
    if optional and value is None:
        return
    before = len(packed)
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        for field, inner in _hints(hint):
            _pack(inner, getattr(value, field), _join(name, field), packed)
    elif origin is tuple:
        inner, variable = _items(hint, len(value))
        if variable:
            packed[_join(name, _LENGTH)] = np.asarray(len(value), np.int64)
        for index, (item_hint, item) in enumerate(zip(inner, value, strict=True)):
            _pack(item_hint, item, _join(name, str(index)), packed)
    elif _is_mapping(origin):
        for key, item in value.items():
            _pack(typing.get_args(hint)[1], item, _join(name, key), packed)
    else:
        packed[name] = _leaf(hint, value, name)
    if optional and len(packed) == before:
        raise TypeError(f"{name}: a value without any array can't be told from None")


def _leaf(hint: Any, value: Any, name: str) -> Any:
    if hint in _NUMBERS and isinstance(value, hint | np.generic):
        return np.asarray(value, _NUMBERS[hint])
    if hint is float and isinstance(value, int):
        return np.asarray(value, np.float64)
    if (hint is str or typing.get_origin(hint) is Literal) and isinstance(value, str):
        return np.frombuffer(value.encode(), np.uint8).copy()
    if _is_array(hint) and hasattr(value, "shape"):
        return value
    raise TypeError(f"{name}: {type(value).__name__} can't be packed as {hint}")


def _unpack(hint: Any, arrays: Arrays, name: str, left: set[str]) -> Any:
    optional, hint = _without_none(hint)
    if optional and name not in left and not any(key.startswith(f"{name}.") for key in left):
        return None
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return hint(**{f: _unpack(inner, arrays, _join(name, f), left) for f, inner in _hints(hint)})  # type: ignore[operator]
    if origin is tuple:
        count = None
        if _items(hint, 0)[1]:
            count = int(_take(arrays, _join(name, _LENGTH), left))
        inner, _ = _items(hint, count)
        return tuple(_unpack(h, arrays, _join(name, str(i)), left) for i, h in enumerate(inner))
    if _is_mapping(origin):
        keys = sorted(key for key in left if key.startswith(f"{name}."))
        inner = typing.get_args(hint)[1]
        return {key[len(name) + 1 :]: _unpack(inner, arrays, key, left) for key in keys}
    array = _take(arrays, name, left)
    if hint in _NUMBERS:
        return hint(np.asarray(array).item())
    if hint is str or origin is Literal:
        return np.asarray(array).tobytes().decode()
    if getattr(hint, "array_type", hint) is np.ndarray:
        return np.asarray(array)
    import torch

    return torch.as_tensor(array)


def _take(arrays: Arrays, name: str, left: set[str]) -> Any:
    left.discard(name)
    return arrays[name]


def _join(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


@functools.cache
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))  # type: ignore[arg-type]


def _without_none(hint: Any) -> tuple[bool, Any]:
    """Whether None is allowed, and the hint without it."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [h for h in typing.get_args(hint) if h is not type(None)]
        if len(rest) == 1 and len(rest) < len(typing.get_args(hint)):
            return True, rest[0]
    return False, hint


def _items(hint: Any, count: int | None) -> tuple[Iterable[Any], bool]:
    """Hints of a tuple's items, and whether their number is variable."""
    inner = typing.get_args(hint)
    if len(inner) == 2 and inner[1] is ...:
        return (inner[0],) * (count or 0), True
    return inner, False


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_array(hint: Any) -> bool:
    """Whether a hint is a NumPy array or a torch tensor, plain or with a shape (jaxtyping)."""
    hint = getattr(hint, "array_type", hint)
    return isinstance(hint, type) and (hint is np.ndarray or hint.__module__.split(".")[0] == "torch")
