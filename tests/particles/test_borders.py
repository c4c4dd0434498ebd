"""Borders that extraction filled: found in every form, and without influence on what is normalised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cryoloom.particles.background import Background, Unusable
from cryoloom.particles.borders import filled_borders

BOX, CLIP = 32, 20.0


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    out = 5.0 + 2.0 * torch.randn(4, BOX, BOX, generator=generator)
    out += torch.linspace(-3, 3, BOX)[None, :, None]
    return out


def filled(images: Tensor, kind: str, width: int = 5) -> Tensor:
    """The last image with a border of some rows at the bottom, or columns at the left."""
    out = images.clone()
    if kind == "constant":
        out[3, -width:] = 0.0
    elif kind == "copies":
        out[3, -width:] = out[3, -width - 1]
    else:
        out[3, :, :width] = 7.0
        out[3, :width] = out[3, width]
    return out


@pytest.mark.parametrize("kind", ["constant", "copies", "corner"])
def test_a_filled_border_is_found_where_it_is(images: Tensor, kind: str) -> None:
    assert filled_borders(images) is None
    found = filled_borders(filled(images, kind))
    assert found is not None
    assert not found[:3].any()
    expected = torch.zeros(BOX, BOX, dtype=torch.bool)
    if kind == "corner":
        expected[:, :5] = expected[:5] = True
    else:
        expected[-5:] = True
    assert torch.equal(found[3], expected)


@pytest.mark.parametrize("kind", ["constant", "copies", "corner"])
def test_a_filled_border_does_not_change_the_rest(images: Tensor, kind: str) -> None:
    background = Background.create(BOX, 16.0)
    whole = background.normalise(images, CLIP)
    out = background.normalise(filled(images, kind), CLIP)
    assert torch.equal(out[:3], whole[:3])
    border = filled_borders(filled(images, kind))
    assert border is not None
    assert out[3][border[3]].abs().max() == 0
    # the plane and the scale come from fewer pixels: nearly the same
    rest = ~border[3]
    assert (out[3] - whole[3])[rest].abs().mean() < 0.15


def test_an_image_that_is_nearly_all_filled_is_named(images: Tensor) -> None:
    with pytest.raises(Unusable) as caught:
        Background.create(BOX, 16.0).normalise(filled(images, "constant", width=31), CLIP)
    assert caught.value.places.tolist() == [3]
