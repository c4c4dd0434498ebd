"""FSC against an independent NumPy copy; the gold standard against what the truth says."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cryoloom.jobs.final_maps import view_vectors
from cryoloom.maps.align import apply_rigid
from cryoloom.maps.fsc import (
    crossing,
    directional_fsc,
    fourier_shell_correlation,
    gold_standard,
    half_space,
    resolution_angstrom,
    resolved_shell,
    shell_sums,
    with_random_phases,
)
from cryoloom.maps.io import DensityMap
from cryoloom.maps.local_resolution import local_resolution
from cryoloom.physics.rotations import symmetry_group
from maps.half_maps import noisy_halves, shell_of

Maker = Callable[[str], DensityMap]


def numpy_fsc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Full-space sums with explicit centred transforms: shares nothing with the package."""
    n = a.shape[0]
    index = np.indices((n,) * 3) - n // 2
    shell = np.rint(np.sqrt((index**2).sum(0))).astype(int).ravel()
    fa, fb = (np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(v))).ravel() for v in (a, b))
    num, pa, pb = (np.bincount(shell, x) for x in ((fa * fb.conj()).real, abs(fa) ** 2, abs(fb) ** 2))
    return (num / np.sqrt(pa * pb + 1e-30))[: n // 2 + 1]


def sphere(box: int, radius: float, soft: float = 4.0) -> torch.Tensor:
    axis = torch.arange(box) - box // 2
    r = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return ((radius + soft - r) / soft).clamp(0, 1)


@pytest.mark.parametrize("box", [15, 16, 31, 32])
def test_equals_the_full_space_sum(box: int, generator: torch.Generator) -> None:
    a, b = torch.randn(2, box, box, box, generator=generator, dtype=torch.float64)
    b = a + 0.7 * b
    f = fourier_shell_correlation(a, b)
    assert len(f) == box // 2 + 1
    np.testing.assert_allclose(f.numpy(), numpy_fsc(a.numpy(), b.numpy()), atol=1e-12)
    shells = torch.fft.fftn(a).abs().square()
    inside = shell_sums(torch.fft.rfftn(a).abs().square(), box).sum()
    axis = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64)
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().round()
    assert float(inside) == pytest.approx(float(shells[radius <= box // 2].sum()))


def test_identical_opposite_and_scaled_maps(generator: torch.Generator) -> None:
    a = torch.randn(16, 16, 16, generator=generator)
    assert torch.allclose(fourier_shell_correlation(a, 3 * a), torch.ones(9, dtype=torch.float64))
    assert torch.allclose(fourier_shell_correlation(a, -a), -torch.ones(9, dtype=torch.float64))
    with pytest.raises(ValueError, match="one side"):
        fourier_shell_correlation(a, a[:8])


def test_crossing_rule() -> None:
    assert crossing(torch.tensor([1.0, 0.9, 0.6, 0.4, 0.3, 0.9]), 0.5) == pytest.approx(2.5)
    assert crossing(torch.tensor([1.0, 0.1, 0.9]), 0.5) == 0.0
    assert crossing(torch.tensor([0.0, 0.9, 0.8]), 0.5) == 2.0
    assert resolution_angstrom(16.0, 64, 2.0) == 8.0


def test_a_dip_of_one_shell_is_no_crossing_and_a_spike_no_return() -> None:
    falling = torch.tensor([1.0, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0, 0.0])
    at = crossing(falling, 0.5)
    assert at == pytest.approx(4.5)
    dip, spike = falling.clone(), falling.clone()
    dip[2], spike[8] = -0.2, 0.7
    assert crossing(dip, 0.5) == pytest.approx(at)
    assert crossing(spike, 0.5) == pytest.approx(at)
    near, twice = falling.clone(), falling.clone()
    near[3], twice[2:4] = -0.2, 0.3
    assert at - 1 <= crossing(near, 0.5) < at  # a dip beside the crossing makes it coarser, not finer
    assert crossing(twice, 0.5) < 2


def test_a_band_limited_curve_ends_beyond_its_last_shell() -> None:
    assert resolved_shell(torch.tensor([1.0, 0.9, 0.6, 0.4, 0.3]), 0.5) == pytest.approx(2.5)
    assert resolved_shell(torch.tensor([1.0, 0.1, 0.9])) == 0.0
    assert resolved_shell(torch.tensor([1.0, 0.9, 0.8], dtype=torch.float64), 0.4) == pytest.approx(2.5)
    assert resolution_angstrom(0.0, 64, 2.0) is None


@pytest.mark.parametrize("box", [20, 21])
def test_phase_randomisation_keeps_amplitudes_and_low_shells(box: int, generator: torch.Generator) -> None:
    a = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    b = with_random_phases(torch.fft.rfftn(a), 5, generator)
    shells, _ = half_space(box, a.device)
    fa, fb = torch.fft.rfftn(a), torch.fft.rfftn(b)
    assert torch.allclose(fa.abs(), fb.abs(), atol=1e-9)
    assert torch.allclose(fa[shells < 5], fb[shells < 5], atol=1e-9)
    f = fourier_shell_correlation(a, b)
    assert f[5:].abs().max() < 0.25
    assert f[:5].min() > 0.999


@pytest.mark.parametrize("name", ["betagal", "igg", "adk"])
@pytest.mark.parametrize("shell", [10.0, 16.0])
def test_gold_standard_tells_the_resolution_against_the_truth(
    molecule: Maker, name: str, shell: float, generator: torch.Generator
) -> None:
    truth = molecule(name)
    half1, half2 = noisy_halves(truth.data, shell, generator)
    mask = sphere(64, 24.0)
    g = gold_standard(half1, half2, mask, truth.pixel_size, generator)
    # FSC 0.143 between halves is FSC 0.5 of their mean against the truth (Rosenthal & Henderson 2003)
    real = crossing(fourier_shell_correlation((half1 + half2) / 2 * mask, truth.data * mask), 0.5)
    assert g.shell == pytest.approx(real, abs=2.5)  # measured: 0.1 to 2.3 at the noisiest
    assert g.shell_half < g.shell
    assert g.resolution_angstrom == pytest.approx(64 * truth.pixel_size / g.shell)
    assert g.resolution_half_angstrom == pytest.approx(64 * truth.pixel_size / g.shell_half)
    assert crossing(g.unmasked, 0.143) == pytest.approx(shell, abs=1.5)


@pytest.mark.parametrize("coloured", [False, True])
def test_halves_of_noise_have_no_resolution(coloured: bool, generator: torch.Generator) -> None:
    mask = sphere(32, 12.0)
    for _ in range(20):
        a, b = torch.randn(2, 32, 32, 32, generator=generator)
        if coloured:
            damp = 1 / (1 + shell_of(32)) ** 2
            a, b = (torch.fft.irfftn(torch.fft.rfftn(v) * damp, s=(32,) * 3) for v in (a, b))
        g = gold_standard(a, b, mask, 3.0, generator)
        assert g.resolution_angstrom is None
        assert g.resolution_half_angstrom is None


def test_symmetric_halves_of_noise_have_no_resolution(generator: torch.Generator) -> None:
    """Noise that was averaged over the 24 mates of an octahedral group is alike in 24 places."""
    mask = sphere(32, 12.0)
    group = symmetry_group("O")
    for _ in range(5):
        halves = torch.randn(2, 32, 32, 32, generator=generator)
        a, b = (torch.stack([apply_rigid(v, g, torch.zeros(3)) for g in group.float()]).mean(0) for v in halves)
        one, all_mates = (
            gold_standard(a, b, mask, 3.0, torch.Generator().manual_seed(1), mates=n) for n in (1, len(group))
        )
        assert all_mates.resolution_angstrom is None
        assert all_mates.significance == pytest.approx(one.significance / len(group) ** 0.5)


def test_a_tight_mask_does_not_flatter(molecule: Maker, generator: torch.Generator) -> None:
    truth = molecule("adk").data
    signal = torch.fft.irfftn(torch.where(shell_of(64) < 8.5, torch.fft.rfftn(truth), 0.0), s=(64,) * 3)
    half1, half2 = (signal + 0.3 * truth.std() * torch.randn(64, 64, 64, generator=generator) for _ in range(2))
    tight = (signal > 0.35 * signal.max()).float()  # hard edge, cuts into the molecule
    g = gold_standard(half1, half2, tight, 1.8, generator)
    assert crossing(g.unmasked, 0.143) < 9.5
    assert crossing(g.masked, 0.143) > 20  # the edge alone correlates
    assert g.shell < 11
    assert g.corrected[12:].abs().max() < 0.25  # measured 0.15: few voxels are within the mask
    assert abs(float(g.corrected[12:].mean())) < 0.05


@pytest.mark.parametrize("soft", [False, True])
def test_a_low_pass_is_not_taken_for_resolution(molecule: Maker, soft: bool, generator: torch.Generator) -> None:
    truth = molecule("adk").data
    radius = shell_of(64)
    keep = torch.exp(-((radius / 12) ** 4)) if soft else (radius <= 18).float()
    halves = [torch.fft.irfftn(torch.fft.rfftn(h) * keep, s=(64,) * 3) for h in noisy_halves(truth, 24.0, generator)]
    mask = sphere(64, 18.0, 3.0)
    g = gold_standard(halves[0], halves[1], mask, 1.8, generator)
    assert g.masked[24:].min() > 0.2  # carried there by the edge of the mask
    assert g.shell < (25 if soft else 19)
    directions = torch.eye(3)
    assert directional_fsc(halves[0], halves[1], mask, g, directions).shell.max() < (25 if soft else 19)
    local = local_resolution(halves[0], halves[1], mask, 1.8)
    assert float((64 * 1.8 / local[mask > 0.9]).max()) < (25 if soft else 20)


@pytest.mark.parametrize("weakened", [0.3, 0.03])
def test_low_shells_that_a_filter_weakened_are_no_end(
    molecule: Maker, weakened: float, generator: torch.Generator
) -> None:
    """The mask brings power back into them: of the particle, whose surroundings a high-pass filter makes negative."""
    truth = molecule("adk").data
    gain = torch.where(shell_of(64) < 1.5, weakened, 1.0)
    halves = [torch.fft.irfftn(torch.fft.rfftn(h) * gain, s=(64,) * 3) for h in noisy_halves(truth, 14.0, generator)]
    whole = gold_standard(
        *noisy_halves(truth, 14.0, torch.Generator().manual_seed(5)), sphere(64, 12.0), 1.8, generator
    )
    g = gold_standard(halves[0], halves[1], sphere(64, 12.0), 1.8, generator)
    assert g.corrected[1] > 0.9
    assert g.shell == pytest.approx(whole.shell, abs=1.0)
    assert directional_fsc(halves[0], halves[1], sphere(64, 12.0), g, torch.eye(3)).shell.min() > 8


def test_empty_mask_and_odd_shapes_are_refused(generator: torch.Generator) -> None:
    a = torch.randn(8, 8, 8, generator=generator)
    with pytest.raises(ValueError, match="empty"):
        gold_standard(a, a, torch.zeros_like(a), 1.0, generator)
    with pytest.raises(ValueError, match="mask has shape"):
        gold_standard(a, a, torch.ones(9, 9, 9), 1.0, generator)


def test_gold_standard_repeats(molecule: Maker) -> None:
    truth = molecule("adk")
    mask = sphere(64, 24.0)
    half1, half2 = noisy_halves(truth.data, 14.0, torch.Generator().manual_seed(2))
    runs = [gold_standard(half1, half2, mask, 1.8, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(runs[0].corrected, runs[1].corrected)


def test_directional_fsc_finds_the_blurred_axis(molecule: Maker, generator: torch.Generator) -> None:
    truth = molecule("betagal")
    half1, half2 = noisy_halves(truth.data, 20.0, generator)
    f = torch.fft.fftfreq(64, 1 / 64)
    kz, ky, kx = torch.meshgrid(f, f, torch.arange(33.0), indexing="ij")
    radius = (kz**2 + ky**2 + kx**2).sqrt()
    # noise without signal in a cone of 35 degrees about y beyond shell 8
    cone = (ky.abs() > radius * np.cos(np.radians(35))) & (radius > 8)
    halves = []
    for half in (half1, half2):
        noise = torch.fft.rfftn(torch.randn(64, 64, 64, generator=generator))
        halves.append(torch.fft.irfftn(torch.where(cone, noise, torch.fft.rfftn(half)), s=(64,) * 3))
    directions = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0]])
    mask = sphere(64, 26.0)
    gold = gold_standard(halves[0], halves[1], mask, truth.pixel_size, generator)
    d = directional_fsc(halves[0], halves[1], mask, gold, directions)
    assert d.fsc.shape == (4, 33)
    assert d.shell[1] < 11
    assert d.shell[0] > 17
    assert d.shell[2] > 17
    assert torch.allclose(d.fsc[1], d.fsc[3])
    assert torch.allclose(d.resolution_angstrom, 64 * truth.pixel_size / d.shell)


def test_cfar_of_equal_and_of_missing_directions(molecule: Maker, generator: torch.Generator) -> None:
    """Half maps as good in all directions, and such that hold noise in a cone of 40 degrees about z."""
    truth = molecule("betagal")
    halves = noisy_halves(truth.data, 20.0, generator)
    f = torch.fft.fftfreq(64, 1 / 64)
    kz, ky, kx = torch.meshgrid(f, f, torch.arange(33.0), indexing="ij")
    cone = kz.abs() > (kz**2 + ky**2 + kx**2).sqrt() * np.cos(np.radians(40))
    noise = [torch.fft.rfftn(torch.randn(64, 64, 64, generator=generator)) for _ in range(2)]
    blind = [
        torch.fft.irfftn(torch.where(cone, n, torch.fft.rfftn(h)), s=(64,) * 3)
        for n, h in zip(noise, halves, strict=True)
    ]
    mask, found = sphere(64, 26.0), []
    for one, two in (halves, tuple(blind)):
        gold = gold_standard(one, two, mask, truth.pixel_size, generator)
        found.append(directional_fsc(one, two, mask, gold, view_vectors(3)))
        finest, coarsest = found[-1].resolution_angstrom.min(), found[-1].resolution_angstrom.max()
        assert gold.resolution_angstrom is not None
        assert finest <= gold.resolution_angstrom <= coarsest  # the directions bracket the headline
    even, missing = found
    assert even.cfar is not None
    assert missing.cfar is not None
    assert even.cfar > 0.8
    assert missing.cfar < 0.35
    along, across = missing.directions[:, 2] > 0.9, missing.directions[:, 2] < 0.3
    assert missing.area[along].max() < 0.5 * missing.area[across].min()
