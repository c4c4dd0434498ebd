"""Classes and latents whose agreement with the true states is known."""

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest

from cryoloom.evaluation.heterogeneity import score_classes, score_latent, true_states
from cryoloom.evaluation.pose_table import PoseTable


def _counts(table: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Classes (rows, named 5, 7, 9 ...) and states (columns) of a contingency table."""
    pairs = [(5 + 2 * k, s + 1) for k, row in enumerate(table) for s, n in enumerate(row) for _ in range(n)]
    classes, state = np.array(pairs).T
    order = np.random.default_rng(1).permutation(len(state))
    return classes[order], state[order]


def test_rand_index_is_hubert_and_arabies() -> None:
    table = np.array([[30, 4, 1], [2, 20, 0], [3, 1, 9]])
    both = sum(comb(n, 2) for n in table.flatten().tolist())
    rows, columns = (sum(comb(n, 2) for n in table.sum(axis).tolist()) for axis in (1, 0))
    expected = rows * columns / comb(int(table.sum()), 2)
    scores = score_classes(*_counts(table.tolist()))
    assert scores.adjusted_rand_index == pytest.approx((both - expected) / ((rows + columns) / 2 - expected))
    np.testing.assert_array_equal(scores.images, table)
    assert scores.labels.tolist() == [5, 7, 9]
    assert scores.share_right == pytest.approx(59 / 70)


def test_names_of_classes_and_junk_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    state = rng.integers(0, 4, 400)
    classes = np.where(state > 0, np.array([0, 9, 2, 5])[state], rng.integers(1, 9, 400))
    scores = score_classes(classes, state)
    assert scores.adjusted_rand_index == scores.share_right == 1.0
    assert scores.labels[scores.class_of_state()].tolist() == [9, 2, 5]
    shuffled = score_classes(rng.permutation(classes), state)
    assert abs(shuffled.adjusted_rand_index) < 0.02


def test_classes_find_their_states_one_to_one() -> None:
    # the rare state's class holds more images of the common one
    scores = score_classes(*_counts([[600, 300, 10], [20, 5, 15], [10, 290, 0]]))
    assert scores.class_of_state().tolist() == [0, 2, 1]
    assert scores.state_of_class().tolist() == [0, 2, 1]
    more = score_classes(*_counts([[50, 0], [0, 40], [30, 1]]))
    assert (more.class_of_state().tolist(), more.state_of_class().tolist()) == ([0, 1], [0, 1, 0])
    fewer = score_classes(*_counts([[50, 2, 9], [0, 40, 7]]))
    assert (fewer.class_of_state().tolist(), fewer.state_of_class().tolist()) == ([0, 1, 0], [0, 1])
    assert fewer.share_right == pytest.approx(90 / 108)


def test_a_state_without_images_keeps_its_column() -> None:
    scores = score_classes(np.array([1, 1, 2]), np.array([1, 1, 2]), states=3)
    assert scores.images.tolist() == [[2, 0, 0], [0, 1, 0]]


def test_rank_correlation_knows_order_only() -> None:
    state = np.arange(1, 41)
    z = np.stack([-np.exp(state / 5), np.random.default_rng(3).permutation(40.0 * state), np.ones(40)], -1)
    scores = score_latent(z, state)
    d = np.argsort(np.argsort(z[:, 1])) - np.arange(40)
    known = abs(1 - 6 * float((d**2).sum()) / (40 * (40**2 - 1)))  # Spearman's formula where no two are equal
    np.testing.assert_allclose(scores.coordinates, [1.0, known, 0.0], atol=1e-12)
    assert scores.best_coordinate == pytest.approx(1.0)


def test_a_direction_between_coordinates_is_found() -> None:
    rng = np.random.default_rng(4)
    state = rng.integers(0, 11, 600)
    common = 20 * rng.standard_normal(600)
    z = np.stack([1e3 * (state + common), common], -1)
    z[state == 0] = 1e9  # junk lies far away
    scores = score_latent(z, state)
    assert scores.direction > 0.99
    assert scores.best_coordinate < 0.4


def test_a_latent_of_noise_is_not_praised() -> None:
    rng = np.random.default_rng(5)
    state = rng.integers(1, 11, 500)
    # a direction fitted to 100 coordinates and tried on the same images would reach about 0.4
    scores = score_latent(rng.standard_normal((500, 100)), state)
    assert abs(scores.direction) < 0.2
    nothing = score_latent(np.zeros((500, 0)), state)
    assert (nothing.best_coordinate, nothing.direction) == (0.0, 0.0)


def test_senseless_latents_are_refused() -> None:
    state = np.arange(1, 11)
    with pytest.raises(ValueError, match="shape"):
        score_latent(np.arange(10.0), state)
    with pytest.raises(ValueError, match="1 of 10 rows of the latent are not finite"):
        score_latent(np.where(state == 3, np.nan, 1.0)[:, None], state)
    with pytest.raises(ValueError, match="9 rows of estimates and 10"):
        score_latent(np.ones((9, 1)), state)
    with pytest.raises(ValueError, match="5 molecules in two states; found 10 in 1"):
        score_latent(np.ones((10, 1)), np.ones(10, np.int64))
    with pytest.raises(ValueError, match="none of the 10 images"):
        score_classes(np.ones(10, np.int64), np.zeros(10, np.int64))


def test_states_are_found_by_the_name_of_the_image() -> None:
    images = tuple((i + 1, ("set", "a.mrcs")) for i in range(4))
    still = np.tile(np.eye(3), (4, 1, 1))
    truth = PoseTable(
        path=Path("truth.star"),
        images=images,
        R=still,
        t_angstrom=np.zeros((4, 2)),
        pixel_size=np.ones(4),
        state=np.array([2, 0, 1, 3]),
        score=None,
    )
    estimate = replace(truth, images=(images[3], images[0], images[1]), state=None)
    assert true_states(truth, estimate).tolist() == [3, 2, 0]
    with pytest.raises(ValueError, match=r"truth.star: no column rlnClassNumber"):
        true_states(replace(truth, state=None), estimate)
