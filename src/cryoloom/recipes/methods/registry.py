"""Registry of the pose methods and the conformation methods.

A method is one file and one line here; the command line, presets, run records, documentation and contract tests take
it from here. These files import quickly: heavy modules are imported when a method is used, so that `--help` stays fast.
"""

from __future__ import annotations

from cryoloom.recipes.methods.amortized import AMORTIZED
from cryoloom.recipes.methods.autodecoder import AUTODECODER
from cryoloom.recipes.methods.classes import CLASSES
from cryoloom.recipes.methods.hybrid import HYBRID
from cryoloom.recipes.methods.method import ConformationMethod, PoseMethod
from cryoloom.recipes.methods.pca import PCA
from cryoloom.recipes.methods.search import SEARCH
from cryoloom.recipes.methods.vae import VAE

POSE_METHODS: dict[str, PoseMethod] = {method.name: method for method in (SEARCH, AMORTIZED, HYBRID)}
CONFORMATION_METHODS: dict[str, ConformationMethod] = {
    method.name: method for method in (PCA, CLASSES, VAE, AUTODECODER)
}


def pose_method(name: str) -> PoseMethod:
    """The pose method of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in POSE_METHODS:
        raise ValueError(f"pose method {name!r}: expected one of {', '.join(POSE_METHODS)}")
    return POSE_METHODS[name]


def conformation_method(name: str) -> ConformationMethod:
    """The conformation method of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in CONFORMATION_METHODS:
        raise ValueError(f"conformation method {name!r}: expected one of {', '.join(CONFORMATION_METHODS)}")
    return CONFORMATION_METHODS[name]
