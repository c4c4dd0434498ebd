"""Tensors as the named NumPy arrays that the numba kernels take; they share memory with the tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoloom.kernels.images import GridPosterior, Images, Samples
from cryoloom.kernels.order import Rows, parts
from cryoloom.physics.frequencies import FourierDisc

Arrays = dict[str, Any]


def grid_arrays(grid: Tensor) -> Arrays:
    """`grid`, flat float32, and its `side`."""
    return {"grid": pairs(grid).reshape(-1), "side": grid.shape[0]}


def disc_arrays(disc: FourierDisc) -> Arrays:
    """`index` [P, 2] and `frequency` (float32 [2, P]) of the points, and their spacing `step` in 1/angstrom."""
    return {"index": disc.index.numpy(), "frequency": frequencies(disc), "step": disc.step}


def frequencies(disc: FourierDisc) -> np.ndarray:
    """(ix, iy) of the points, float32 [2, P]."""
    return disc.index.T.float().contiguous().numpy()


def image_arrays(images: Images) -> Arrays:
    """`observed` [B, P, 2], `ctf`, `precision` (Hermitian weight over variance, [G, P]) and `group` of the images, with
    the arrays of their disc."""
    precision = (images.disc.weight / images.variance).contiguous()
    arrays = {"ctf": images.ctf.numpy(), "precision": precision.numpy(), "group": images.group.numpy()}
    return arrays | {"observed": pairs(images.observed)} | disc_arrays(images.disc)


def insertion_arrays(images: Images, R: Tensor, scale: float, side: int, threads: int) -> Arrays:
    """The same with points row by row (`order.Rows`), and the parts of the grid that threads fill (`order.parts`).

    Args:
        R: [C, 3, 3], at which the images are inserted; scale: grid pixels per Fourier pixel; side: of the grid.
    """
    rows = Rows.of(images.disc.index.numpy())
    axis, bounds = parts(R.numpy(), rows, scale, side, threads)
    by_row = {"order": rows.order, "frequency": rows.frequency, "runs": rows.runs}
    return image_arrays(images) | by_row | dict(scale=scale, side=side, threads=threads, axis=axis, bounds=bounds)


def pairs(values: Tensor) -> np.ndarray:
    """Complex values as pairs of real and imaginary parts, in the same memory."""
    return torch.view_as_real(values).numpy()


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
