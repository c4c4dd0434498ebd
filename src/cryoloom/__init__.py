"""cryoloom: from a stack of particle images to poses, a gold-standard map and a verdict on whether to trust them.

    import cryoloom as cl

    images = cl.open("particles.star").images()
    poses = cl.search(images, cl.read_map("map.mrc"))
    poses = cl.refine(images, cl.read_map("map.mrc"), poses)
    maps = cl.backproject(images, poses)
    result = cl.reconstruct("particles.star", output="run")  # the whole job

Names are loaded when they are first used: `import cryoloom` alone imports no numerical library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# what a program calls, and the module that each name is loaded from
_FACE = {
    # whole jobs
    "reconstruct": "cryoloom.api.jobs",
    "hetero": "cryoloom.api.jobs",
    "resume": "cryoloom.api.jobs",
    "open_run": "cryoloom.api.jobs",
    "simulate": "cryoloom.api.jobs",
    "evaluate": "cryoloom.api.scores",
    # single steps
    "open": "cryoloom.api.steps",
    "search": "cryoloom.api.steps",
    "refine": "cryoloom.api.steps",
    "backproject": "cryoloom.api.steps",
    "fsc": "cryoloom.api.steps",
    "gold_standard": "cryoloom.api.steps",
    "write_particles": "cryoloom.api.steps",
    "run": "cryoloom.api.steps",
    "recipes": "cryoloom.recipes",
    "register": "cryoloom.api.registration",
    "read_map": "cryoloom.maps.io",
    "write_map": "cryoloom.maps.io",
    "set_threads": "cryoloom.environment",
    # what they take and return
    "DensityMap": "cryoloom.maps.io",
    "ImageFeed": "cryoloom.particles.feed",
    "ParticleSet": "cryoloom.particles.particle_set",
    "PosePosterior": "cryoloom.inference.poses.posterior",
    "Maps": "cryoloom.api.results",
    "FSCCurve": "cryoloom.api.results",
    "FinishedRun": "cryoloom.jobs.finished_run",
    "Scores": "cryoloom.api.scores",
    "BadInput": "cryoloom.particles.errors",
}

if TYPE_CHECKING:
    from cryoloom import recipes
    from cryoloom.api.jobs import hetero, open_run, reconstruct, resume, simulate
    from cryoloom.api.registration import register
    from cryoloom.api.results import FSCCurve, Maps
    from cryoloom.api.scores import Scores, evaluate
    from cryoloom.api.steps import backproject, fsc, gold_standard, open, refine, run, search, write_particles
    from cryoloom.environment import set_threads
    from cryoloom.inference.poses.posterior import PosePosterior
    from cryoloom.jobs.finished_run import FinishedRun
    from cryoloom.maps.io import DensityMap, read_map, write_map
    from cryoloom.particles.errors import BadInput
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.particles.particle_set import ParticleSet

__all__ = [
    "BadInput",
    "DensityMap",
    "FSCCurve",
    "FinishedRun",
    "ImageFeed",
    "Maps",
    "ParticleSet",
    "PosePosterior",
    "Scores",
    "backproject",
    "evaluate",
    "fsc",
    "gold_standard",
    "hetero",
    "open",
    "open_run",
    "read_map",
    "recipes",
    "reconstruct",
    "refine",
    "register",
    "resume",
    "run",
    "search",
    "set_threads",
    "simulate",
    "write_map",
    "write_particles",
]


def __getattr__(name: str) -> Any:
    """Load one of the names above, with the environment of the numerical libraries prepared."""
    if name not in _FACE:
        raise AttributeError(f"module 'cryoloom' has no attribute {name!r}")
    from cryoloom.environment import prepare_environment

    prepare_environment()
    module = importlib.import_module(_FACE[name])
    value = module if _FACE[name] == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names above, whether they are loaded yet or not."""
    return sorted({*globals(), *__all__})
