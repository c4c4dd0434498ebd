"""Options that several commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer


class DeviceName(StrEnum):
    """Values of --device."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Threads = Annotated[
    int | None,
    typer.Option("--threads", "-j", min=1, help="Threads to use.", show_default="all cores", metavar="N"),
]
Device = Annotated[
    DeviceName, typer.Option("--device", help="Where to compute; auto takes a GPU if there is one, and says so.")
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of all randomness: same seed, same threads, same result on a CPU.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]


def taking(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameter `options` is a dataclass, each field of which becomes an option of its own."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = [f.name for f in dataclasses.fields(options)]
        hints = get_type_hints(options, include_extras=True)

        @functools.wraps(command)
        def run(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in fields}
            command(**given, options=options(**chosen))

        own = inspect.signature(command, eval_str=True).parameters.values()
        added = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
            for f in dataclasses.fields(options)
        ]
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name != "options"]
        run.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*kept, *added]}
        del run.__wrapped__  # type: ignore[attr-defined]
        return run

    return decorate
