"""The files of the run."""

from __future__ import annotations

from urllib.parse import quote

from markupsafe import Markup

from cryoloom.report.panel import Panel, from_template
from cryoloom.report.shown_run import ShownRun
from cryoloom.report.text import file_size
from cryoloom.runs import layout


def html(run: ShownRun) -> Markup:
    """Those of the list that are there, but for this page; of files that come in several, the first."""
    rows = []
    for file in layout.FILES:
        paths = sorted(run.run.folder.glob(file.pattern)) if "*" not in file.pattern else []
        if file is layout.REPORT or not paths or not paths[0].is_file():
            continue
        name = paths[0].relative_to(run.run.folder).as_posix()
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        size = file_size(sum(path.stat().st_size for path in paths))
        rows.append({"name": name, "more": more, "what": file.what, "href": quote(name), "size": size})
    return from_template(__file__, files=rows)


PANEL = Panel(name="files", section="Using the results", title="Files", html=html, wide=True)
