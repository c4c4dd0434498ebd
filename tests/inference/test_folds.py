"""When images of a half set are compared with maps to which they did not contribute."""

from __future__ import annotations

import math

import pytest

from cryoloom.inference.poses.folds import FOLDS, folds_of, own_noise_gain


def test_gain_is_the_number_of_voxels_per_image():
    """Of the voxels of a sphere, half are independent, and twice as many of an image's coefficients are counted."""
    assert own_noise_gain(100, 1, 20.0) == pytest.approx(4 * math.pi / 3 * 20.0**3 / 2 / 100)
    assert own_noise_gain(100, 24, 20.0) == pytest.approx(own_noise_gain(2400, 1, 20.0))


def test_small_sets_have_folds():
    assert folds_of(100, 1, 20.0) == FOLDS
    assert folds_of(100_000, 1, 20.0) == 1
    assert folds_of(670, 24, 30.0) == 1
