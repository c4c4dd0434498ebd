"""The command line's reference, made from the commands themselves."""

from __future__ import annotations

from typing import Any

import typer.main

from cryoloom.cli.main import COMMANDS, build_app


def reference() -> str:
    """Markdown: a section for each command with its arguments and options."""
    commands: dict[str, Any] = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    order = [*(name for name in COMMANDS if name in commands), *(name for name in commands if name not in COMMANDS)]
    return "\n\n".join(_section(name, commands[name]) for name in order)


def _section(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=f"cryoloom {name}")
    usage = " ".join([f"cryoloom {name}", *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", f"```\n{usage}\n```", "", command.help or "", ""]
    for title, kind in (("argument", "argument"), ("option", "option")):
        params = [p for p in command.params if p.param_type_name == kind]
        records = [record for record in (p.get_help_record(context) for p in params) if record]
        if records:
            lines += [f"| {title} | meaning |", "|---|---|"]
            lines += [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records] + [""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
