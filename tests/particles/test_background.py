"""Normalisation by the background: the plane outside the particle, its scale, outliers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoloom.particles.background import Background, Unusable

BOX = 24
CLIP = 20.0


@pytest.fixture
def background() -> Background:
    return Background.create(BOX, 14.0)


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    """Noise, and a bright particle in the middle."""
    out = torch.randn(6, BOX, BOX, generator=generator)
    out[:, 8:16, 8:16] += 3.0
    return out


def plane(a: float, b: float, c: float) -> Tensor:
    """A constant and slopes along x and y, in units of the noise's s.d. across the box."""
    axis = torch.arange(BOX) / BOX - 0.5
    return a + b * axis[None, :] + c * axis[:, None]


@pytest.mark.parametrize("diameter", [8.0, 14.0, 40.0])
def test_a_plane_changes_nothing(images: Tensor, diameter: float) -> None:
    background = Background.create(BOX, diameter)
    expected = background.normalise(images, CLIP)
    tilted = 7.0 * (images + plane(2000.0, 3.0, -1.5))
    torch.testing.assert_close(background.normalise(tilted, CLIP), expected, atol=2e-3, rtol=0)


def test_what_is_left_has_no_mean_no_slope_and_unit_variance_outside(images: Tensor, background: Background) -> None:
    out = background.normalise(images + plane(1.0, 2.0, 3.0), CLIP).double()
    outside = background.mask > 0
    y, x = torch.meshgrid(torch.arange(BOX), torch.arange(BOX), indexing="ij")
    for shape in (torch.ones(BOX, BOX), x, y):
        overlap = (out * shape)[:, outside].mean(1)
        torch.testing.assert_close(overlap, torch.zeros(6).double(), atol=1e-5 * float(shape.max()), rtol=0)
    torch.testing.assert_close(out[:, outside].square().mean(1), torch.ones(6).double(), atol=1e-5, rtol=0)


def test_the_particle_does_not_tilt_its_background(background: Background, generator: torch.Generator) -> None:
    """A lopsided particle inside the circle, which a plane over the whole image would follow."""
    noise = torch.randn(1, BOX, BOX, generator=generator)
    lopsided = noise.clone()
    lopsided[:, 9:15, 12:17] += 10.0
    assert float(background.mask[9:15, 12:17].max()) == 0
    difference = background.normalise(lopsided, CLIP) - background.normalise(noise, CLIP)
    assert difference[:, background.mask > 0].abs().max() == 0


def test_an_image_gets_the_same_bits_in_any_batch(images: Tensor, background: Background) -> None:
    together = background.normalise(images, CLIP)
    for i in range(len(images)):
        assert torch.equal(background.normalise(images[i : i + 1], CLIP)[0], together[i])


def test_a_hot_pixel_on_a_slope_is_clipped_and_does_not_set_the_scale(images: Tensor, background: Background) -> None:
    tilted = images + plane(0.0, 2.0, 2.0)
    hot = tilted.clone()
    hot[:, 1, 1] = 1e4
    clip = 8.0  # in so small a box a single pixel can't stand out by more than 20 s.d.
    found, expected = background.normalise(hot, clip), background.normalise(tilted, clip)
    assert float(found.max()) <= clip
    others = torch.ones(BOX, BOX, dtype=torch.bool)
    others[1, 1] = False
    assert (found - expected)[:, others].abs().mean() < 0.05


def test_a_masked_image_with_a_hot_pixel_is_named_by_its_own_place(images: Tensor, background: Background) -> None:
    images[1, 0, 0] = 1e4
    images[3] = torch.where(background.mask > 0, 0.3, images[3])
    images[3, 0, 0] = 1e4  # the only value around the particle that differs
    with pytest.raises(Unusable) as caught:
        background.normalise(images, 8.0)
    np.testing.assert_array_equal(caught.value.places, [3])


def test_images_without_contrast_are_named(images: Tensor, background: Background) -> None:
    images[2] = 5.0
    images[4, 0, 0] = float("nan")
    with pytest.raises(Unusable) as caught:
        background.normalise(images, CLIP)
    np.testing.assert_array_equal(caught.value.places, [2, 4])
