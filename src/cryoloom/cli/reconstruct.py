"""cryoloom reconstruct, abinit and refine: from particles to poses, maps and a verdict."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cryoloom.cli.method_options import choice, choice_help, method_settings, option_class
from cryoloom.cli.options import Output, Particles, Preset, RunningOptions, taking
from cryoloom.cli.runs import start_run
from cryoloom.recipes.methods.registry import POSE_METHODS

if TYPE_CHECKING:
    from cryoloom.jobs.settings import ReconstructSettings

Symmetry = Annotated[
    str,
    typer.Option(
        help="Point group: C1, Cn, Dn, T, O, I (axes as RELION's I1) or I2 (RELION's I). The axes of Cn and Dn are "
        "found on the map of ab initio, T, O and I are imposed from the start; given poses and maps must be on the "
        "standard axes."
    ),
]
Flip = Annotated[bool, typer.Option("--flip", help="Give the other hand: maps and poses are mirrored.")]
MOST_CLASSES = 48
_SEARCH = {"search": POSE_METHODS["search"]}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    poses = choice("--poses", POSE_METHODS, f"How poses are found. {choice_help(POSE_METHODS)}.", "search")
    of_all = option_class(POSE_METHODS, poses=poses)
    app.command(name="reconstruct")(taking(methods=of_all, options=RunOptions)(reconstruct))
    app.command(name="abinit")(taking(methods=option_class(_SEARCH), options=RunOptions)(abinit))
    app.command(name="refine")(taking(options=RunOptions)(refine))


@dataclass(frozen=True, kw_only=True)
class RunOptions(RunningOptions):
    """What all three commands take."""

    symmetry: Symmetry = "C1"
    flip: Flip = False

    def settings(self, job: Literal["reconstruct", "abinit", "refine"], particles: Path) -> ReconstructSettings:
        """Settings of a run with these options."""
        from cryoloom.jobs.settings import ReconstructSettings

        return ReconstructSettings(**self.common(particles), job=job, symmetry=self.symmetry, flip=self.flip)


def reconstruct(
    particles: Particles,
    output: Output,
    preset: Preset = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="K|auto",
            help="Several molecules: find a map of each and give every image to one of them, or to none. K: their "
            "number; auto: it is found. Each class becomes a run of its own, in the folder class_001 and so on.",
            show_default="one molecule",
        ),
    ] = None,
    classes_from: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MAP.mrc",
            help="A map from which a class starts, of any scale; one option for each map. Some may be decoys.",
            show_default="random starts",
        ),
    ] = None,
    *,
    options: RunOptions,
    methods: Any,
) -> None:
    """Reconstruct a map without a starting model: from particles to poses, a gold-standard map and a verdict.

    The usual way is ab initio from random starts, then refinement with the half sets kept apart; --poses chooses
    another one, in which networks learn poses.
    """
    from cryoloom.jobs.presets import chosen_settings

    settings = replace(options.settings("reconstruct", particles), classes=_classes(classes))
    settings = replace(settings, classes_from=tuple(os.path.abspath(path) for path in classes_from or ()))
    settings = chosen_settings(settings, preset, poses=methods.poses)
    chosen = method_settings(methods, POSE_METHODS, settings.poses, settings.methods, "--poses")
    start_run(replace(settings, methods=chosen), output, options)


def _classes(given: str | None) -> int | Literal["auto"] | None:
    """The option --classes as a setting."""
    if given is None or given == "auto":
        return given
    if not given.isdecimal() or not 2 <= int(given) <= MOST_CLASSES:
        raise typer.BadParameter(
            f"{given}: expected a number from 2 to {MOST_CLASSES}, or auto", param_hint="--classes"
        )
    return int(given)


def abinit(particles: Particles, output: Output, *, options: RunOptions, methods: Any) -> None:
    """Make a first map from random starts, without refinement."""
    settings = options.settings("abinit", particles)
    chosen = method_settings(methods, _SEARCH, "search", settings.methods, "--poses")
    start_run(replace(settings, methods=chosen), output, options)


def refine(
    particles: Particles,
    output: Output,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="poses|MAP.mrc",
            help="poses: refine those of the particle file locally, without a search, in its half sets; MAP.mrc: "
            "search all orientations with this map, low-pass filtered.",
            show_default=False,
        ),
    ],
    low_pass: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Resolution to which a given map is low-pass filtered before the first search, angstrom; with --from "
            "MAP.mrc only.",
            show_default="particle diameter / 7.5",
        ),
    ] = None,
    *,
    options: RunOptions,
) -> None:
    """Refine from given poses or a given map, with the half sets kept apart, to a gold-standard map and a verdict."""
    if start == "poses" and low_pass is not None:
        raise typer.BadParameter("it is for a given map; --from poses uses none", param_hint="--low-pass")
    settings = options.settings("refine", particles)
    given = start if start == "poses" else os.path.abspath(start)
    start_run(replace(settings, start=given, low_pass_angstrom=low_pass), output, options)
