"""The fast path to coefficients against the reference transform, for even and odd boxes, with and without cropping."""

from __future__ import annotations

import pytest
import torch

from cryoloom.particles.coefficients import CoefficientReader, crop_images
from cryoloom.physics.fourier import resize_real
from cryoloom.physics.frequencies import FourierDisc

BOXES = [(64, 64), (65, 65), (64, 48), (64, 33), (65, 40), (65, 31), (100, 64), (16, 16), (17, 16)]


@pytest.mark.parametrize(("box", "working"), BOXES)
def test_equals_the_reference(box: int, working: int, generator: torch.Generator) -> None:
    images = torch.randn(5, box, box, generator=generator)
    disc = FourierDisc.create(working, 1.7, dtype=torch.float64)
    expected = disc.transform(resize_real(images.double(), working, 2))
    found = CoefficientReader.create(disc, box)(images)
    assert found.dtype == torch.complex64
    assert float((found - expected).abs().max()) < 2e-6 * float(expected.abs().max())


@pytest.mark.parametrize(("box", "working"), BOXES)
def test_cropped_images_equal_the_reference(box: int, working: int, generator: torch.Generator) -> None:
    images = torch.randn(5, box, box, generator=generator)
    torch.testing.assert_close(crop_images(images, working), resize_real(images, working, 2), atol=3e-6, rtol=0)


@pytest.mark.parametrize("box", [32, 33])
def test_images_from_coefficients(box: int, generator: torch.Generator) -> None:
    disc = FourierDisc.create(box, 1.0, radius=9)
    reader = CoefficientReader.create(disc, box)
    images = reader.images(reader(torch.randn(4, box, box, generator=generator)))
    torch.testing.assert_close(reader.images(reader(images)), images, atol=1e-6, rtol=0)


def test_a_larger_working_box_is_refused() -> None:
    with pytest.raises(ValueError, match="working box 64 is larger"):
        CoefficientReader.create(FourierDisc.create(64, 1.0), 48)
