"""What reading a large STAR file costs: CPU-seconds and peak memory of a fresh process, measured from outside.

The file has a million rows of 20 columns, as RELION pads them. `table` reads it to the neutral particle table and
splits its image names; `numbers` also parses every column of numbers that the table knows, and the shifts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench import RESULTS, machine, run_measured, write_json

COLUMNS = [
    "rlnImageName",
    "rlnMicrographName",
    "rlnCoordinateX",
    "rlnCoordinateY",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfBfactor",
    "rlnCtfScalefactor",
    "rlnCtfMaxResolution",
    "rlnCtfFigureOfMerit",
    "rlnAngleRot",
    "rlnAngleTilt",
    "rlnAnglePsi",
    "rlnOriginXAngst",
    "rlnOriginYAngst",
    "rlnClassNumber",
    "rlnRandomSubset",
    "rlnOpticsGroup",
]
OPTICS = (
    "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
    "_rlnImagePixelSize\n1 300.0 2.7 0.1 1.34\n\n"
)
PROGRAMS = {
    "table": "read(Path(sys.argv[1]))",
    "numbers": "t = read(Path(sys.argv[1])); [t.values(q) for q in t.numbers]; t.poses.shifts(t.rows)",
}
TARGET_CPU_S, TARGET_BYTES = 4.0, 0.8e9


def write_large(path: Path, rows: int) -> None:
    """A STAR file of that many rows, 250 images to a stack."""
    rng = np.random.default_rng(0)
    pattern = " ".join(["%12.6f"] * 15)
    with open(path, "w") as file:
        file.write(OPTICS + "data_particles\n\nloop_\n" + "".join(f"_{c}\n" for c in COLUMNS))
        for i in range(rows):
            values = pattern % tuple(rng.normal(12000, 2000, 15))
            name = f"{i // 250:06d}.mrc"
            file.write(f"{i % 250 + 1:06d}@Extract/job007/{name}s Micrographs/{name} {values} {i % 5:12d} ")
            file.write(f"{i % 2 + 1:12d} {1:12d} \n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.star"
        write_large(path, rows)
        size = path.stat().st_size
        for name, program in PROGRAMS.items():
            code = "import sys; from pathlib import Path; from cryoloom.particles.formats.relion.reader import read; "
            check = "; assert 'torch' not in sys.modules; import time; time.sleep(0.2)"
            measured = run_measured([sys.executable, "-c", code + program + check, path], Path(folder) / f"{name}.log")
            if measured.returncode:
                raise SystemExit(f"{name}: reading failed with exit code {measured.returncode}")
            found[name] = {"cpu_s": round(measured.cpu_s, 2), "peak_rss_bytes": measured.peak_rss_bytes}
    met = found["table"]["cpu_s"] <= TARGET_CPU_S and found["table"]["peak_rss_bytes"] <= TARGET_BYTES
    result = {"machine": machine(), "rows": rows, "columns": len(COLUMNS), "file_bytes": size}
    result |= {"read": found, "target": {"cpu_s": TARGET_CPU_S, "bytes": TARGET_BYTES, "met": met}}
    write_json(RESULTS / "read_star.json", result)
    print(result)


if __name__ == "__main__":
    main()
