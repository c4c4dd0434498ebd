"""Tensors as the named NumPy arrays that the numba kernels take; they share memory with the tensors."""

from __future__ import annotations

from typing import Any

from cryoloom.kernels.images import GridPosterior, Images, Samples
from cryoloom.physics.frequencies import FourierDisc

Arrays = dict[str, Any]


def disc_arrays(disc: FourierDisc) -> Arrays:
    """`index` [P, 2] and `hermitian` [P] of the frequencies, and their spacing `step` in 1/angstrom."""
    return {"index": disc.index.numpy(), "hermitian": disc.weight.numpy(), "step": disc.step}


def image_arrays(images: Images) -> Arrays:
    """`observed`, `ctf`, `variance` and `group` of the images, with the arrays of their disc."""
    arrays = {name: getattr(images, name).numpy() for name in ("observed", "ctf", "variance", "group")}
    return arrays | disc_arrays(images.disc)


def sample_arrays(samples: Samples) -> Arrays:
    """`image`, `R`, `t` and `weight` of the samples."""
    return {name: getattr(samples, name).numpy() for name in ("image", "R", "t", "weight")}


def posterior_arrays(posterior: GridPosterior) -> Arrays:
    """`picks`, `best_key`, `best_score` and `log_evidence` of a posterior, for a kernel to fill."""
    return {
        "picks": posterior.picks.numpy(),
        "best_key": posterior.best.numpy(),
        "best_score": posterior.best_score.numpy(),
        "log_evidence": posterior.log_evidence.numpy(),
    }
