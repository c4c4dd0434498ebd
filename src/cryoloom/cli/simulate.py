"""cryoloom simulate: particles of known truth from atomic models or maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cryoloom.cli.options import Device, DeviceName, Quiet, Seed, Threads


class PixelType(StrEnum):
    """Of the written images."""

    float32 = "float32"
    float16 = "float16"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("simulate")(simulate)


def simulate(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL-OR-MAP...",
            help="Atomic models (.pdb, .cif, also .gz), trajectories (.npz) or maps (.mrc, .map); several are states.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUTDIR", help="Folder for the set.")],
    n: Annotated[int, typer.Option("--n", "-n", help="Images.")] = 5000,
    snr: Annotated[
        float, typer.Option(help="Variance of the clean, CTF-modulated image over that of the noise, whole box.")
    ] = 0.1,
    box: Annotated[int | None, typer.Option(min=8, help="Side of the images, px (default: 64; that of a map)")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Angstrom (default: the molecule fills 0.7 of the box; that of a map)")
    ] = None,
    map_pixel_size: Annotated[
        float | None, typer.Option(help="Angstrom; of maps whose header is wrong or silent.")
    ] = None,
    b_factor: Annotated[float, typer.Option(help="Of all atoms, A^2.")] = 100.0,
    frames: Annotated[
        str, typer.Option(help="Of trajectories, each a state: numbers and START:STOP:STEP, joined by commas.")
    ] = "0",
    shares: Annotated[str, typer.Option(help="Of the states, joined by commas. (default: equal)")] = "",
    centre: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Point of the models put to the box's centre. (default: mean atom of the first model)"),
    ] = None,
    symmetry: Annotated[str, typer.Option(help="Assembly of copies of each model: Cn, Dn, T, O, I.")] = "C1",
    radius: Annotated[float, typer.Option(help="From the axis to the centre of an assembly's copy, angstrom.")] = 40.0,
    defocus: Annotated[tuple[float, float], typer.Option(help="Range, angstrom; one value for each micrograph.")] = (
        10000.0,
        25000.0,
    ),
    astigmatism: Annotated[float, typer.Option(help="Defocus U - V, angstrom.")] = 0.0,
    phase_shift: Annotated[float, typer.Option(help="Of a phase plate, degrees.")] = 0.0,
    ctf_b_factor: Annotated[float, typer.Option(help="Envelope exp(-B k^2 / 4), A^2.")] = 0.0,
    optics_groups: Annotated[int, typer.Option(help="Groups, cycling through three microscopes.")] = 1,
    per_micrograph: Annotated[int, typer.Option(help="Images of one micrograph.")] = 100,
    shift: Annotated[float, typer.Option(help="S.d. of the displacement per axis, px.")] = 1.5,
    noise_colour: Annotated[float, typer.Option(help="c in the noise power 1 + c exp(-(k / 0.1 Nyquist)^2).")] = 0.0,
    contrast: Annotated[float, typer.Option(help="S.d. of a factor on each image's signal.")] = 0.0,
    preferred: Annotated[float, typer.Option(help="Share of views within 20 degrees of the top view.")] = 0.0,
    junk: Annotated[float, typer.Option(help="Share of images that hold a random blob.")] = 0.0,
    noise_only: Annotated[bool, typer.Option("--noise-only", help="No molecule in any image.")] = False,
    seed: Seed = 1,
    dtype: Annotated[PixelType, typer.Option(help="Of the pixels.")] = PixelType.float32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a set in OUTDIR.")] = False,
    device: Device = DeviceName.AUTO,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Simulates a particle set of known truth.

    Writes particles.mrcs and particles.star (CTF, no poses) and, apart from them, the truth: truth.star (poses, shifts,
    rlnClassNumber = state from 1, 0 = junk), truth_001.mrc ... (maps scaled so that the noise has s.d. 1) and
    simulate.json.
    """
    from cryoloom.environment import set_threads
    from cryoloom.runs.machine import choose_device

    set_threads(threads)

    from cryoloom.cli.errors import tell
    from cryoloom.runs.machine import check_memory
    from cryoloom.simulation.dataset import simulate_dataset
    from cryoloom.simulation.projector import projector_bytes
    from cryoloom.simulation.states import StateGeometry, load_states, sources_of
    from cryoloom.simulation.truth import SimulationSettings

    settings = SimulationSettings(
        count=n,
        snr=snr,
        seed=seed,
        shares=_numbers(shares),
        shift_px=shift,
        defocus_angstrom=defocus,
        astigmatism_angstrom=astigmatism,
        phase_shift_degrees=phase_shift,
        ctf_b_factor_angstrom2=ctf_b_factor,
        optics_groups=optics_groups,
        images_per_micrograph=per_micrograph,
        noise_colour=noise_colour,
        contrast=contrast,
        preferred=preferred,
        junk=junk,
        noise_only=noise_only,
        dtype=dtype.value,
    )
    geometry = StateGeometry(
        box=box,
        pixel_size=pixel_size,
        b_factor_angstrom2=b_factor,
        symmetry=symmetry,
        radius_angstrom=radius,
        map_pixel_size=map_pixel_size,
        centre_angstrom=centre,
    )
    listed = sources_of(sources, frames)
    settings.check(len(listed))
    where = choose_device(device.value, lambda message: None if quiet else tell(message))
    states = load_states(listed, geometry)
    side = states[0].data.shape[-1]
    if where.type == "cpu":
        check_memory(projector_bytes(side), f"projections of {side} px")
    with _progress(n, quiet) as advance:
        done = simulate_dataset(states, settings, output, device=where, overwrite=overwrite, progress=advance)
    strength = "noise only" if noise_only else f"SNR {done.snr_measured:.3g}"
    parts = f"{len(states)} state" + ("s" if len(states) > 1 else "")
    typer.echo(
        f"{done.folder}: {done.count} images of {done.box} px at {done.pixel_size:.4g} A, {strength}, {parts}"
        + (f", {done.junk} junk" if junk else "")
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
