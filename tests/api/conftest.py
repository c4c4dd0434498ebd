"""A small simulated set with its truth, made through the face."""

from pathlib import Path

import pytest

import cryoloom as cl


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 100 images of an antibody, 32 px of 8 angstrom, SNR 0.3, and the truth about them."""
    folder = tmp_path_factory.mktemp("api") / "set"
    cl.simulate(output=folder, count=100, snr=0.3, box=32, pixel_size=8.0)
    return folder


@pytest.fixture(scope="session")
def images(small_set: Path) -> cl.ImageFeed:
    """The images of the small set."""
    return cl.open(small_set / "particles.star").images(device="cpu")


@pytest.fixture(scope="session")
def true_map(small_set: Path) -> cl.DensityMap:
    """The map that the images were made from."""
    return cl.read_map(small_set / "truth_001.mrc")
