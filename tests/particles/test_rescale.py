"""Resampling to another pixel size against the exact values of a band-limited function."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoloom.particles.rescale import Rescaling, common_frame
from cryoloom.physics.fourier import resize_real


def wave(box: int, pixel_size: float, view: float, k: tuple[int, int]) -> np.ndarray:
    """A plane wave with k periods in `view` angstrom, sampled about the centre box // 2."""
    x = (np.arange(box) - box // 2) * pixel_size / view
    return np.cos(2 * np.pi * (k[0] * x[None, :] + k[1] * x[:, None]) + 0.3)


@pytest.mark.parametrize(("box", "new_box", "new_size"), [(64, 40, 1.37), (65, 50, 1.0), (64, 32, 2.0), (63, 30, 1.9)])
def test_waves_below_both_nyquists_are_kept_exactly(box: int, new_box: int, new_size: float) -> None:
    rescaling = Rescaling.create(box, 1.0, new_box, new_size)
    view = box * 1.0
    for k in [(0, 0), (3, -2), (5, 9), (0, 12)]:
        found = rescaling.apply(wave(box, 1.0, view, k)[None].astype(np.float32))[0]
        np.testing.assert_allclose(found, wave(new_box, new_size, view, k), atol=2e-5)


def test_waves_above_the_new_nyquist_are_removed() -> None:
    found = Rescaling.create(64, 1.0, 32, 2.0).apply(wave(64, 1.0, 64.0, (20, 0))[None].astype(np.float32))
    assert np.abs(found).max() < 1e-5


def test_halving_equals_fourier_cropping(generator: torch.Generator) -> None:
    images = torch.randn(3, 64, 64, generator=generator)
    found = Rescaling.create(64, 1.5, 32, 3.0).apply(images.numpy())
    np.testing.assert_allclose(found, resize_real(images, 32, 2).numpy(), atol=2e-6)


@pytest.mark.parametrize(
    ("boxes", "sizes", "frame"),
    [
        ([64], [1.5], (64, 1.5)),
        ([65, 65], [1.5, 1.5], (65, 1.5)),
        ([128, 64], [1.0, 2.0], (64, 2.0)),
        ([256, 200], [1.0, 1.3], (196, 1.3)),
        ([100, 100], [1.0, 1.5], (66, 1.5)),
        ([64, 65], [1.5, 1.5], (64, 1.5)),
    ],
)
def test_the_common_frame_is_the_coarsest_and_smallest(
    boxes: list[int], sizes: list[float], frame: tuple[int, float]
) -> None:
    assert common_frame(boxes, sizes) == frame
