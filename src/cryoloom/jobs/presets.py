"""Presets: settings files that a user can read, copy and change."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cryoloom.jobs.settings import Common, HeteroSettings, ReconstructSettings
from cryoloom.recipes.methods.settings import tables
from cryoloom.runs.record import from_json, to_json

S = TypeVar("S", ReconstructSettings, HeteroSettings)


@dataclass(frozen=True, slots=True)
class Presets:
    """Presets of one kind of run: the folder of the built-in ones, and the settings that presets may set besides the
    tables of methods."""

    folder: Path
    choosable: tuple[str, ...]

    def names(self) -> list[str]:
        """Names of the presets that come with the program."""
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
                f"TOML file; the built-in files, to be copied and changed, lie in {self.folder}"
            )
        return path


_FOLDER = Path(__file__).with_name("presets")
PRESETS: dict[type[Common], Presets] = {
    ReconstructSettings: Presets(_FOLDER, ("poses", "refine", "mixture", "pca_with_poses")),
    HeteroSettings: Presets(_FOLDER / "hetero", ("method", "poses", "refine", "pca_with_poses")),
}


def chosen_settings(settings: S, preset: str | None, **stated: str | None) -> S:
    """Settings with those of a preset in place of the defaults, and over both what the user states.

    Args:
        preset: name of a preset, or path of a settings file; None for the defaults.
        stated: settings of the job by name, such as `poses`; None where nothing is stated.

    Raises:
        ValueError: see `with_preset`.
    """
    if preset is not None:
        settings = with_preset(settings, preset)
    return replace(settings, **{name: value for name, value in stated.items() if value is not None})


def with_preset(settings: S, preset: str) -> S:
    """Settings with those of a preset in place of the defaults.

    Raises:
        ValueError: for a preset that does not exist, is not TOML, or holds unknown settings; with the file and setting.
    """
    presets = PRESETS[type(settings)]
    path = presets.file(preset)
    try:
        chosen = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    methods, known = tables(), {f.name for f in fields(settings)}
    expected = (*presets.choosable, *methods)
    unknown = sorted(set(chosen) - set(expected))
    if unknown:
        raise ValueError(f"{path}: unknown: {', '.join(unknown)}\n  expected: {', '.join(expected)}")
    try:
        for name, value in chosen.items():
            # a table of a method lies among the settings of methods, whatever its name
            present = getattr(settings, name) if name in known else settings.methods[name]
            kind = type(present)
            plain = {**to_json(present), **value} if isinstance(value, Mapping) else value
            read: Any = from_json(kind, plain, f"{path}, {name}")
            if name in known:
                settings = replace(settings, **{name: read})
            else:
                settings = replace(settings, methods=settings.methods.with_table(name, read))
    except ValueError as error:
        said = str(error).split("\n  what to do")[0]
        raise ValueError(said if str(path) in said else f"{path}: {said}") from error
    return settings
