"""Axes of a latent space, uncertainties, clusters and density against closed forms."""

import math
import sys

import numpy as np
import pytest

from cryoloom.analyze.clusters import k_means, nearest_rows
from cryoloom.analyze.density import count_modes, density_map
from cryoloom.analyze.embedding import umap_embedding
from cryoloom.analyze.latent import check_latent, principal_axes, uncertainty


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def blobs(rng: np.random.Generator, sizes: tuple[int, ...], centres: np.ndarray, sd: float) -> np.ndarray:
    return np.concatenate([c + sd * rng.normal(size=(n, len(c))) for n, c in zip(sizes, centres, strict=True)])


def rotation(rng: np.random.Generator, dims: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(dims, dims)))
    return q * np.sign(np.diag(r))


def test_axes_of_a_known_ellipsoid(rng: np.random.Generator) -> None:
    """Exact sample covariance diag(9, 4, 1), turned and moved: axes, shares and signs are known to the last digit."""
    raw = rng.normal(size=(400, 3))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T)).T)
    Q, offset = rotation(rng, 3), np.array([3.0, -1.0, 7.0])
    z = (white * [3, 2, 1]) @ Q.T + offset
    found = principal_axes(z)
    np.testing.assert_allclose(found.mean, offset, atol=1e-12)
    np.testing.assert_allclose(found.variance, [9, 4, 1], rtol=1e-10)
    np.testing.assert_allclose(found.share, np.array([9, 4, 1]) / 14, rtol=1e-10)
    for axis, truth in zip(found.axes, Q.T, strict=True):
        wanted = truth * np.sign(truth[np.abs(truth).argmax()])
        np.testing.assert_allclose(axis, wanted, atol=1e-10)
    np.testing.assert_allclose(found.latent(found.coordinates), z, atol=1e-12)
    np.testing.assert_allclose(found.project(z[:5]), found.coordinates[:5], atol=1e-12)
    # a covariance turns with the axes
    C = Q @ np.diag([9.0, 4.0, 1.0]) @ Q.T
    np.testing.assert_allclose(found.covariance(C[None], 2)[0], np.diag([9.0, 4.0]), atol=1e-9)


def test_fewer_images_than_coordinates(rng: np.random.Generator) -> None:
    z = rng.normal(size=(4, 10)).astype(np.float32)
    found = principal_axes(z)
    assert found.axes.shape == (3, 10)
    assert found.share.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.latent(found.coordinates), z, atol=1e-5)


def test_latents_that_do_not_vary() -> None:
    found = principal_axes(np.ones((5, 2)))
    assert found.share.tolist() == [0, 0]
    assert uncertainty(np.ones((5, 2)), np.zeros((5, 2, 2))).reliability == 1


def test_uncertainty_of_a_gaussian_model(rng: np.random.Generator) -> None:
    """z ~ N(0, 1) seen with noise v: posterior mean y / (1 + v), variance v / (1 + v). The number stated must be the
    r.m.s. error in units of the truth's s.d., and the reliability 1 / (1 + v)."""
    v, n = 0.5, 40_000
    truth = rng.normal(size=(n, 2))
    mean = (truth + math.sqrt(v) * rng.normal(size=(n, 2))) / (1 + v)
    covariance = np.broadcast_to(np.eye(2) * v / (1 + v), (n, 2, 2))
    found = uncertainty(mean, covariance)
    error = math.sqrt(((mean - truth) ** 2).sum(1).mean() / truth.var(0).sum())
    assert found.relative.mean() == pytest.approx(error, rel=0.02)
    assert found.reliability == pytest.approx(1 / (1 + v), rel=0.02)


def test_uncertainty_of_images_that_say_nothing() -> None:
    prior = np.broadcast_to(np.eye(3), (10, 3, 3))
    found = uncertainty(np.zeros((10, 3)), prior)
    np.testing.assert_allclose(found.relative, 1)
    assert found.reliability == 0


@pytest.mark.parametrize(
    ("z", "covariance", "words"),
    [
        (np.zeros(4), None, "one row per image"),
        (np.zeros((2, 2)), None, "at least 3"),
        (np.array([[0.0], [np.nan], [1.0]]), None, "row 2 are not finite"),
        (np.zeros((4, 2)), np.zeros((4, 2)), r"expected \(4, 2, 2\)"),
        (np.zeros((4, 1)), np.full((4, 1, 1), np.inf), "covariance of row 1"),
    ],
)
def test_broken_latents_are_refused(z: np.ndarray, covariance: np.ndarray | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_latent(z, covariance)


def test_clusters_of_parted_blobs(rng: np.random.Generator) -> None:
    """Labels, sizes and centres of blobs 20 s.d. apart; centres are on data and ordered along the long axis."""
    centres = np.array([[30.0, 0.0, 1.0], [-10.0, 1.0, 0.0], [10.0, -1.0, 0.0]])
    z = blobs(rng, (70, 200, 30), centres, 0.5)
    found = k_means(z, 3, seed=1)
    sign = np.sign(principal_axes(z).axes[0, 0])
    wanted = [1, 2, 0] if sign > 0 else [0, 2, 1]
    assert found.sizes.tolist() == [(70, 200, 30)[i] for i in wanted]
    for k, i in enumerate(wanted):
        start = (0, 70, 270)[i]
        assert (found.rows(k) == np.arange(start, start + (70, 200, 30)[i])).all()
        np.testing.assert_allclose(found.centres[k], z[found.rows(k)].mean(0), atol=1e-9)
        near = found.nearest[k]
        assert found.labels[near] == k
        assert np.linalg.norm(z - found.centres[k], axis=1).argmin() == near
    again = k_means(z, 3, seed=1)
    assert (again.labels == found.labels).all()
    np.testing.assert_allclose(again.centres, found.centres, atol=1e-12)


def test_more_clusters_than_places_are_refused() -> None:
    z = np.repeat([[0.0], [1.0]], 5, axis=0)
    with pytest.raises(ValueError, match="expected at most 2"):
        k_means(z, 3, seed=1)
    with pytest.raises(ValueError, match="expected 1 to 10"):
        k_means(z, 11, seed=1)


def test_nearest_rows(rng: np.random.Generator) -> None:
    z = rng.normal(size=(500, 3))
    assert (nearest_rows(z, z[[7, 3]] + 1e-9) == [7, 3]).all()


def test_density_of_two_states_and_their_shares(rng: np.random.Generator) -> None:
    z = blobs(rng, (2100, 900), np.array([[-4.0, 0.0], [4.0, 1.0]]), 1.0)
    covariance = np.broadcast_to(np.diag([0.25, 0.09]), (3000, 2, 2))
    found = density_map(z, covariance)
    step = (found.x[1] - found.x[0]) * (found.y[1] - found.y[0])
    assert found.density.sum() * step == pytest.approx(1)
    assert found.blur == pytest.approx((0.5, 0.3))
    assert len(found.modes) == 2
    for mode, place, share in zip(found.modes, ((-4.0, 0.0), (4.0, 1.0)), (0.7, 0.3), strict=True):
        assert np.linalg.norm(np.subtract(mode.place, place)) < 0.8
        assert mode.share == pytest.approx(share, abs=0.01)
    # the height of a Gaussian of weight 0.7, widened by the kernel
    h = np.array(found.bandwidth)
    wanted = 0.7 / (2 * math.pi * np.sqrt(1 + h**2).prod())
    assert found.modes[0].density == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("count", [200, 2000, 20_000])
def test_one_state_has_one_mode(count: int) -> None:
    """Chance does not make states: of 10 Gaussian clouds each has one mode, whatever their number of images."""
    for seed in range(10):
        z = np.random.default_rng(seed).normal(size=(count, 2)) * [2.0, 0.3]
        assert len(density_map(z).modes) == 1, seed


@pytest.mark.parametrize("count", [20_000, 100_000])
def test_a_bend_is_no_state(count: int) -> None:
    """An arc filled most at both ends has two modes: none where its middle happens to run along an axis, as a kernel
    much wider along PC1 than along PC2 would have it."""
    rng = np.random.default_rng(1)
    t = rng.beta(0.7, 0.7, count)
    z = 2 * np.stack([np.cos(2.5 * t), np.sin(2.5 * t)], 1) + 0.2 * rng.normal(size=(count, 2))
    found = density_map(principal_axes(z).coordinates)
    assert len(found.modes) == 2
    assert abs(found.modes[0].place[0] - found.modes[1].place[0]) > 2


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("sizes", [(1500,), (1400, 600), (900, 400, 300)])
def test_modes_of_separated_states_are_counted(sizes: tuple[int, ...], dims: int, seed: int) -> None:
    """States 8 s.d. apart: as many modes as states, in a space of any number of coordinates."""
    rng = np.random.default_rng(seed)
    centres = np.zeros((len(sizes), dims))
    centres[:, 0] = 8.0 * np.arange(len(sizes))
    if dims > 1 and len(sizes) > 2:
        centres[2, :2] = (4.0, 7.0)
    z = blobs(rng, sizes, centres, 1.0) @ rotation(rng, dims).T
    assert count_modes(principal_axes(z.astype(np.float32))) == len(sizes)


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("count", [500, 3000, 20_000])
@pytest.mark.parametrize("bend", [0.0, 1.5])
def test_a_uniform_path_has_one_mode(count: int, bend: float, seed: int) -> None:
    """A continuous motion, straight or along an arc, with latents known to a tenth of its length."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-1, 1, count)
    z = np.stack([10 * t, bend * 5 * t**2, np.zeros(count)], 1) + rng.normal(size=(count, 3)) * [1.0, 1.0, 0.5]
    assert count_modes(principal_axes(z)) == 1
    assert count_modes(principal_axes(z[:, :1])) == 1


def test_modes_where_images_do_not_vary(rng: np.random.Generator) -> None:
    assert count_modes(principal_axes(np.ones((50, 2)))) == 1
    assert count_modes(principal_axes(rng.normal(size=(5, 2)))) == 1
    flat = np.stack([np.concatenate([rng.normal(size=300), 20 + rng.normal(size=300)]), np.zeros(600)], 1)
    assert count_modes(principal_axes(flat)) == 2


def test_a_far_outlier_does_not_spoil_the_density(rng: np.random.Generator) -> None:
    z = np.concatenate([blobs(rng, (500, 500), np.array([[-4.0, 0.0], [4.0, 0.0]]), 1.0), [[1e4, -1e4]]])
    assert len(density_map(z).modes) == 2


def test_density_along_a_flat_coordinate_is_refused(rng: np.random.Generator) -> None:
    flat = np.stack([rng.normal(size=50), np.zeros(50)], 1)
    with pytest.raises(ValueError, match="share coordinate 2"):
        density_map(flat)
    with pytest.raises(ValueError, match=r"expected \[N, 2\]"):
        density_map(flat[:, :1])


def test_umap_that_is_not_installed_is_said(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    found = umap_embedding(rng.normal(size=(30, 3)), seed=1)
    assert found.coordinates is None
    assert "cryoloom[umap]" in (found.remark or "")
    assert "cryoloom[umap]" in caplog.text


@pytest.mark.slow
def test_umap_keeps_blobs_apart(rng: np.random.Generator) -> None:
    pytest.importorskip("umap")
    z = blobs(rng, (60, 60), np.array([[0.0] * 4, [20.0] * 4]), 1.0)
    found = umap_embedding(z, seed=1).coordinates
    assert found is not None
    assert found.shape == (120, 2)
    gap = np.linalg.norm(found[:60].mean(0) - found[60:].mean(0))
    assert gap > 2 * max(found[:60].std(), found[60:].std())
    np.testing.assert_array_equal(found, umap_embedding(z, seed=1).coordinates)
