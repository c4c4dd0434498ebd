"""Trajectories through the latent space that stay near images: along principal axes and between neighbours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.sparse import csgraph

from cryoloom.analyze.clusters import nearest_rows
from cryoloom.analyze.latent import PrincipalAxes, check_latent

CANDIDATES = 200  # images considered at each value of a coordinate
LOCAL = 30  # images whose mean is a point of a trajectory
POWER = 2  # exponent of distances along a path: with more than 1 it follows dense regions


@dataclass(frozen=True, slots=True)
class Trajectory:
    """T latent points in order.

    Attributes:
        points: [T, Z]; rows: [T], the image nearest to each.
        position: [T], increasing: coordinate along the axis, or length along the path.
    """

    points: np.ndarray
    rows: np.ndarray
    position: np.ndarray


def along_axis(
    z: Float[np.ndarray, "N Z"],
    axes: PrincipalAxes,
    component: int,
    count: int = 10,
    percentiles: tuple[float, float] = (5.0, 95.0),
) -> Trajectory:
    """Points at equidistant values of one principal coordinate; the other coordinates are those of images there.

    The images nearest to each value are candidates, of which one is chosen per value so that the path is short and
    passes through dense regions (dynamic programming): it follows one arm of a bent or branched cloud and does not
    jump. A point is the mean of the few images around the chosen one, moved to the exact value. Points on a straight
    line along the axis would leave a bent cloud.

    Args:
        component: number of the axis, from 0.
        percentiles: percentiles of the images' coordinates at which the trajectory begins and ends.

    Raises:
        ValueError: for an axis out of range, fewer than 2 points, or images that do not vary along it.
    """
    check_latent(z)
    if not 0 <= component < len(axes.axes):
        raise ValueError(f"principal axis {component + 1}; expected 1 to {len(axes.axes)}")
    if count < 2:
        raise ValueError(f"a trajectory of {count} points; expected 2 or more")
    along = axes.coordinates[:, component]
    low, high = np.percentile(along, percentiles)
    if not high > low:
        raise ValueError(f"the images do not vary along principal axis {component + 1}: expected another axis")
    values = np.linspace(low, high, count)
    layers = [_window(along, v, (high - low) / count) for v in values]
    c = axes.coordinates
    chosen = _short_dense_way([c[rows] for rows in layers])
    out = np.empty((count, c.shape[1]))
    for i, (rows, best) in enumerate(zip(layers, chosen, strict=True)):
        apart = ((c[rows] - c[rows[best]]) ** 2).sum(1)
        around = rows[np.argsort(apart, kind="stable")[: min(LOCAL, max(1, len(rows) // 4))]]
        out[i] = c[around].mean(0)
        out[i, component] = values[i]
    points = axes.latent(out)
    return Trajectory(points, nearest_rows(z, points), values)


def _window(along: np.ndarray, value: float, width: float) -> np.ndarray:
    """Rows of the images nearest to a value: those within half a step of it, at least LOCAL, at most CANDIDATES."""
    apart = np.abs(along - value)
    count = int(np.clip((apart <= width / 2).sum(), min(LOCAL, len(along)), CANDIDATES))
    return np.argpartition(apart, count - 1)[:count]


def _short_dense_way(layers: list[np.ndarray]) -> list[int]:
    """One of each layer's points [n, C], with the least sum of squared steps and squared distances to neighbours."""
    cost = _sparseness(layers[0])
    back: list[np.ndarray] = []
    for before, here in itertools.pairwise(layers):
        steps = ((before[:, None] - here[None]) ** 2).sum(-1) + cost[:, None]
        back.append(steps.argmin(0))
        cost = steps.min(0) + _sparseness(here)
    way = [int(cost.argmin())]
    for links in reversed(back):
        way.append(int(links[way[-1]]))
    return way[::-1]


def _sparseness(points: np.ndarray) -> np.ndarray:
    """Mean squared distance to the nearest quarter of the others, [n]."""
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    few = max(1, len(points) // 4)
    return np.sort(squared, 1)[:, : few + 1].sum(1) / few


@dataclass(frozen=True, slots=True)
class NeighbourGraph:
    """Graph of nearest neighbours: z [N, Z] and the symmetric sparse matrix [N, N] of distances between neighbours."""

    z: np.ndarray
    distance: sparse.csr_matrix

    def path(self, start: int, end: int) -> np.ndarray:
        """Rows from one image to another with the least sum of squared steps, both ends included.

        Raises:
            ValueError: for rows out of range, or if no path connects the two images.
        """
        for row in (start, end):
            if not 0 <= row < len(self.z):
                raise ValueError(f"image {row + 1}; expected 1 to {len(self.z)}")
        powered = self.distance.power(POWER)
        _, before = csgraph.dijkstra(powered, directed=False, indices=start, return_predecessors=True)
        if end != start and before[end] < 0:
            raise ValueError("no chain of neighbours joins these parts of the latent space: choose images of one part")
        way = [end]
        while way[-1] != start:
            way.append(int(before[way[-1]]))
        return np.array(way[::-1], dtype=np.int64)


def neighbour_graph(z: Float[np.ndarray, "N Z"], neighbours: int = 15) -> NeighbourGraph:
    """Graph that connects each image to its nearest neighbours.

    Raises:
        ValueError: see `check_latent`, and for more neighbours than images.
    """
    from sklearn.neighbors import kneighbors_graph  # heavy to import

    check_latent(z)
    if not 1 <= neighbours < len(z):
        raise ValueError(f"{neighbours} neighbours among {len(z)} images; expected 1 to {len(z) - 1}")
    values = np.ascontiguousarray(z, dtype=np.float64)
    one_way = kneighbors_graph(values, neighbours, mode="distance")
    # images at one place are neighbours too: a distance of 0 would be no edge
    one_way.data = np.maximum(one_way.data, 1e-12 * max(1.0, float(np.abs(values).max())))
    return NeighbourGraph(values, sparse.csr_matrix(one_way.maximum(one_way.T)))


def through_neighbours(graph: NeighbourGraph, stops: list[int], count: int = 10) -> Trajectory:
    """Trajectory through images (rows `stops`, two or more) from neighbour to neighbour, resampled at equal lengths.

    Steps are squared before they are added, so that the path follows dense regions (Hwang, Damelin and Hero, Annals of
    Applied Probability 26 (2016) 2791). Points lie on the polygon through the images of the path.

    Raises:
        ValueError: for fewer than 2 stops or points, equal stops in a row, or if no path connects them (see `path`).
    """
    if len(stops) < 2 or count < 2:
        raise ValueError(f"a trajectory of {count} points through {len(stops)} images; expected 2 or more of both")
    parts = [graph.path(a, b) for a, b in itertools.pairwise(stops)]
    way = np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
    corners = graph.z[way]
    length = np.concatenate([[0.0], np.linalg.norm(np.diff(corners, axis=0), axis=1).cumsum()])
    if length[-1] == 0:
        raise ValueError("the images of the trajectory all have the same latent coordinates; expected different ones")
    position = np.linspace(0.0, length[-1], count)
    points = np.stack([np.interp(position, length, corner) for corner in corners.T], 1)
    return Trajectory(points, nearest_rows(graph.z, points), position)
