"""Presets: settings files that a user can read, copy and change."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
from cryoloom.runs.record import BadRunFolder, from_json, to_json

S = TypeVar("S", ReconstructSettings, HeteroSettings)


@dataclass(frozen=True, slots=True)
class Presets:
    """The presets of one kind of run: the folder of those that come with the program, and what they may choose."""

    folder: Path
    choosable: tuple[str, ...]

    def names(self) -> list[str]:
        """Of those that come with the program."""
        return sorted(path.stem for path in self.folder.glob("*.toml"))

    def file(self, preset: str) -> Path:
        """The file of a preset given by name or path.

        Raises:
            ValueError: if there is no such preset.
        """
        built_in = self.folder / f"{preset}.toml"
        path = built_in if built_in.exists() else Path(preset)
        if not path.is_file():
            raise ValueError(
                f"--preset {preset}: no such preset\n  expected: one of {', '.join(self.names())}, or the path of a "
                f"TOML file; those files lie in {self.folder} to be copied and changed"
            )
        return path


_FOLDER = Path(__file__).with_name("presets")
PRESETS = {
    ReconstructSettings: Presets(_FOLDER, ("poses", "abinit", "refine", "amortized", "wake_sleep")),
    HeteroSettings: Presets(
        _FOLDER / "hetero", ("method", "poses", "classes", "subspace", "turns", "network", "abinit", "refine")
    ),
}


def with_preset(settings: S, preset: str) -> S:
    """Settings with those of a preset in place of the defaults.

    Raises:
        ValueError: for a preset that isn't there, isn't TOML, or holds what is not a setting; file and name are given.
    """
    presets = PRESETS[type(settings)]
    path = presets.file(preset)
    try:
        chosen = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    unknown = sorted(set(chosen) - set(presets.choosable))
    if unknown:
        raise ValueError(f"{path}: unknown: {', '.join(unknown)}\n  expected: {', '.join(presets.choosable)}")
    whole: dict[str, Any] = to_json(settings)
    for name, value in chosen.items():
        whole[name] = {**whole[name], **value} if isinstance(value, Mapping) else value
    try:
        return from_json(type(settings), whole, str(path))
    except BadRunFolder as error:
        raise ValueError(str(error).split("\n  what to do")[0]) from error
