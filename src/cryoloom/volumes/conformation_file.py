"""Families of volumes in files."""

from __future__ import annotations

from pathlib import Path

from cryoloom.files.described import DescribedFile
from cryoloom.volumes.interface import ConformationVolume
from cryoloom.volumes.linear_family import LinearFamily
from cryoloom.volumes.positional_mlp import PositionalMLP


class BadConformationFile(ValueError):
    """A file without a readable family of volumes."""


_FORMAT: DescribedFile[ConformationVolume] = DescribedFile(
    kinds={"positional_mlp": PositionalMLP, "linear": LinearFamily},
    error=BadConformationFile,
    what="a family of volumes",
    remedy="give conformations.safetensors of a finished run, or run cryoloom hetero again",
)


def to_bytes(volume: ConformationVolume) -> bytes:
    """Content of a file with a family of volumes.

    Raises:
        ValueError: for a kind of family that the file format does not know.
    """
    return _FORMAT.to_bytes(volume)


def read_conformations(path: Path) -> ConformationVolume:
    """The family of volumes in a file, on the CPU, ready to be evaluated.

    Raises:
        BadConformationFile: if the file holds no family of volumes, or is damaged.
        FileNotFoundError: if there is no such file.
    """
    return _FORMAT.read(path)[0].requires_grad_(False).eval()
