"""Options that several commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from cryoloom.runs.machine import memory_of

if TYPE_CHECKING:
    from cryoloom.jobs.settings import InputSettings


class DeviceName(StrEnum):
    """Values of --device."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Threads = Annotated[
    int | None,
    typer.Option("--threads", "-j", min=1, help="Number of threads.", show_default="all cores", metavar="N"),
]
Device = Annotated[
    DeviceName, typer.Option("--device", help="Where to compute; auto takes a GPU if there is one, and says so.")
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        help="Random seed; the same seed, number of threads and --memory give the same result on a CPU.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Show warnings and errors only; a verdict other than converged counts as a warning."
    ),
]

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder that image names are relative to.", show_default="that of the STAR file, then those above it"
    ),
]
PixelSize = Annotated[float | None, typer.Option(help="Pixel size, angstrom.", show_default="the file's")]
Voltage = Annotated[
    float | None, typer.Option("--voltage", help="Acceleration voltage, kV.", show_default="the file's")
]
Aberration = Annotated[float | None, typer.Option("--cs", help="Spherical aberration, mm.", show_default="the file's")]
Amplitude = Annotated[
    float | None,
    typer.Option("--amplitude-contrast", help="Amplitude contrast, 0 to 1.", show_default="the file's"),
]
BFactorSign = Annotated[
    Literal["positive", "negative"],
    typer.Option(
        "--b-factor-sign",
        help="Sign in the file of the B-factors by which the CTF falls off: positive as in RELION, negative as in "
        "exports of M.",
    ),
]
NoCTF = Annotated[bool, typer.Option("--no-ctf", help="Treat the images as free of a CTF.")]
OnBad = Annotated[
    Literal["error", "drop"],
    typer.Option(
        help="Images with NaN or infinite pixels, or the same value in all of them; error: refuse the file; drop: "
        "leave them out, also of the particles.star that is written."
    ),
]
OnDuplicates = Annotated[
    Literal["error", "keep", "drop"],
    typer.Option(
        help="Rows that name the same image; error: refuse the file; keep: use all of them; drop: use the first one."
    ),
]

Particles = Annotated[Path, typer.Argument(metavar="PARTICLES.star", help="RELION STAR file.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="RUN", help="Folder of the run.", show_default=False)]
Diameter = Annotated[
    float | None,
    typer.Option(
        "--particle-diameter",
        min=1,
        help="Longest extent of the particle, angstrom: sets the spherical mask and the resolution at which ab initio "
        "begins.",
        show_default="estimated",
    ),
]
Box = Annotated[
    int | None,
    typer.Option(
        min=16,
        help="Working box, pixels. Images are Fourier-cropped to it: faster, but the maps have this box too, and its "
        "Nyquist frequency limits their resolution.",
        show_default="that of the images",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory that the run may use, such as 8G or 800M (an estimate; conformations take more). As many images "
        "as fit are kept, the others are read again in every pass; where a map finer than 4 Å would need more, images "
        "are compared less far; a run that does not fit at all is refused before it starts.",
        show_default="what is needed to keep up to 1G of images",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.toml",
        help="Take settings from a file: a preset that comes with the program, by its name, or a TOML file of your own "
        "(see the documentation).",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in RUN.")]


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What is said of the particles in place of their file: the fields of `particles.stated.StatedInput`."""

    datadir: DataDir = None
    pixel_size: PixelSize = None
    voltage_kv: Voltage = None
    spherical_aberration_mm: Aberration = None
    amplitude_contrast: Amplitude = None
    b_factor_sign: BFactorSign = "positive"
    no_ctf: NoCTF = False
    on_bad: OnBad = "error"
    on_duplicates: OnDuplicates = "error"

    def input(self, particles: Path) -> InputSettings:
        """Settings of an input with these options."""
        from cryoloom.jobs.settings import InputSettings
        from cryoloom.particles.stated import StatedInput

        stated = {f.name: getattr(self, f.name) for f in dataclasses.fields(StatedInput)}
        stated["datadir"] = None if self.datadir is None else os.path.abspath(self.datadir)
        return InputSettings(os.path.abspath(particles), StatedInput(**stated))


@dataclass(frozen=True, kw_only=True)
class RunningOptions(InputOptions):
    """What every command that makes a run takes."""

    particle_diameter: Diameter = None
    box: Box = None
    seed: Seed = 1
    threads: Threads = None
    memory: Memory = None
    device: Device = DeviceName.AUTO
    overwrite: Overwrite = False
    quiet: Quiet = False

    def common(self, particles: Path) -> dict[str, Any]:
        """Settings that all jobs share, by name, with these options."""
        return {
            "input": self.input(particles),
            "particle_diameter_angstrom": self.particle_diameter,
            "box": self.box,
            "seed": self.seed,
            "memory_bytes": None if self.memory is None else memory_of(self.memory),
        }


def taking(**options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with parameters that are dataclasses, each field of which becomes an option of its own.

    Args:
        options: the dataclasses, by the name of the command's parameter.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            for name, kind in options.items():
                given[name] = kind(**{f.name: given.pop(f.name) for f in dataclasses.fields(kind)})
            command(**given)

        own = inspect.signature(command, eval_str=True).parameters.values()
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in options]
        added = [parameter for kind in options.values() for parameter in _parameters(kind)]
        run.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*kept, *added]}
        del run.__wrapped__  # type: ignore[attr-defined]
        return run

    return decorate


def _parameters(kind: type) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in dataclasses.fields(kind)
    ]
