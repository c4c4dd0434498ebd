"""Sizes of the grids of band-limited maps."""

import pytest
import torch

from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.band import Band
from cryoloom.physics.frequencies import FourierDisc


@pytest.mark.parametrize("radius", [1, 5, 12])
def test_boxes_hold_the_band_and_can_be_read_back(radius):
    band = Band(radius)
    assert band.box == 2 * radius + 4
    assert band.side == 2 * band.box
    assert Band.of_box(band.box) == band
    grid = volume_to_half(torch.zeros(band.box, band.box, band.box))
    assert grid.shape[0] == band.side
    slices = dispatch.slices(grid, torch.eye(3)[None], FourierDisc.create(64, 1.0, radius))  # refused where too small
    assert slices.abs().max() == 0
