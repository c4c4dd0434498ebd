"""The cost of a report, measured: report_cost.py RUN [RUN ...]

For each run folder: CPU-seconds and peak memory of a process that writes its report.html, and the size of the page. The
budget of a report is 4 CPU-s at 5,000 particles of 64 pixels, the start of the process included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench import CRYOLOOM, run_measured


def main() -> None:
    """Measure each run and print a row of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", type=Path, help="Folder of a finished run; its report is written anew.")
    print("| run | command | CPU-s | GiB | page, MB |\n|---|---|---|---|---|")
    for run in parser.parse_args().run:
        with tempfile.TemporaryDirectory() as folder:
            spent = run_measured([CRYOLOOM, "report", run, "--threads", "1"], Path(folder) / "report.log")
            if spent.returncode:
                raise SystemExit(f"{run}: no report: {(Path(folder) / 'report.log').read_text()}")
        command = json.loads((run / "run.json").read_text())["command"]
        size = (run / "report.html").stat().st_size / 1e6
        print(
            f"| {run} | {command} | {spent.cpu_s:.1f} | {spent.peak_rss_bytes / 2**30:.2f} | {size:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
