"""Options that several commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

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
