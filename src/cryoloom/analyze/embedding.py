"""Two-dimensional UMAP embedding of the latent space (an optional extra)."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cryoloom.analyze.latent import check_latent

logger = logging.getLogger(__name__)

MOST_FITTED = 50_000  # images to which the embedding is fitted; the others are mapped into it
_MISSING = (
    "UMAP was left out: this optional extra is not installed. "
    "Install it with: pip install 'cryoloom[umap]' (or pip install umap-learn)"
)


@dataclass(frozen=True, slots=True)
class Embedding:
    """Coordinates [N, 2] of all images, or None, and then `remark` says why."""

    coordinates: np.ndarray | None
    remark: str | None


def umap_embedding(
    z: Float[np.ndarray, "N Z"], seed: int, neighbours: int = 15, minimum_distance: float = 0.1
) -> Embedding:
    """UMAP of latent coordinates (McInnes, Healy and Melville, arXiv:1802.03426).

    Neighbourhoods are preserved, but distances and densities mean little. If the extra is not installed, nothing is
    computed, and the log and `remark` say so. The import compiles code for about 10 s.

    Args:
        seed: the same one gives the same embedding.
        neighbours: number of neighbours of each image; minimum_distance: least distance of neighbours in the embedding.

    Raises:
        ValueError: see `check_latent`, and for fewer images than neighbours.
    """
    check_latent(z)
    if not 2 <= neighbours < len(z):
        raise ValueError(f"UMAP with {neighbours} neighbours among {len(z)} images; expected 2 to {len(z) - 1}")
    try:
        umap = importlib.import_module("umap")
    except ImportError:
        logger.warning(_MISSING)
        return Embedding(None, _MISSING)
    reducer = umap.UMAP(
        n_neighbors=neighbours,
        min_dist=minimum_distance,
        n_components=2,
        random_state=seed,
        n_jobs=1,
        init="pca" if z.shape[1] >= 2 else "random",
    )
    values = z.astype(np.float32)
    if len(z) <= MOST_FITTED:
        return Embedding(np.asarray(reducer.fit_transform(values), dtype=np.float32), None)
    chosen = np.sort(np.random.default_rng(seed).choice(len(z), MOST_FITTED, replace=False))
    out = np.empty((len(z), 2), dtype=np.float32)
    out[chosen] = reducer.fit_transform(values[chosen])
    others = np.setdiff1d(np.arange(len(z)), chosen)
    out[others] = reducer.transform(values[others])
    return Embedding(out, f"UMAP was fitted to {MOST_FITTED} images drawn at random; the others were mapped into it.")
