"""Local resolution: the global value where all is alike, worse where noise was added, better where there is none."""

from collections.abc import Callable

import pytest
import torch

from cryoloom.maps import local_resolution as module
from cryoloom.maps.fsc import gold_standard
from cryoloom.maps.io import DensityMap
from cryoloom.maps.local_resolution import local_resolution
from cryoloom.maps.mask import automatic_mask
from maps.half_maps import noisy_halves

Maker = Callable[[str], DensityMap]


@pytest.fixture
def halves(molecule: Maker, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    truth = molecule("igg")
    half1, half2 = noisy_halves(truth.data, 14.0, generator)
    mask = automatic_mask((half1 + half2) / 2, truth.pixel_size, 180.0, 64 * truth.pixel_size / 14)
    return half1, half2, mask, truth.pixel_size


def test_agrees_with_the_whole(
    halves: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float], generator: torch.Generator
) -> None:
    half1, half2, mask, pixel_size = halves
    local = local_resolution(half1, half2, mask, pixel_size)
    whole = gold_standard(half1, half2, mask, pixel_size, generator)
    assert whole.resolution_half_angstrom is not None
    inside = local[mask > 0.9]
    assert float(inside.median()) == pytest.approx(whole.resolution_half_angstrom, rel=0.15)
    low, high = torch.quantile(inside, torch.tensor([0.1, 0.9])).tolist()
    assert high / low < 1.6
    assert torch.isfinite(local).all()
    assert float(local.min()) >= 2 * pixel_size - 1e-4
    outside = local[mask == 0]
    assert torch.allclose(outside, torch.full_like(outside, 64 * pixel_size / 3))


def test_the_noisier_half_is_worse(
    halves: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float], generator: torch.Generator
) -> None:
    half1, half2, mask, pixel_size = halves
    level = float((half1 - half2).std()) / 2**0.5
    x = torch.arange(64) - 32
    noise = 3 * level * torch.randn(2, 64, 64, 64, generator=generator) * (x > 0)
    before = local_resolution(half1, half2, mask, pixel_size)
    after = local_resolution(half1 + noise[0], half2 + noise[1], mask, pixel_size)
    left, right = ((mask > 0.9) & side for side in (x < -8, x > 8))
    assert float(after[right].median()) > 1.5 * float(before[right].median())
    assert float(after[left].median()) < 1.15 * float(before[left].median())


def test_identical_halves_reach_nyquist_and_noise_nothing(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 32, 32, 32, generator=generator)
    mask = torch.ones(32, 32, 32)
    assert torch.allclose(local_resolution(a, a, mask, 2.0), torch.tensor(4.0))
    assert float(local_resolution(a, b, mask, 2.0).median()) > 2.0 * 32 / 8
    with pytest.raises(ValueError, match="one side"):
        local_resolution(a, b, mask[:8], 2.0)


def test_coarse_grids_give_what_fine_ones_give(
    halves: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    half1, half2, mask, pixel_size = halves
    found = local_resolution(half1, half2, mask, pixel_size)
    assert module._side(8.0, 64) < 64
    monkeypatch.setattr(module, "_side", lambda reach, box: box)
    expected = local_resolution(half1, half2, mask, pixel_size)
    inside = mask > 0.5
    ratio = (found / expected)[inside]
    assert float((ratio - 1).abs().mean()) < 0.01
    assert float((ratio - 1).abs().max()) < 0.2
