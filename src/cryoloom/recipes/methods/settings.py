"""Settings of methods, by table: as in a preset file, in run.json and on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cryoloom.recipes.methods.option import check_bounds
from cryoloom.recipes.methods.registry import CONFORMATION_METHODS, POSE_METHODS


def tables() -> dict[str, type[Any]]:
    """The classes of all registered methods' settings by table."""
    methods = (*POSE_METHODS.values(), *CONFORMATION_METHODS.values())
    return {name: kind for method in methods for name, kind in method.settings.items()}


class MethodSettings(Mapping[str, Any]):
    """Settings by table; a table that is not given has its defaults. Immutable."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        """`given`: instances, by table, of the classes that methods name (`PoseMethod.settings`)."""
        self._given = dict(given or {})

    def __getitem__(self, table: str) -> Any:
        """The settings of a table.

        Raises:
            KeyError: for a table that no registered method has.
        """
        return self._given[table] if table in self._given else tables()[table]()

    def __repr__(self) -> str:
        return f"MethodSettings({', '.join(self._given) or 'defaults'})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def with_table(self, table: str, settings: Any) -> MethodSettings:
        """The same with the settings of a table replaced.

        Raises:
            ValueError: for a value beyond the bounds of its option.
        """
        check_bounds(table, settings)
        return MethodSettings({**self._given, table: settings})

    def changed(self, table: str, **values: Any) -> MethodSettings:
        """The same with some settings of a table changed."""
        return self.with_table(table, dataclasses.replace(self[table], **values))

    def with_options(self, method_tables: Iterable[str], options: Mapping[str, Any]) -> MethodSettings:
        """The same with settings of a method changed, by their names alone.

        Args:
            method_tables: tables of the method (`PoseMethod.settings`); the first one with such a setting is meant.

        Raises:
            ValueError: for a name that none of the tables has.
        """
        settings, names = self, list(method_tables)
        for name, value in options.items():
            owners = [t for t in names if name in {f.name for f in dataclasses.fields(self[t])}]
            if not owners:
                known = (f.name for t in names for f in dataclasses.fields(self[t]))
                raise ValueError(f"{name}: no setting of this method; expected one of {', '.join(known)}")
            settings = settings.changed(owners[0], **{name: value})
        return settings

    def of(self, names: Iterable[str]) -> MethodSettings:
        """Only these tables, with defaults written out, as a run records them."""
        return MethodSettings({name: self[name] for name in names})

    @classmethod
    def from_tables(cls, values: Mapping[str, Any], read: Any) -> MethodSettings:
        """Rebuilt from plain values by table.

        Args:
            read: builds a dataclass from a plain value: read(class, value, table).

        Raises:
            ValueError: for a table that no registered method has.
        """
        known = tables()
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}\n  expected: {', '.join(known)}")
        return cls({name: read(known[name], value, name) for name, value in values.items()})
