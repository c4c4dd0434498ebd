"""The suite runs with the physics' shape annotations switched on."""

import pytest
import torch
from jaxtyping import TypeCheckError

from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import predict, shift_ramp
from cryoloom.physics.rotations import from_euler


def test_wrong_shapes_are_refused_in_tests():
    with pytest.raises(TypeCheckError):
        from_euler(torch.zeros(5, 2))
    with pytest.raises(TypeCheckError):
        shift_ramp(torch.zeros(7, 3), torch.zeros(2))


def test_sizes_that_disagree_are_refused():
    grid = torch.zeros(8, 8, 9, dtype=torch.complex64)
    with pytest.raises(TypeCheckError):
        predict(grid, torch.eye(3)[None], torch.zeros(1, 2), None, FourierDisc.create(4, 1.0))


def test_an_integer_pixel_size_is_a_number():
    assert FourierDisc.create(8, 2).pixel_size == 2.0
