"""Presets: settings files that a user can read, copy and change."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryoloom.reconstruct.config import ReconstructSettings
from cryoloom.reconstruct.run_record import BadRunFolder, from_json, to_json

FOLDER = Path(__file__).with_name("presets")
CHOOSABLE = ("poses", "abinit", "refine", "amortized", "wake_sleep")


def names() -> list[str]:
    """Of the presets that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def preset_file(preset: str) -> Path:
    """The file of a preset given by name or path.

    Raises:
        ValueError: if there is no such preset.
    """
    built_in = FOLDER / f"{preset}.toml"
    path = built_in if built_in.exists() else Path(preset)
    if not path.is_file():
        raise ValueError(
            f"--preset {preset}: no such preset\n  expected: one of {', '.join(names())}, or the path of a TOML file; "
            f"those files lie in {FOLDER} to be copied and changed"
        )
    return path


def with_preset(settings: ReconstructSettings, preset: str) -> ReconstructSettings:
    """Settings with those of a preset in place of the defaults.

    Raises:
        ValueError: for a preset that isn't there, isn't TOML, or holds what is not a setting; file and name are given.
    """
    path = preset_file(preset)
    try:
        chosen = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    unknown = sorted(set(chosen) - set(CHOOSABLE))
    if unknown:
        raise ValueError(f"{path}: unknown: {', '.join(unknown)}\n  expected: {', '.join(CHOOSABLE)}")
    whole = to_json(settings)
    for name, value in chosen.items():
        whole[name] = {**whole[name], **value} if isinstance(value, Mapping) else value
    return _checked(whole, path)


def _checked(whole: dict[str, Any], path: Path) -> ReconstructSettings:
    try:
        return from_json(ReconstructSettings, whole, str(path))
    except BadRunFolder as error:
        raise ValueError(str(error).split("\n  what to do")[0]) from error
