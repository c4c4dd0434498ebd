"""How work is divided among threads changes results by rounding only, and at one division they are bit-equal."""

import pytest
import torch

from cryoloom.kernels import dispatch
from kernels.scene import Scene, random_moments, relative_error


def everything(scene: Scene) -> list[torch.Tensor]:
    """The outputs of all kernels that divide their work."""
    s = scene.samples
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(4, 9, 4, 50, generator=generator), torch.randn(2, 9, 50, generator=generator)
    posterior = dispatch.grid_posterior(
        *scores, torch.randn(9, 4, generator=generator), torch.rand(9, generator=generator), 6, 3
    )
    return [
        dispatch.slices(scene.grid, s.R, scene.disc),
        *dispatch.insert(scene.images, s, scene.side),
        *dispatch.normal_equations(scene.grid, scene.images, s.image, s.R, s.t),
        *dispatch.residual_power(scene.grid, scene.images, s),
        posterior.picks,
        posterior.best,
        posterior.best_score,
        posterior.log_evidence,
    ]


def at(threads: int, scene: Scene, monkeypatch) -> list[torch.Tensor]:
    monkeypatch.setattr(dispatch, "_threads", lambda: threads)
    return everything(scene)


@pytest.mark.parametrize("threads", [2, 5, 50])
def test_results_depend_on_the_number_of_threads_by_rounding_only(threads, scene, monkeypatch):
    one, many = at(1, scene, monkeypatch), at(threads, scene, monkeypatch)
    for a, b in zip(one, many, strict=True):
        if a.is_floating_point() or a.is_complex():
            assert relative_error(b, a) < 1e-6
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_bit_equal_at_the_same_number_of_threads(threads, scene, monkeypatch):
    first, second = at(threads, scene, monkeypatch), at(threads, scene, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_number_of_threads_is_torchs():
    assert dispatch._threads() == torch.get_num_threads()


@pytest.mark.parametrize("threads", [2, 3, 16, 50])
def test_what_is_inserted_does_not_depend_on_the_number_of_threads(threads, scene, monkeypatch):
    """Each thread fills a part of the grid of its own, with the samples in the same order."""
    first, second = random_moments(len(scene.images))
    R, t = (x[: len(scene.images)] for x in (scene.samples.R, scene.samples.t))

    def inserted(count: int) -> list[torch.Tensor]:
        monkeypatch.setattr(dispatch, "_threads", lambda: count)
        moments = dispatch.insert_moments(scene.images, R, t, first=first, second=second, side=scene.side)
        return [*dispatch.insert(scene.images, scene.samples, scene.side), *moments]

    for one, many in zip(inserted(1), inserted(threads), strict=True):
        assert torch.equal(one, many)


def test_insertion_adds_up_over_batches(scene):
    parts = dispatch.Insertion(scene.side)
    for some in torch.arange(len(scene.samples.image)).split(5):
        parts.add(scene.images, scene.samples.rows(some))
    for one, whole in zip(parts.sums(), dispatch.insert(scene.images, scene.samples, scene.side), strict=True):
        assert relative_error(one, whole) < 1e-6
    again = parts.sums()
    assert all(torch.equal(a, b) for a, b in zip(again, parts.sums(), strict=True))
