"""cryoloom simulate: particles of known truth from atomic models or maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoloom.cli.options import Device, DeviceName, Quiet, Seed, Threads, taking

if TYPE_CHECKING:
    from cryoloom.simulation.states import StateGeometry
    from cryoloom.simulation.truth import SimulationSettings


class PixelType(StrEnum):
    """Type of the written pixels."""

    float32 = "float32"
    float16 = "float16"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(simulate)


Option = typer.Option
Numbers = Annotated[int, Option("--n", "-n", help="Number of images.")]
Snr = Annotated[
    float, Option(help="Variance of the clean, CTF-modulated image over that of the noise, in the whole box.")
]
Box = Annotated[int | None, Option(min=8, help="Side of the images, pixels (default: 64, or that of the map).")]
Pixel = Annotated[
    float | None, Option(help="Angstrom per pixel (default: the molecule fills 0.7 of the box, or that of the map).")
]
MapPixel = Annotated[float | None, Option(help="Angstrom per voxel of maps whose header is wrong or empty.")]
BFactor = Annotated[float, Option(help="B-factor of all atoms, A^2.")]
Frames = Annotated[
    str, Option(help="Frames of trajectories, each a state: numbers and START:STOP:STEP, joined by commas.")
]
Shares = Annotated[str, Option(help="Shares of the states, joined by commas (default: equal).")]
Centre = Annotated[
    tuple[float, float, float] | None,
    Option(help="Point of the models that is put at the centre of the box (default: mean atom of the first model)."),
]
Symmetry = Annotated[str, Option(help="Point group by which copies of each model are assembled: Cn, Dn, T, O or I.")]
Radius = Annotated[float, Option(help="Distance of the first copy's centre from the symmetry axis, angstrom.")]
Defocus = Annotated[
    tuple[float, float], Option(help="Range of the defocus, angstrom; one value is drawn for each micrograph.")
]
Astigmatism = Annotated[float, Option(help="Difference of defocus U - V, angstrom.")]
PhaseShift = Annotated[float, Option(help="Phase shift of a phase plate, degrees.")]
CtfBFactor = Annotated[float, Option(help="B-factor of the CTF's envelope exp(-B k^2 / 4), A^2.")]
OpticsGroups = Annotated[int, Option(help="Number of optics groups, cycling through three microscopes.")]
PerMicrograph = Annotated[int, Option(help="Number of images from one micrograph.")]
Shift = Annotated[float, Option(help="Standard deviation of the shift along each axis, pixels.")]
NoiseColour = Annotated[float, Option(help="c in the noise power 1 + c exp(-(k / 0.1 Nyquist)^2).")]
Contrast = Annotated[float, Option(help="Standard deviation of the contrast of the images around 1.")]
Preferred = Annotated[float, Option(help="Share of views within 20 degrees of the top view.")]
Junk = Annotated[float, Option(help="Share of images that show a random blob instead of a molecule.")]
NoiseOnly = Annotated[bool, Option("--noise-only", help="Put no molecule in any image.")]
Dtype = Annotated[PixelType, Option(help="Type of the pixels.")]
Replace = Annotated[bool, Option("--overwrite", help="Replace an earlier set in OUTDIR.")]


@dataclass(frozen=True, kw_only=True)
class SimulationOptions:
    """Options of the command."""

    n: Numbers = 5000
    snr: Snr = 0.1
    box: Box = None
    pixel_size: Pixel = None
    map_pixel_size: MapPixel = None
    b_factor: BFactor = 100.0
    frames: Frames = "0"
    shares: Shares = ""
    centre: Centre = None
    symmetry: Symmetry = "C1"
    radius: Radius = 40.0
    defocus: Defocus = (10000.0, 25000.0)
    astigmatism: Astigmatism = 0.0
    phase_shift: PhaseShift = 0.0
    ctf_b_factor: CtfBFactor = 0.0
    optics_groups: OpticsGroups = 1
    per_micrograph: PerMicrograph = 100
    shift: Shift = 1.5
    noise_colour: NoiseColour = 0.0
    contrast: Contrast = 0.0
    preferred: Preferred = 0.0
    junk: Junk = 0.0
    noise_only: NoiseOnly = False
    seed: Seed = 1
    dtype: Dtype = PixelType.float32
    overwrite: Replace = False
    device: Device = DeviceName.AUTO
    threads: Threads = None
    quiet: Quiet = False

    def settings(self) -> SimulationSettings:
        """Properties of the simulated images."""
        from cryoloom.simulation.truth import SimulationSettings

        return SimulationSettings(
            count=self.n,
            snr=self.snr,
            seed=self.seed,
            shares=_numbers(self.shares),
            shift_px=self.shift,
            defocus_angstrom=self.defocus,
            astigmatism_angstrom=self.astigmatism,
            phase_shift_degrees=self.phase_shift,
            ctf_b_factor_angstrom2=self.ctf_b_factor,
            optics_groups=self.optics_groups,
            images_per_micrograph=self.per_micrograph,
            noise_colour=self.noise_colour,
            contrast=self.contrast,
            preferred=self.preferred,
            junk=self.junk,
            noise_only=self.noise_only,
            dtype=self.dtype.value,
        )

    def geometry(self) -> StateGeometry:
        """Placement of the models or maps in the box."""
        from cryoloom.simulation.states import StateGeometry

        return StateGeometry(
            box=self.box,
            pixel_size=self.pixel_size,
            b_factor_angstrom2=self.b_factor,
            symmetry=self.symmetry,
            radius_angstrom=self.radius,
            map_pixel_size=self.map_pixel_size,
            centre_angstrom=self.centre,
        )


@taking(options=SimulationOptions)
def simulate(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL-OR-MAP...",
            help="Atomic models (.pdb, .cif, also .gz), trajectories (.npz) or maps (.mrc, .map); several are states.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUTDIR", help="Folder of the simulated set.")],
    options: SimulationOptions,
) -> None:
    """Simulate a particle set with known truth.

    Writes particles.mrcs and particles.star (CTF, no poses) and, in separate files, the truth: truth.star (poses,
    shifts, rlnClassNumber = state from 1, 0 = junk), truth_001.mrc ... (maps scaled so that the noise has standard
    deviation 1) and simulate.json.
    """
    from cryoloom.environment import set_threads
    from cryoloom.runs.machine import choose_device

    set_threads(options.threads)

    from cryoloom.cli.errors import tell
    from cryoloom.runs.machine import check_memory
    from cryoloom.simulation.dataset import simulate_dataset
    from cryoloom.simulation.projector import projector_bytes
    from cryoloom.simulation.states import load_states, sources_of

    settings = options.settings()
    listed = sources_of(sources, options.frames)
    settings.check(len(listed))
    where = choose_device(options.device.value, lambda message: None if options.quiet else tell(message))
    states = load_states(listed, options.geometry())
    side = states[0].data.shape[-1]
    if where.type == "cpu":
        check_memory(projector_bytes(side), f"projections of {side} px")
    with _progress(options.n, options.quiet) as advance:
        done = simulate_dataset(states, settings, output, device=where, overwrite=options.overwrite, progress=advance)
    strength = "noise only" if options.noise_only else f"SNR {done.snr_measured:.3g}"
    parts = f"{len(states)} state" + ("s" if len(states) > 1 else "")
    typer.echo(
        f"{done.folder}: {done.count} images of {done.box} px at {done.pixel_size:.4g} A, {strength}, {parts}"
        + (f", {done.junk} junk" if options.junk else "")
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"--shares {text}: expected numbers joined by commas, such as 60,30,10") from None


def _progress(total: int, quiet: bool) -> AbstractContextManager[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; calls with a number of images move it on."""
    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def bar() -> Iterator[Callable[[int], None]]:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
            task = progress.add_task("images", total=total)
            yield lambda images: progress.advance(task, images)

    return bar()
