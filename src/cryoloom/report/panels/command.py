"""The command line of the run, and the messages of its stages."""

from __future__ import annotations

import shlex

from markupsafe import Markup

from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun


def html(run: ShownRun) -> Markup:
    """As it was typed."""
    argv = run.run.record.argv
    messages = [f"{s.info.stage}: {s.info.message}" for s in run.run.steps if s.info.message]
    return from_template(__file__, command=shlex.join(argv) if argv else "not recorded", messages=messages)


PANEL = Panel(name="command", section="Record", title="Command", html=html, wide=True)
