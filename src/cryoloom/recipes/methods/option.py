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


def check_bounds(table: str, settings: Any) -> None:
    """Raises:
    ValueError: for a setting of a table beyond the bounds that its option has.
    """
    for name, bounds in options_of(type(settings)).items():
        value = getattr(settings, name)
        if value is None:
            continue
        if bounds.minimum is not None and value < bounds.minimum:
            raise ValueError(f"{table}.{name} = {value}; expected at least {bounds.minimum}")
        if bounds.maximum is not None and value > bounds.maximum:
            raise ValueError(f"{table}.{name} = {value}; expected at most {bounds.maximum}")


def options_of(settings: type) -> dict[str, Option]:
    """The options among the fields of a settings class, by field."""
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(settings)
    return {f.name: f.metadata[_KEY] for f in fields if _KEY in f.metadata}
