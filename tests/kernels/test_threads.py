"""How work is divided among threads changes results by rounding only, and at one division they are bit-equal."""

import pytest
import torch

from cryoloom.kernels import dispatch
from kernels.scene import Scene, relative_error


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
