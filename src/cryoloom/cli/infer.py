"""cryoloom infer: poses of new images from the encoder and map of a finished run, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoloom.cli.options import Device, DeviceName, InputOptions, Quiet, Threads, taking


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="infer")(taking(options=InputOptions)(infer))


def infer(
    run: Annotated[Path, typer.Argument(help="Finished run with an encoder.", metavar="RUN", show_default=False)],
    particles: Annotated[
        Path, typer.Argument(metavar="NEW.star", help="RELION STAR file of the new images.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.star",
            help="STAR file to write: the new particles with their poses.",
            show_default=False,
        ),
    ],
    polish: Annotated[
        int, typer.Option(min=0, help="Optimisation steps of each pose against the map at each radius; 0 for none.")
    ] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.star.")] = False,
    threads: Threads = None,
    device: Device = DeviceName.AUTO,
    quiet: Quiet = False,
    *,
    options: InputOptions,
) -> None:
    """Find the poses of new images with the encoder of a finished run, without training.

    The encoder proposes candidate poses, which are weighted by how well the image fits the map; a few steps then
    optimise the most likely ones. Every image costs the same.
    """
    from cryoloom.cli.errors import tell
    from cryoloom.environment import set_threads
    from cryoloom.runs.display import open_progress
    from cryoloom.runs.machine import choose_device

    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists\n  what to do: choose another name, or --overwrite")
    count = set_threads(threads)
    with open_progress(quiet) as progress:
        import torch

        from cryoloom.jobs.infer import infer_particles

        torch.set_num_threads(count)
        chosen = choose_device(device.value, progress.say)
        found = infer_particles(
            run, options.input(particles), output, polish=polish, device=chosen, threads=count, progress=progress
        )
    total = len(found.score)
    seconds = found.encode_s + found.polish_s
    tell(
        f"{total:,} images: encoder {total / found.encode_s:,.0f} images/s; with weighting and optimisation "
        f"{total / seconds:,.0f} images/s; first batch after {found.latency_s:.2f} s. Poses in {output}"
    )
