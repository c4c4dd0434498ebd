"""Settings that are also options of the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_KEY = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """How a setting is given on the command line.

    Attributes:
        flags: "--restarts", or "--polish/--no-polish" for a switch; help: one line.
        minimum, maximum: bounds of a number; default: what the help shows where the setting's default says nothing.
    """

    flags: tuple[str, ...]
    help: str
    minimum: float | None = None
    maximum: float | None = None
    default: str | None = None


def option(
    *flags: str, help: str, minimum: float | None = None, maximum: float | None = None, default: str | None = None
) -> Mapping[str, Option]:
    """Metadata of a settings field (`dataclasses.field`) that make it an option; arguments as those of `Option`."""
    return {_KEY: Option(flags, help, minimum, maximum, default)}


def options_of(settings: type) -> dict[str, Option]:
    """The options among the fields of a settings class, by field."""
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(settings)
    return {f.name: f.metadata[_KEY] for f in fields if _KEY in f.metadata}
