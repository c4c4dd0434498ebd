"""Copies and waits are counted where they are asked for; the kernels of the GPU wait only where that is stated."""

import pytest
import torch

from cryoloom.kernels import dispatch
from kernels.scene import Scene, make_scene, random_moments
from transfers import Counter


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(20, torch.Generator().manual_seed(20))


def test_waits_are_found_and_arithmetic_is_not_one():
    x = torch.arange(6.0)
    with Counter("cpu") as counter:
        assert float((x * 2).sum()) == 30
        assert len(x[x > 2]) == 3
        x.nonzero()
        x[torch.tensor([1, 2])]
    assert counter.found()["waits"] == 3


def test_copies_between_devices_are_counted_with_their_bytes():
    x = torch.arange(6.0)
    with Counter("meta") as counter:
        there = x.to("meta")
        there.to(torch.float64)
        torch.empty(3).copy_(x[:3])
    assert counter.found()["to"] == {"copies": 1, "bytes": 24}
    assert counter.found()["from"] == {"copies": 0, "bytes": 0}


@pytest.mark.parametrize(
    ("kernel", "waits"),
    [
        ("slices", 0),
        # samples without weight are left out
        ("insert", 1),
        ("insert_moments", 0),
        ("normal_equations", 0),
        ("turns", 0),
        ("residual_power", 1),
        ("grid_posterior", 0),
    ],
)
def test_kernels_of_the_gpu_hardly_wait(kernel, waits, scene, monkeypatch):
    """A wait for each chunk of a thousand images is of no account; one for each image would be."""
    monkeypatch.setattr(dispatch, "on_gpu", lambda at: True)
    s, images = scene.samples, scene.images
    first, second = random_moments(len(images.observed))
    R, t = s.R[: len(images.observed)], s.t[: len(images.observed)]
    arguments = {
        "slices": (scene.grid, s.R, scene.disc),
        "insert": (images, s, scene.side),
        "insert_moments": (images, R, t, first, second, scene.side),
        "normal_equations": (scene.grid, images, s.image, s.R, s.t),
        "turns": ([scene.grid], torch.ones(len(s.R), 1), s.R, scene.disc),
        "residual_power": (scene.grid, images, s),
        "grid_posterior": (torch.randn(4, 9, 4, 175), torch.randn(2, 9, 175), torch.randn(9, 4), torch.rand(9), 6, 3),
    }
    with Counter("cpu") as counter:
        getattr(dispatch, kernel)(*arguments[kernel])
    assert counter.found()["waits"] == waits, counter.waits
