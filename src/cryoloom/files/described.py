"""Trained modules in safetensors files, each with the settings to rebuild it; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor


class Described(Protocol):
    """A module that a file can hold."""

    @property
    def described(self) -> Mapping[str, Any]:
        """Numbers and text, without tensors, from which the module is rebuilt."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the module, learnt or given."""
        ...

    @classmethod
    def of_file(cls, described: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Rebuild a module from the contents of its file, the inverse of `described` and `tensors`."""
        ...


Module = TypeVar("Module", bound=Described)


@dataclass(frozen=True, slots=True)
class DescribedFile(Generic[Module]):
    """A format of files that hold one module each.

    Attributes:
        kinds: classes of the modules, by their names in the files.
        error: exception for files that can't be read.
        what: the content of such files in words; remedy: what to do where a file can't be read.
    """

    kinds: Mapping[str, type[Module]]
    error: type[ValueError]
    what: str
    remedy: str

    def to_bytes(self, module: Module, extra: Mapping[str, Any] | None = None) -> bytes:
        """Content of a file with a module and further numbers and text.

        Raises:
            ValueError: for a module that is of none of the kinds.
        """
        for kind, cls in self.kinds.items():
            if type(module) is cls:
                about = {"kind": kind, "described": dict(module.described), **(extra or {})}
                tensors = {name: value.detach().cpu().contiguous() for name, value in module.tensors().items()}
                return safetensors.torch.save(tensors, {"cryoloom": json.dumps(about)})
        kinds = ", ".join(cls.__name__ for cls in self.kinds.values())
        raise ValueError(f"{type(module).__name__} can't be written to a file; expected one of {kinds}")

    def read(self, path: Path) -> tuple[Module, Mapping[str, Any]]:
        """The module of a file, on the CPU, and all numbers and text of its header.

        Raises:
            FileNotFoundError: if there is no such file.
            `error`: if the file is damaged, of another format or of an unknown version.
        """
        if not path.exists():
            raise FileNotFoundError(path)
        try:
            with safetensors.safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["cryoloom"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return self.kinds[about["kind"]].of_file(about["described"], tensors), about
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self.error(
                f"{path}: not {self.what} that this version of cryoloom can read ({error})\n  what to do: {self.remedy}"
            ) from error
