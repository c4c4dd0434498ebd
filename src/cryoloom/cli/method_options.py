"""Options of the command line that methods bring along: fields of their settings marked with `option`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

import typer

from cryoloom.recipes.methods.method import ConformationMethod, PoseMethod
from cryoloom.recipes.methods.option import Option, options_of
from cryoloom.recipes.methods.settings import MethodSettings

Methods = Mapping[str, PoseMethod] | Mapping[str, ConformationMethod]


def option_class(methods: Methods, **choices: Any) -> type:
    """A dataclass with a field for every option of these methods, None where it is not given.

    It is made for `cli.options.taking`; `method_settings` reads its instances.

    Args:
        choices: further options of the class, by field (see `choice`).
    """
    fields: list[tuple[str, Any, Any]] = [
        (name, hint, dataclasses.field(default=None)) for name, hint in choices.items()
    ]
    for table, field, chosen in _options(methods):
        kind = _tables(methods)[table]
        hint = get_type_hints(kind)[field]
        default = next(f.default for f in dataclasses.fields(kind) if f.name == field)
        of = _methods_with(methods, table)
        words = chosen.help if len(of) == len(methods) else f"{chosen.help} ({', '.join(of)})"
        shown = chosen.default if chosen.default is not None else _shown(default)
        given = typer.Option(*chosen.flags, help=words, min=chosen.minimum, max=chosen.maximum, show_default=shown)
        fields.append((_name(table, field), Annotated[hint | None, given], dataclasses.field(default=None)))
    return dataclasses.make_dataclass("MethodOptions", fields, frozen=True, kw_only=True)


def method_settings(given: Any, methods: Methods, name: str, settings: MethodSettings, choice: str) -> MethodSettings:
    """Settings with the options that were given on the command line in place.

    Args:
        given: instance of the class that `option_class` made; name: the method that was chosen, with the option
            `choice` (--poses).

    Raises:
        ValueError: for an option of a method that was not chosen.
    """
    for table, field, chosen in _options(methods):
        value = getattr(given, _name(table, field))
        if value is None:
            continue
        if table not in methods[name].settings:
            others = " or ".join(f"{choice} {method}" for method in _methods_with(methods, table))
            raise ValueError(f"{chosen.flags[0].split('/')[0]} belongs to {others}; this run has {choice} {name}")
        settings = settings.changed(table, **{field: value})
    return settings


def choice(flag: str, names: Iterable[str], help: str, default: str) -> Any:
    """An option that takes one of some names, None where it is not given; for `option_class`."""
    return Annotated[Literal[tuple(names)] | None, typer.Option(flag, help=help, show_default=default)]


def choice_help(methods: Methods) -> str:
    """The methods with a line each, for the help of the option that chooses one."""
    return "; ".join(f"{method.name}: {method.help}" for method in methods.values())


def _options(methods: Methods) -> Iterable[tuple[str, str, Option]]:
    for table, kind in _tables(methods).items():
        for field, chosen in options_of(kind).items():
            yield table, field, chosen


def _tables(methods: Methods) -> dict[str, type[Any]]:
    return {table: kind for method in methods.values() for table, kind in method.settings.items()}


def _methods_with(methods: Methods, table: str) -> list[str]:
    return [method.name for method in methods.values() if table in method.settings]


def _name(table: str, field: str) -> str:
    return f"{table}_{field}"


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default)
