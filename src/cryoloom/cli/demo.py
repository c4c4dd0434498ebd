"""cryoloom demo: reconstruct a simulated set of an embedded structure and compare the result with the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoloom.cli.options import Device, DeviceName, Quiet, Seed, Threads

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = Path("cryoloom-demo")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="demo")(demo)


def demo(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the images (particles/) and the run (run/)."),
    ] = FOLDER,
    n: Annotated[int, typer.Option("--n", "-n", min=100, help="Number of images.")] = 3000,
    seed: Seed = 1,
    threads: Threads = None,
    device: Device = DeviceName.AUTO,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in FOLDER.")] = False,
    quiet: Quiet = False,
) -> None:
    """Simulate images of an antibody, reconstruct it in about a minute, and compare the result with the truth.

    It needs no input file. The run uses the images alone; the truth is used only for the comparison at the end.
    """
    import time

    from cryoloom.cli.errors import tell
    from cryoloom.cli.options import RunningOptions
    from cryoloom.cli.runs import start_run
    from cryoloom.environment import set_threads
    from cryoloom.jobs.settings import InputSettings, ReconstructSettings
    from cryoloom.runs import layout
    from cryoloom.runs.folder import check_output_folder, cpu_seconds
    from cryoloom.runs.machine import choose_device

    began = time.monotonic()
    particles, run = output / "particles", output / "run"
    check_output_folder(run, overwrite)
    set_threads(threads)

    from cryoloom.simulation.dataset import simulate_demo

    made = simulate_demo(particles, n, seed, device=choose_device(device.value, lambda said: None), overwrite=overwrite)
    if not quiet:
        tell(
            f"simulated {made.count} images of an antibody ({made.box} px of {made.pixel_size:g} Å, "
            f"SNR {made.snr_measured:.2g}); the reconstruction uses these images alone"
        )
    settings = ReconstructSettings(input=InputSettings(str((particles / "particles.star").absolute())), seed=seed)
    options = RunningOptions(threads=threads, device=device, overwrite=overwrite, quiet=quiet)
    start_run(settings, run, options)

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    _compare(console, particles, run)
    console.print(f"\n{time.monotonic() - began:.0f} s in all, {cpu_seconds():.0f} s of CPU time.")
    console.print(f"Report: {layout.REPORT.path(run)}; maps in ChimeraX: {layout.MAPS_SCRIPT.path(run)}")
    console.print("For your own images: cryoloom reconstruct PARTICLES.star -o RUN")


def _compare(console: Console, particles: Path, run: Path) -> None:
    """Print the verdict of the run and its scores against the truth."""
    from rich.text import Text

    from cryoloom.cli.score_tables import scores_table
    from cryoloom.evaluation.map_error import score_map
    from cryoloom.evaluation.pose_error import score_poses
    from cryoloom.evaluation.pose_table import read_poses
    from cryoloom.evaluation.scores import compare_with_claim
    from cryoloom.jobs.finished_run import FinishedRun
    from cryoloom.jobs.verdict_text import headline
    from cryoloom.maps.io import read_map
    from cryoloom.runs import layout

    poses = score_poses(read_poses(particles / "truth.star"), read_poses(layout.PARTICLES.path(run)))
    maps = score_map(read_map(particles / "truth_001.mrc"), read_map(layout.MAP.path(run)), poses.frame)
    finished = FinishedRun(run)
    assert finished.verdict is not None  # the run has just ended
    console.print(Text(f"\nThe verdict of the run: {headline(finished.verdict)}", style="bold"))
    console.print(Text("Compared with the truth, which the run has not used:", style="bold"))
    console.print(scores_table(poses, maps))
    sentence = compare_with_claim(finished.record.verdict or {}, maps)
    if sentence is not None:
        console.print(sentence)
    if poses.frame.hand:
        console.print(
            "Images do not determine the hand: this map is the mirror image, and --flip would give the other hand."
        )
