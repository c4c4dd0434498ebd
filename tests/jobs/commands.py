"""Commands called within this process, and what they leave."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from typer.testing import CliRunner

from cryoloom.cli.main import build_app


def cryoloom(command: str, code: int = 0) -> str:
    """What `cryoloom COMMAND` prints; its exit status must be `code`."""
    result = CliRunner().invoke(build_app(), shlex.split(command))
    assert result.exit_code == code, result.output
    return result.output


def verdict_of(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())["verdict"]
