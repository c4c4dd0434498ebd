"""Masks: they hold the molecule, also when found from a noisy half map, and are not much larger than it."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import ndimage

from cryoloom.maps.fsc import crossing, fourier_shell_correlation, gold_standard
from cryoloom.maps.io import DensityMap
from cryoloom.maps.mask import automatic_mask, cosine_edge, low_pass, radius_grid, soft_sphere
from maps.half_maps import noisy_halves

Maker = Callable[[str], DensityMap]
DIAMETER = {"igg": 180.0, "adk": 75.0, "c3": 110.0, "d7": 160.0, "betagal": 180.0}


@pytest.mark.parametrize("box", [32, 33])
def test_soft_sphere(box: int) -> None:
    m = soft_sphere(box, 8, 4)
    c = box // 2
    assert m[c, c, c + 8] == 1
    assert float(m[c, c + 10, c]) == pytest.approx(0.5)
    assert m[c + 12, c, c] == 0
    assert m[c, c, c - 9] == m[c, c, c + 9] == m[c - 9, c, c]
    assert float(m.sum()) == pytest.approx(4 / 3 * math.pi * 10**3, rel=0.03)
    hard = cosine_edge(radius_grid(box) - 8, 0)
    assert set(hard.unique().tolist()) == {0.0, 1.0}


def test_low_pass_halves_the_amplitude_at_the_resolution() -> None:
    wave = torch.cos(2 * math.pi * torch.arange(32, dtype=torch.float64) / 8).expand(32, 32, 32)
    assert torch.allclose(low_pass(wave, 8.0), wave / 2)


@pytest.mark.parametrize("name", ["igg", "adk", "c3", "d7", "betagal"])
@pytest.mark.parametrize("shell", [None, 14.0])
def test_mask_holds_the_molecule_and_little_else(
    molecule: Maker, name: str, shell: float | None, generator: torch.Generator
) -> None:
    truth = molecule(name)
    t = truth.data
    seen = t if shell is None else noisy_halves(t, shell, generator)[0]
    resolution = None if shell is None else 64 * truth.pixel_size / shell
    m = automatic_mask(seen, truth.pixel_size, DIAMETER[name], resolution)
    # the real map has density at the noise level outside of its molecule
    molecule_only = t * torch.from_numpy(ndimage.binary_dilation((t > 0.1 * t.max()).numpy(), iterations=3))
    assert float((m * molecule_only).sum() / molecule_only.sum()) > 0.99
    envelope = ndimage.binary_fill_holes((t > (0.1 if name == "betagal" else 0.02) * t.max()).numpy())
    assert float(m.sum()) < 3 * envelope.sum()
    assert m.min() == 0
    assert m.max() == 1
    assert m[0].max() == m[:, 0].max() == m[..., 0].max() == 0


def test_mask_makes_an_honest_and_better_fsc(molecule: Maker, generator: torch.Generator) -> None:
    truth = molecule("igg")
    half1, half2 = noisy_halves(truth.data, 10.0, generator)
    m = automatic_mask((half1 + half2) / 2, truth.pixel_size, 180.0, 64 * truth.pixel_size / 10)
    g = gold_standard(half1, half2, m, truth.pixel_size, generator)
    real = crossing(fourier_shell_correlation((half1 + half2) / 2 * m, truth.data * m), 0.5)
    assert g.shell > 1.3 * crossing(g.unmasked, 0.143)
    assert g.shell == pytest.approx(real, abs=3.0)


def test_parts_far_apart_stay_and_specks_go() -> None:
    r = radius_grid(64)
    blobs = torch.zeros(64, 64, 64)
    for shift, radius in ((-12, 6), (12, 5), (0, 1.2)):
        blobs += (torch.roll(r, (shift, 9 if shift == 0 else 0), (2, 1)) <= radius).float()
    m = automatic_mask(blobs, 5.0, 220.0, 10.0)
    assert m[32, 32, 20] == m[32, 32, 44] == 1
    assert m[32, 41, 32] == 0


def test_a_shell_is_filled_and_an_empty_map_gives_the_sphere() -> None:
    r = radius_grid(64)
    m = automatic_mask(((r > 14) & (r < 19)).float(), 4.0, 160.0, 8.0)
    assert m[32, 32, 32] == 1
    empty = automatic_mask(torch.zeros(64, 64, 64), 4.0, 120.0, 8.0)
    assert torch.equal(empty, soft_sphere(64, (120 + 16) / 8, 4))
    with pytest.raises(ValueError, match="diameter"):
        automatic_mask(torch.zeros(8, 8, 8), 4.0, 0.0)


def test_keeps_the_type_and_leaves_its_input_alone(molecule: Maker) -> None:
    truth = molecule("adk")
    volume = truth.data.double()
    before = volume.clone()
    m = automatic_mask(volume, 1.8, 75.0, 6.0)
    assert m.dtype == torch.float64
    assert torch.equal(volume, before)
