"""The classes of two runs on the same images, compared."""

from __future__ import annotations

import numpy as np
import pytest

from cryoloom.jobs.class_agreement import compared


def test_classes_are_paired_so_that_most_images_are_together():
    a = np.array([1] * 50 + [2] * 30 + [0] * 20)
    b = np.array([2] * 45 + [1] * 5 + [1] * 30 + [0] * 15 + [2] * 5)
    found = compared(a, b)
    assert found.partners == (2, 1)
    assert found.together == pytest.approx((45 + 30 + 15) / 100)
    assert found.counts.tolist() == [[15, 0, 5], [0, 5, 45], [0, 30, 0]]
    assert 0.5 < found.adjusted_rand_index < 1


def test_a_class_without_a_partner_is_said():
    found = compared(np.array([1, 1, 2, 2, 3]), np.array([1, 1, 1, 2, 2]))
    assert found.partners.count(0) == 1
    assert found.counts.shape == (4, 3)
    assert compared(np.array([1, 1, 2]), np.array([2, 2, 1])).together == 1
    # images of no class alone
    none = compared(np.zeros(4, np.int64), np.zeros(4, np.int64))
    assert (none.partners, none.together) == ((), 1.0)
