"""A real but short run in a process of its own, to be killed: python -m ... PARTICLES.star RUN."""

import sys
from pathlib import Path

import torch

from cryoloom.jobs.inputs import open_input, prepare
from cryoloom.jobs.reconstruct import run
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.recipes.methods.search import AbInitSettings, RefineSettings
from cryoloom.recipes.methods.settings import MethodSettings
from cryoloom.runs.folder import RunFolder
from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.progress import SilentProgress
from cryoloom.runs.session import Session

ABINIT = AbInitSettings(
    restarts=2,
    levels=(3.75, 4.5),
    nside=(2, 2, 3),
    batch=(60, 60, 60),
    rate=(0.5, 0.5, 0.5),
    least_steps=(6, 6, 5),
    most_steps=8,
    held_out=40,
)


def settings_for(particles: Path, seed: int = 1) -> ReconstructSettings:
    """Few steps at low radii: the machinery, not the molecule, is on trial."""
    refine = RefineSettings(candidates=2, coarse_level=4.5, fine_levels=(5.0, 6.0), most_iterations=3)
    methods = MethodSettings({"abinit": ABINIT})
    given = InputSettings(str(particles))
    return ReconstructSettings(input=given, seed=seed, threads=1, methods=methods, refine=refine)


def main(particles: Path, folder: Path) -> None:
    """Start the run, or go on with it, saving after every step."""
    torch.set_num_threads(1)
    settings = settings_for(particles)
    images = open_input(settings.input)
    preprocessing = prepare(images, settings)
    print("ready", flush=True)
    if (folder / "run.json").exists():
        opened = RunFolder.resume(folder, settings, images.fingerprint(), threads=1, device="cpu")
    else:
        opened = RunFolder.create(
            folder, settings, images.fingerprint(), "reconstruct", input_path=particles, seed=1, threads=1, device="cpu"
        )
    with Interrupts() as interrupts, opened as run_folder:
        session = Session(run_folder, SilentProgress(), interrupts, seconds=0)
        verdict = run(settings, images, preprocessing, session)
        run_folder.finish(verdict)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
