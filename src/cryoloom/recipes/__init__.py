"""Methods as sequences of steps, each with its settings.

`cryoloom.run` carries out a recipe in memory. Names are loaded when they are first used:

    import cryoloom as cl

    images = cl.open("particles.star").images()
    found = cl.run(cl.recipes.AbInitRecipe(images, cl.recipes.AbInitSettings(restarts=2), seed=1))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# recipes and their settings, and the module that each is loaded from
_MODULES = {
    "AbInitRecipe": "abinit",
    "ConfirmRecipe": "confirm",
    "RefineRecipe": "refine",
    "AmortizedRecipe": "amortized",
    "WakeSleepRecipe": "wake_sleep",
    "PCARecipe": "pca",
    "PCAWithPosesRecipe": "pca_with_poses",
    "VariationalRecipe": "vae",
    "AbInitSettings": "methods.search",
    "RefineSettings": "methods.search",
    "AmortizedSettings": "methods.amortized",
    "WakeSleepSettings": "methods.hybrid",
    "PCASettings": "methods.pca",
    "PCAWithPosesSettings": "methods.pca",
    "NetworkSettings": "methods.vae",
}

if TYPE_CHECKING:
    from cryoloom.recipes.abinit import AbInitRecipe
    from cryoloom.recipes.amortized import AmortizedRecipe
    from cryoloom.recipes.confirm import ConfirmRecipe
    from cryoloom.recipes.methods.amortized import AmortizedSettings
    from cryoloom.recipes.methods.hybrid import WakeSleepSettings
    from cryoloom.recipes.methods.pca import PCASettings, PCAWithPosesSettings
    from cryoloom.recipes.methods.search import AbInitSettings, RefineSettings
    from cryoloom.recipes.methods.vae import NetworkSettings
    from cryoloom.recipes.pca import PCARecipe
    from cryoloom.recipes.pca_with_poses import PCAWithPosesRecipe
    from cryoloom.recipes.refine import RefineRecipe
    from cryoloom.recipes.vae import VariationalRecipe
    from cryoloom.recipes.wake_sleep import WakeSleepRecipe

__all__ = [
    "AbInitRecipe",
    "AbInitSettings",
    "AmortizedRecipe",
    "AmortizedSettings",
    "ConfirmRecipe",
    "NetworkSettings",
    "PCARecipe",
    "PCASettings",
    "PCAWithPosesRecipe",
    "PCAWithPosesSettings",
    "RefineRecipe",
    "RefineSettings",
    "VariationalRecipe",
    "WakeSleepRecipe",
    "WakeSleepSettings",
]


def __getattr__(name: str) -> Any:
    """Load one of the names above."""
    if name not in _MODULES:
        raise AttributeError(f"module 'cryoloom.recipes' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cryoloom.recipes.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names above, whether they are loaded yet or not."""
    return sorted({*globals(), *__all__})
