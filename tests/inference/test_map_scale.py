"""The scale and sign of a given map are found from the images, whatever the map's own are and whatever lies beside."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

import cryoloom as cl
from cryoloom.inference.poses.given_map import fit_to_images
from cryoloom.inference.poses.map_scale import fit_scale
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.backprojection import particle_mask
from cryoloom.particles.errors import BadInput

BOX, RADIUS = 32, 8
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 100 images of an antibody, 32 px of 8 angstrom, SNR 0.1, and the truth about them."""
    folder = tmp_path_factory.mktemp("scale") / "set"
    cl.simulate(output=folder, count=100, snr=0.1, box=BOX, pixel_size=8.0)
    return folder


@pytest.fixture(scope="module")
def true_map(small_set: Path) -> cl.DensityMap:
    return cl.read_map(small_set / "truth_001.mrc")


@pytest.fixture(scope="module")
def images(small_set: Path) -> cl.ImageFeed:
    return cl.open(small_set / "particles.star").images(device="cpu", particle_diameter=170)


def changed(small_set: Path, folder: Path, change: Change) -> cl.ImageFeed:
    """The images after a change of their pixels [N, D, D]."""
    star = folder / "particles.star"
    star.write_bytes((small_set / "particles.star").read_bytes())
    source = next(small_set.glob("*.mrcs"))
    with mrcfile.open(source) as old, mrcfile.new(folder / source.name) as new:
        new.set_data(change(old.data.astype(np.float32), np.random.default_rng(5)).astype(np.float32))
        new.set_image_stack()
        new.voxel_size = 8.0
    return cl.open(star).images(device="cpu", particle_diameter=170)


def low_passed(noise: np.ndarray, radius: float) -> np.ndarray:
    f = np.fft.fftfreq(noise.shape[-1], 1 / noise.shape[-1])
    near = np.hypot(f[:, None], f[None]) <= radius
    out = np.fft.ifft2(np.fft.fft2(noise) * near).real
    return out / out.std()


def background_around(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Low frequencies beside the particle alone, as of neighbours: the noise is measured too large there."""
    distance = np.hypot(*np.indices((BOX, BOX)) - BOX // 2)
    around = np.clip((distance - 11) / 2, 0, 1)
    return images + 0.7 * images.std() * around * low_passed(rng.normal(size=images.shape), 3)


def background_everywhere(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strong low frequencies everywhere."""
    return images + images.std() * low_passed(rng.normal(size=images.shape), 3)


def volume_in(feed: cl.ImageFeed, true_map: cl.DensityMap) -> torch.Tensor:
    return true_map.data.float() * particle_mask(BOX, feed.diameter_px)


def scale_at_true_poses(feed: cl.ImageFeed, small_set: Path, true_map: cl.DensityMap) -> float:
    """The least-squares scale of the map's projections in the images."""
    rows = np.arange(len(feed))
    images = feed.images(rows, 6, feed.noise)
    poses = cl.open(small_set / "truth.star").input_poses()
    slices = dispatch.slices(volume_to_half(volume_in(feed, true_map)), poses.R.float(), images.disc)
    phase = -2 * np.pi * poses.t.float() @ images.disc.k.T
    drawn = images.ctf * slices * torch.complex(phase.cos(), phase.sin())
    weight = images.disc.weight / images.variance[images.group]
    return float((weight * (images.observed.conj() * drawn).real).sum() / (weight * drawn.abs().square()).sum())


def excess_over_noise(feed: cl.ImageFeed) -> float:
    """Power of the images at low resolution beyond that of their noise."""
    images = feed.images(np.arange(len(feed)), RADIUS, feed.noise)
    return float((images.disc.weight * (images.observed.abs().square() - images.variance[images.group])).mean(0).sum())


@pytest.mark.parametrize("change", [None, background_around, background_everywhere])
def test_the_scale_is_that_of_the_true_poses(
    small_set: Path, true_map: cl.DensityMap, tmp_path: Path, change: Change | None
) -> None:
    feed = changed(small_set, tmp_path, change or (lambda images, rng: images))
    if change is background_around:
        assert excess_over_noise(feed) < 0  # the images' power says nothing of the scale
    found = fit_scale(feed, volume_in(feed, true_map))
    assert found is not None
    assert found.sign_known
    # measured: 0.91, 0.87 and 0.88; the grid of rotations, of 20 degrees, makes it too small
    assert 0.8 < found.factor / scale_at_true_poses(feed, small_set, true_map) < 1.1


@pytest.mark.parametrize("factor", [1000.0, 1e-3, -1.0, -1e6])
def test_any_factor_gives_the_same_map(images: cl.ImageFeed, true_map: cl.DensityMap, factor: float) -> None:
    said: list[str] = []
    plain = fit_to_images(images, true_map, RADIUS, said.append)
    assert said == []
    other = fit_to_images(images, replace(true_map, data=factor * true_map.data), RADIUS, said.append, "my.mrc")
    assert float((other - plain).abs().max() / plain.abs().max()) < 1e-3
    assert len(said) == (1 if factor < 0 else 0)
    if factor < 0:
        assert said[0].startswith("my.mrc has the opposite contrast of the images and is multiplied by -1")


def test_black_images_are_inverted_before_the_map_is_compared(
    small_set: Path, true_map: cl.DensityMap, tmp_path: Path
) -> None:
    """Where their contrast is misjudged the map tells, and the words say what it means."""
    feed = changed(small_set, tmp_path, lambda images, rng: -images)
    sign = feed.source.preprocessing.contrast_sign
    said: list[str] = []
    fit_to_images(feed, true_map, RADIUS, said.append)
    assert len(said) == (0 if sign < 0 else 1)
    fit_to_images(feed, replace(true_map, data=-true_map.data), RADIUS, said.append)
    assert len(said) == 1
    assert ("The images, as read," if sign > 0 else "The images, after their inversion,") in said[0]


def test_a_map_that_is_not_in_the_images_is_refused(small_set: Path, true_map: cl.DensityMap, tmp_path: Path) -> None:
    noise = changed(small_set, tmp_path, lambda images, rng: rng.normal(size=images.shape))
    assert fit_scale(noise, volume_in(noise, true_map)) is None
    with pytest.raises(BadInput) as caught:
        fit_to_images(noise, true_map, RADIUS, warnings.warn, "my.mrc")
    for word in ("not seen in the images", "my.mrc", "voxel size", "reconstruct"):
        assert word in str(caught.value)


def test_few_images_are_enough(small_set: Path, true_map: cl.DensityMap, images: cl.ImageFeed) -> None:
    tables = starfile.read(small_set / "particles.star", always_dict=True)
    tables["particles"] = tables["particles"].head(12)
    starfile.write(tables, small_set / "few.star")
    few = cl.open(small_set / "few.star").images(device="cpu", particle_diameter=170)
    of_few, of_all = fit_scale(few, volume_in(few, true_map)), fit_scale(images, volume_in(images, true_map))
    assert of_few is not None
    assert of_all is not None
    assert of_few.factor / of_all.factor == pytest.approx(1, abs=0.25)
