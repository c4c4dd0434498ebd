"""Where and when the run was made, and with which versions."""

from __future__ import annotations

from markupsafe import Markup

from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import day


def html(run: ShownRun) -> Markup:
    """From run.json."""
    record = run.run.record
    machine = record.machine
    facts = [
        ("status", record.status),
        ("input", record.input_path),
        ("fingerprint", record.fingerprint[:16]),
        ("seed", str(record.seed)),
        ("started", day(record.started)),
        ("last change", day(record.updated)),
        ("machine", machine.host),
        ("system", machine.system),
        ("device", machine.device),
        ("threads", f"{machine.threads} of {machine.cpu_count} cores"),
        ("memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
    ]
    return from_template(__file__, facts=facts, versions=list(record.versions.items()))


PANEL = Panel(name="machine", section="Record", title="Run", html=html)
