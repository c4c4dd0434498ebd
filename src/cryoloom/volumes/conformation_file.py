"""A family of volumes in a file: safetensors with the numbers that it is built from; nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError

from cryoloom.volumes.interface import ConformationVolume
from cryoloom.volumes.linear_family import LinearFamily
from cryoloom.volumes.positional_mlp import PositionalMLP

# a kind has `described`, `tensors()` and the class method `of_file(described, tensors)`
KINDS: dict[str, type[PositionalMLP] | type[LinearFamily]] = {
    "positional_mlp": PositionalMLP,
    "linear": LinearFamily,
}


class BadConformationFile(ValueError):
    """A file that holds no family of volumes of ours."""


def to_bytes(volume: ConformationVolume) -> bytes:
    """The file's content.

    Raises:
        ValueError: for a family that has no kind in `KINDS`.
    """
    for kind, cls in KINDS.items():
        if type(volume) is cls:
            about = {"kind": kind, "described": volume.described}
            tensors = {name: value.detach().cpu().contiguous() for name, value in volume.tensors().items()}
            return safetensors.torch.save(tensors, {"cryoloom": json.dumps(about)})
    raise ValueError(f"{type(volume).__name__} can't be written to a file; expected one of {', '.join(KINDS)}")


def read_conformations(path: Path) -> ConformationVolume:
    """The family of volumes in a file, on the CPU.

    Raises:
        BadConformationFile: if the file is not one of ours, or damaged.
        FileNotFoundError: if there is none.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["cryoloom"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return KINDS[about["kind"]].of_file(about["described"], tensors).requires_grad_(False).eval()
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadConformationFile(
            f"{path}: not a family of volumes that this version of cryoloom can read ({error})\n"
            "  what to do: give conformations.safetensors of a finished run, or run cryoloom hetero again"
        ) from error
