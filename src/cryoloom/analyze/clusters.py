"""Clusters of the latent space by k-means, each represented by a real image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cryoloom.analyze.latent import check_latent, principal_axes

STARTS = 5  # starts of k-means, of which the best is kept
AT_ONCE = 1 << 22  # distances held at a time


@dataclass(frozen=True, slots=True)
class Clusters:
    """K clusters of N images, in the order of their centres along the first principal axis.

    Attributes:
        labels: [N], 0 to K - 1; sizes: [K].
        centres: [K, Z], means of the clusters: they may lie where no image does.
        nearest: [K], row of the image nearest to each centre.
    """

    labels: np.ndarray
    sizes: np.ndarray
    centres: np.ndarray
    nearest: np.ndarray

    def __len__(self) -> int:
        return len(self.centres)

    def rows(self, cluster: int) -> Int[np.ndarray, " n"]:
        """Rows of the images of one cluster, ascending."""
        return np.flatnonzero(self.labels == cluster)


def nearest_rows(z: Float[np.ndarray, "N Z"], points: Float[np.ndarray, "M Z"]) -> Int[np.ndarray, " M"]:
    """Row of the image nearest to each latent point; the first one of equally near images."""
    rows = []
    step = max(1, AT_ONCE // max(1, z.size))
    for start in range(0, len(points), step):
        some = points[start : start + step]
        rows.append(((z[None] - some[:, None]) ** 2).sum(-1).argmin(1))
    return np.concatenate(rows).astype(np.int64) if rows else np.empty(0, dtype=np.int64)


def k_means(z: Float[np.ndarray, "N Z"], count: int, seed: int) -> Clusters:
    """k-means with k-means++ starts, the best of several; the same seed gives the same clusters.

    Raises:
        ValueError: see `check_latent`; if there are fewer than `count` distinct latent points.
    """
    from sklearn.cluster import KMeans  # heavy to import

    check_latent(z)
    values = np.ascontiguousarray(z, dtype=np.float64)
    if not 1 <= count <= len(z):
        raise ValueError(f"{count} clusters of {len(z)} images; expected 1 to {len(z)}")
    if count > 1 and (different := len(np.unique(values, axis=0))) < count:
        raise ValueError(f"{count} clusters of {different} distinct latent points; expected at most {different}")
    # the stub knows n_init by its default "auto" alone
    found = KMeans(count, n_init=STARTS, random_state=seed).fit(values)  # type: ignore[arg-type]
    axes = principal_axes(values)
    order = np.argsort(axes.project(found.cluster_centers_)[:, 0], kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    labels = rank[found.labels_]
    centres = found.cluster_centers_[order]
    return Clusters(labels, np.bincount(labels, minlength=count), centres, nearest_rows(values, centres))
