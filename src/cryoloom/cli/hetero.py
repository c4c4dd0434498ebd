"""cryoloom hetero: conformations of posed particles, or of particles whose poses are found first."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from cryoloom.cli.options import Output, RunningOptions, taking
from cryoloom.cli.runs import start_run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="hetero")(hetero)


@taking(RunningOptions)
def hetero(
    particles: Annotated[
        Path,
        typer.Argument(metavar="PARTICLES.star|RUN", help="Posed particles, or a finished run.", show_default=False),
    ],
    output: Output,
    method: Annotated[
        Literal["pca", "vae", "classes", "autodecoder"],
        typer.Option(
            help="Directions around a mean; a network (cryoDRGN), with an encoder or a latent an image; or K volumes."
        ),
    ] = "pca",
    poses: Annotated[
        Literal["given", "search"], typer.Option(help="Those in the file, or found first, without a starting model.")
    ] = "given",
    components: Annotated[
        int | None,
        typer.Option(min=1, max=30, help="Directions (pca, classes).", show_default="by held-out images"),
    ] = None,
    classes: Annotated[int, typer.Option("--classes", "-k", min=2, max=50, help="K (classes).")] = 3,
    latent: Annotated[
        int | None, typer.Option("--latent", min=1, max=64, help="Z (networks).", show_default="8")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images (networks).", show_default="20")
    ] = None,
    encoder: Annotated[
        Literal["mlp", "cnn"] | None, typer.Option(help="Of images to latents (vae).", show_default="mlp")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Settings from a file: compact, paper (networks as published, for a GPU), or one of your own.",
            show_default="compact",
        ),
    ] = None,
    refine_poses: Annotated[bool, typer.Option("--refine-poses", help="Learn poses along (networks).")] = False,
    mask: Annotated[Path | None, typer.Option(help="Map of 0 to 1: conformations differ within it only.")] = None,
    *,
    options: RunningOptions,
) -> None:
    """Conformations: a latent for every image, volumes, and a verdict on whether there is anything to be seen.

    Then: cryoloom analyze RUN for clusters, trajectories and movies; cryoloom volume RUN --z ... for single maps.
    """
    from cryoloom.jobs.presets import with_preset
    from cryoloom.jobs.settings import HeteroSettings

    if (particles / "run.json").is_file():
        particles = particles / "particles.star"
    settings = HeteroSettings(
        input=options.input(particles),
        method=method,
        poses=poses,
        classes=classes,
        mask=None if mask is None else os.path.abspath(mask),
        particle_diameter_angstrom=options.particle_diameter,
        box=options.box,
        seed=options.seed,
    )
    if preset is not None:
        settings = with_preset(settings, preset)
    said = {"latent": latent, "epochs": epochs, "encoder": encoder, "refine_poses": refine_poses or None}
    network = replace(settings.network, **{name: value for name, value in said.items() if value is not None})
    subspace = settings.subspace
    if method == "classes" and components is None:
        # K volumes span K - 1 directions; what more there is may be told apart from the noise by held-out images
        subspace = replace(subspace, most_components=max(subspace.most_components, classes - 1))
    if components is not None:
        subspace = replace(subspace, components=components)
    settings = replace(settings, network=network, subspace=subspace)
    start_run(settings, output, options)
