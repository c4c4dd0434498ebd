"""The error that people see when their input can't be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class BadInput(ValueError):
    """Input that can't be used; the message is for people, not for programmers.

    It says what is wrong, in which file and where, what was found, what was expected and what to do.
    """

    @classmethod
    def report(
        cls,
        what: str,
        *,
        file: Path | str | None = None,
        where: str | None = None,
        found: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> BadInput:
        """The error with a message of one line per known fact; facts left out have no line."""
        facts = (("file", file), ("where", where), ("found", found), ("expected", expected), ("what to do", fix))
        return cls("\n".join([what, *(f"  {name}: {value}" for name, value in facts if value is not None)]))


def listed(values: Sequence[object], limit: int = 5) -> str:
    """The first few of a list, and how many more there are: '1, 2, 3 and 7 more'."""
    shown = ", ".join(str(v) for v in values[:limit])
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"
