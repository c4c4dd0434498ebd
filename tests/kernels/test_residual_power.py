"""Residual power by optics group and shell against the image model."""

import pytest
import torch

from cryoloom.kernels.images import Samples
from kernels.scene import GROUPS


def direct(scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over samples, frequency by frequency."""
    im, s = scene.images, scene.samples
    shells = scene.disc.shells
    h = s.weight[:, None].double() * scene.disc.weight
    squared = (im.observed[s.image] - scene.predicted()).abs().square()
    power = torch.zeros(GROUPS, int(shells.max()) + 1, dtype=torch.float64)
    total = torch.zeros_like(power)
    for c, image in enumerate(s.image):
        power[im.group[image]].index_add_(0, shells, h[c] * squared[c])
        total[im.group[image]].index_add_(0, shells, h[c])
    return power, total


def test_residual_power_is_the_references(scene, kernels):
    power, total = kernels.residual_power(scene.grid, scene.images, scene.samples)
    expected_power, expected_total = direct(scene)
    assert power.dtype == total.dtype == torch.float32
    torch.testing.assert_close(power.double(), expected_power, rtol=1e-5, atol=0)
    torch.testing.assert_close(total.double(), expected_total, rtol=1e-5, atol=0)


def test_at_the_true_poses_it_is_the_variance_of_the_noise(scene, kernels):
    s, B = scene.samples, len(scene.images.observed)
    true = Samples(torch.arange(B), s.R[:B].contiguous(), s.t[:B].contiguous(), torch.ones(B))
    power, total = kernels.residual_power(scene.grid, scene.images, true)
    weighted = scene.images.variance * scene.disc.weight
    expected = torch.zeros_like(power).index_add_(1, scene.disc.shells, weighted)
    members = torch.bincount(scene.images.group)[:, None]
    # h/2 independent complex numbers a sample: the relative scatter of a sum is about 1 / sqrt(their number)
    scatter = (2 / total).sqrt()
    assert (power / (members * expected) - 1).abs().div(scatter)[:, 1:].max() < 4
    assert (power.sum() / (members * expected).sum()).item() == pytest.approx(1, abs=0.05)


def test_samples_without_weight_are_left_out_whatever_they_hold(scene, kernels):
    s = scene.samples
    weight = s.weight.clone()
    weight[::2] = 0
    R, t = s.R.clone(), s.t.clone()
    t[::2], R[::4] = torch.nan, 1e9
    kept = weight > 0
    spoilt = kernels.residual_power(scene.grid, scene.images, Samples(s.image, R, t, weight))
    clean = kernels.residual_power(scene.grid, scene.images, Samples(s.image[kept], s.R[kept], s.t[kept], weight[kept]))
    for a, b in zip(spoilt, clean, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


def test_a_group_without_samples_has_no_weight(scene, kernels):
    s = scene.samples
    kept = scene.images.group[s.image] != 1
    part = Samples(s.image[kept], s.R[kept], s.t[kept], s.weight[kept])
    power, total = kernels.residual_power(scene.grid, scene.images, part)
    assert power.shape[0] == GROUPS
    assert power[1].abs().max() == total[1].abs().max() == 0
    assert total[[0, 2]].min() > 0
