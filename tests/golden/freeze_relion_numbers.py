"""Makes the constants of `relion_numbers.py` again: run by hand where relion_project is installed, from `tests`.

python -m golden.freeze_relion_numbers
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

from golden import relion_numbers as frozen
from golden.numpy_reference import CLOUD, centred_dft, cloud_volume

POSES = (
    ((35.0, 50.0, -110.0), (0.0, 0.0)),
    ((-120.0, 100.0, 75.0), (4.5, -7.5)),
    ((160.0, 15.0, 20.0), (-9.0, 2.0)),
)
CONTRAST = (  # defocus U, V, angle, phase shift, B-factor, kV, Cs, amplitude contrast
    (17000.0, 14000.0, 25.0, 0.0, 0.0, 300.0, 2.7, 0.1),
    (12500.0, 13400.0, -60.0, 0.0, 80.0, 200.0, 2.0, 0.07),
    (9000.0, 8000.0, 110.0, 60.0, 30.0, 300.0, 2.7, 0.1),
    (-4000.0, -5000.0, 40.0, 0.0, 0.0, 300.0, 2.7, 0.1),
)
OPTICS = (
    "OpticsGroup",
    "OpticsGroupName",
    "Voltage",
    "SphericalAberration",
    "AmplitudeContrast",
    "ImagePixelSize",
    "ImageSize",
    "ImageDimensionality",
)
PARTICLES = (
    "ImageName",
    "OpticsGroup",
    "AngleRot",
    "AngleTilt",
    "AnglePsi",
    "OriginXAngst",
    "OriginYAngst",
    "DefocusU",
    "DefocusV",
    "DefocusAngle",
    "PhaseShift",
    "CtfBfactor",
)


def block(name: str, columns: tuple[str, ...], rows: list[tuple]) -> str:
    header = "".join(f"_rln{c} #{i}\n" for i, c in enumerate(columns, 1))
    return f"data_{name}\n\nloop_\n{header}" + "".join(" ".join(map(str, row)) + "\n" for row in rows) + "\n"


def project(volume: np.ndarray, pixel_size: float, optics: list[tuple], rows: list[tuple], *options: str) -> np.ndarray:
    box = len(volume)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with mrcfile.new(folder / "volume.mrc") as m:
            m.set_data(volume.astype(np.float32))
            m.voxel_size = pixel_size
        groups = [(g, f"group{g}", *o, pixel_size, box, 2) for g, o in enumerate(optics, 1)]
        particles = [(f"{i:06d}@out.mrcs", *row) for i, row in enumerate(rows, 1)]
        star = "# version 30001\n\n" + block("optics", OPTICS, groups)
        star += "# version 30001\n\n" + block("particles", PARTICLES, particles)
        (folder / "angles.star").write_text(star)
        command = ["relion_project", "--i", "volume.mrc", "--o", "out", "--ang", "angles.star"]
        subprocess.run([*command, "--angpix", str(pixel_size), *options], cwd=folder, check=True)
        return mrcfile.read(folder / "out.mrcs").astype(float)


def coefficients(image: np.ndarray, index: tuple[tuple[int, int], ...]) -> list[complex]:
    transform = centred_dft(image)
    centre = len(image) // 2
    return [complex(transform[y + centre, x + centre]) for x, y in index]


def main() -> None:
    volume = cloud_volume(CLOUD, frozen.PROJECTION_BOX, frozen.PROJECTION_PIXEL_SIZE)
    rows = [(1, *angles, *origin, 10000, 10000, 0, 0, 0) for angles, origin in POSES]
    images = project(volume, frozen.PROJECTION_PIXEL_SIZE, [(300, 2.7, 0.1)], rows)
    print("PROJECTIONS = (")
    for (angles, origin), image in zip(POSES, images, strict=True):
        values = [complex(round(c.real, 4), round(c.imag, 4)) for c in coefficients(image, frozen.PROJECTION_INDEX)]
        print(f"    Projection({angles}, {origin}, {tuple(values)}),")
    print(")")
    point = np.zeros((frozen.CTF_BOX,) * 3)
    point[(frozen.CTF_BOX // 2,) * 3] = 1
    rows = [(g, 0, 0, 0, 0, 0, *contrast[:5]) for g, contrast in enumerate(CONTRAST, 1)]
    images = project(point, frozen.CTF_PIXEL_SIZE, [c[5:] for c in CONTRAST], rows, "--ctf")
    print("CONTRAST_TRANSFER = (")
    for contrast, image in zip(CONTRAST, images, strict=True):
        values = [round(c.real, 5) for c in coefficients(image, frozen.CTF_INDEX)]
        print(f"    ContrastTransfer({', '.join(map(str, contrast))}, {tuple(values)}),")
    print(")")


if __name__ == "__main__":
    main()
