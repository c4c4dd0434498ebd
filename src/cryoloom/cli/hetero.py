"""cryoloom hetero: conformations of posed particles, or of particles whose poses are found first."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cryoloom.cli.method_options import choice, choice_help, method_settings, option_class
from cryoloom.cli.options import Output, Preset, RunningOptions, taking
from cryoloom.cli.runs import start_run
from cryoloom.recipes.methods.registry import CONFORMATION_METHODS, POSE_METHODS


def register(app: typer.Typer) -> None:
    """Add the command."""
    found = f"How conformations are found. {choice_help(CONFORMATION_METHODS)}."
    given = (
        "Where poses come from. given: the particle file. With a pose method instead, poses are found on one map "
        "first, then poses and conformations are refined alternately; --method classes with --poses search is cryoloom "
        "reconstruct --classes K."
    )
    choices = {
        "method": choice("--method", CONFORMATION_METHODS, found, "pca"),
        "poses": choice("--poses", ("given", *POSE_METHODS), given, "given"),
    }
    methods = option_class(CONFORMATION_METHODS, **choices)
    app.command(name="hetero")(taking(methods=methods, options=RunningOptions)(hetero))


def hetero(
    particles: Annotated[
        Path,
        typer.Argument(
            metavar="PARTICLES.star|RUN",
            help="Particles (with poses, unless --poses finds them), or a finished run.",
            show_default=False,
        ),
    ],
    output: Output,
    preset: Preset = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Mask (0 to 1) within which conformations may differ.", show_default="a sphere"),
    ] = None,
    *,
    options: RunningOptions,
    methods: Any,
) -> None:
    """Find conformations: latent coordinates for every image, maps, and a verdict on whether there is heterogeneity.

    Of a finished run, particles.star alone is used: state --box and --particle-diameter again. Conformations are sought
    in C1.

    Afterwards, cryoloom analyze RUN makes clusters, trajectories and movies, and cryoloom volume RUN --z ... makes
    single maps.
    """
    from cryoloom.jobs.presets import chosen_settings
    from cryoloom.jobs.settings import HeteroSettings
    from cryoloom.runs import layout

    settings = HeteroSettings(
        **options.common(layout.particles_of(particles)), mask=None if mask is None else os.path.abspath(mask)
    )
    settings = chosen_settings(settings, preset, method=methods.method, poses=methods.poses)
    chosen = method_settings(methods, CONFORMATION_METHODS, settings.method, settings.methods, "--method")
    start_run(replace(settings, methods=chosen), output, options)
