"""cryoloom fsc: Fourier shell correlation of two maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoloom.cli.options import Threads

if TYPE_CHECKING:
    from torch import Tensor

    from cryoloom.maps.io import DensityMap

THRESHOLDS = (0.5, 0.143)
PIXEL_TOLERANCE = 0.005  # relative


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fsc")(fsc)


def fsc(
    first: Annotated[Path, typer.Argument(metavar="A.mrc", help="A map.")],
    second: Annotated[Path, typer.Argument(metavar="B.mrc", help="A map with the same box and pixel size.")],
    mask: Annotated[Path | None, typer.Option(help="Soft mask in the frame of A, applied to both maps.")] = None,
    align: Annotated[bool, typer.Option("--align", help="Align B with A first: rotation, shift and hand.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the curve to this file.")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Angstrom per voxel of maps whose header is wrong or empty.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Compute the Fourier shell correlation of two maps, and where it falls below 0.5 and 0.143.

    The threshold 0.143 applies to independent half maps, 0.5 to a map and a known structure. --align maximises the
    agreement of B with A: the curve then shows how similar two maps are, but not how reliable two half maps are.
    """
    from cryoloom.environment import set_threads

    set_threads(threads)

    from cryoloom.cli.errors import tell
    from cryoloom.maps.fsc import crossing, fourier_shell_correlation, resolution_angstrom
    from cryoloom.maps.io import read_map

    a, b = read_map(first, pixel_size=pixel_size), read_map(second, pixel_size=pixel_size)
    _check_grid(first, a, second, b)
    other = b.data.double()
    if align:
        other, words = _aligned(a, b)
        tell(words)
    soft = 1.0
    if mask is not None:
        m = read_map(mask, pixel_size=pixel_size or a.pixel_size)
        _check_grid(first, a, mask, m)
        soft = m.data.double()
    curve = fourier_shell_correlation(a.data.double() * soft, other * soft)
    box = a.data.shape[0]
    for threshold in THRESHOLDS:
        shell = crossing(curve, threshold)
        resolution = resolution_angstrom(shell, box, a.pixel_size)
        last = "" if shell < len(curve) - 1 else ", at Nyquist: it may be finer than the pixel shows"
        text = "never reached" if resolution is None else f"{resolution:.2f} A (shell {shell:.1f} of {box // 2}{last})"
        typer.echo(f"FSC {threshold:<5} {text}")
    typer.echo(f"mean to Nyquist {float(curve[1 : box // 2].mean()):.4f}")
    if csv is not None:
        _write_csv(csv, curve, box, a.pixel_size)


def _check_grid(path: Path, a: DensityMap, other_path: Path, b: DensityMap) -> None:
    same = a.data.shape == b.data.shape and abs(a.pixel_size / b.pixel_size - 1) <= PIXEL_TOLERANCE
    if not same:
        sizes = [f"{tuple(m.data.shape)} at {m.pixel_size:g} A" for m in (a, b)]
        raise ValueError(f"{path} is {sizes[0]}, {other_path} is {sizes[1]}; expected one box and one pixel size")


def _aligned(a: DensityMap, b: DensityMap) -> tuple[Tensor, str]:
    import torch

    from cryoloom.maps.align import align_maps, apply_alignment
    from cryoloom.physics.rotations import geodesic_degrees

    move = align_maps(b.data, a.data, a.pixel_size)
    angle = float(geodesic_degrees(move.R, torch.eye(3, dtype=move.R.dtype)))
    shift = float(move.t.norm())
    hand = "mirrored, " if move.hand else ""
    words = f"B was {hand}turned by {angle:.1f} degrees and shifted by {shift:.1f} A onto A"
    return apply_alignment(b.data.double(), move, a.pixel_size), words


def _write_csv(path: Path, curve: Tensor, box: int, pixel_size: float) -> None:
    from cryoloom.files.durable import write_durably

    lines = ["shell,frequency_per_angstrom,resolution_angstrom,fsc"]
    for shell, value in enumerate(curve.tolist()):
        frequency = shell / (box * pixel_size)
        lines.append(f"{shell},{frequency:.6f},{1 / frequency if shell else float('inf'):.4f},{value:.6f}")
    write_durably(path, ("\n".join(lines) + "\n").encode())
