"""The program `cryoloom`.

Heavy libraries are imported only by the command that needs them: `cryoloom --help` must answer at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

import cryoloom
from cryoloom.cli.errors import report_errors
from cryoloom.environment import prepare_environment

# each is a module cryoloom.cli.NAME with a function register(app); the order is that of `cryoloom --help`
COMMANDS = (
    "demo",
    "reconstruct",
    "resume",
    "infer",
    "hetero",
    "analyze",
    "volume",
    "fsc",
    "evaluate",
    "simulate",
    "report",
)


class _Group(TyperGroup):
    """Commands whose errors become messages and exit codes."""

    def invoke(self, ctx):
        """Run the command."""
        with report_errors():
            return super().invoke(ctx)


def build_app() -> typer.Typer:
    """The program with all of its commands."""
    app = typer.Typer(
        name="cryoloom",
        cls=_Group,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Single-particle cryo-EM ab initio: from a particle stack to poses, a density map and a verdict on "
        "whether to trust them.",
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        pass

    for name in COMMANDS:
        module = f"cryoloom.cli.{name}"
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cryoloom {cryoloom.__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point."""
    prepare_environment()
    # without a run there is no log, and Python would print the warnings of the loggers itself
    logging.getLogger("cryoloom").addHandler(logging.NullHandler())
    build_app()(prog_name="cryoloom")


if __name__ == "__main__":
    sys.exit(main())
