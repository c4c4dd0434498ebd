"""cryoloom volume: the map at a point of the latent space of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoloom.cli.options import Device, DeviceName, Quiet, Threads


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="volume")(volume)


def volume(
    run: Annotated[Path, typer.Argument(help="Finished run of cryoloom hetero.", metavar="RUN", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MAP.mrc", help="Map to write.", show_default=False)
    ],
    z: Annotated[
        str, typer.Option(metavar="Z1,Z2,...", help="Latent coordinates, as in z.npy.", show_default=False)
    ] = "",
    particle: Annotated[
        int | None,
        typer.Option(
            min=1, help="Use the latent coordinates of this particle (row of particles.star, from 1) instead of --z."
        ),
    ] = None,
    model: Annotated[
        bool, typer.Option("--model", help="Decode the fitted model instead of reconstructing from the nearest images.")
    ] = False,
    threads: Threads = None,
    device: Device = DeviceName.AUTO,
    quiet: Quiet = False,
) -> None:
    """Make the map of one conformation, and its half maps, from the images with the nearest latent coordinates.

    The half maps are written beside the map, as MAP_half1.mrc and MAP_half2.mrc; --model makes the map only.
    """
    from cryoloom.cli.errors import tell
    from cryoloom.environment import set_threads
    from cryoloom.runs.machine import choose_device

    if (z == "") == (particle is None):
        raise ValueError("give either --z or --particle: they say where in the latent space the map is made")
    count = set_threads(threads)
    import torch

    from cryoloom.jobs.conformation_run import open_conformations
    from cryoloom.maps.io import DensityMap, write_map

    torch.set_num_threads(count)
    opened = open_conformations(run, choose_device(device.value, lambda said: None if quiet else tell(said)), count)
    if particle is not None and particle > len(opened.latents):
        raise ValueError(f"--particle {particle}: the run has {len(opened.latents)} particles")
    point = opened.latents.mean[particle - 1] if particle is not None else torch.tensor(_numbers(z))
    if model:
        write_map(output, opened.decoded(point))
        said = "decoded from the fitted model"
    else:
        found = opened.map_at(point)
        pixel = opened.posed.feed.pixel_size
        write_map(output, DensityMap(found.combined.contiguous(), pixel))
        for h in (0, 1):
            beside = output.with_name(f"{output.stem}_half{h + 1}.mrc")
            write_map(beside, DensityMap(found.halves[h].contiguous(), pixel))
        resolution = found.resolution_angstrom(pixel)
        said = f"from the {len(found.nearest):,} nearest images, "
        said += "half maps do not correlate" if resolution is None else f"{resolution:.1f} Å"
    if not quiet:
        tell(f"{output}: {said}")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--z {text}: expected numbers separated by commas, as in 0.5,-1.2") from None
