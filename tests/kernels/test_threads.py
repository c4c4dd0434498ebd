"""How work is divided among threads changes results by rounding only, and at one division they are bit-equal."""

import threading

import pytest
import torch

from cryoloom.kernels import dispatch
from cryoloom.kernels.side_by_side import LEAST_POINTS, kernel_threads, side_by_side, small_arrays
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
    monkeypatch.setattr(dispatch, "kernel_threads", lambda points=None: threads)
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


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_kernels_take_the_threads_of_torch_and_fewer_for_little_work():
    assert kernel_threads() == 3
    assert [kernel_threads(n * LEAST_POINTS) for n in (0, 1, 2, 5)] == [1, 1, 2, 3]


@pytest.mark.usefixtures("three_threads")
def test_torch_takes_one_thread_for_small_arrays_and_kernels_all():
    with small_arrays():
        assert torch.get_num_threads() == 1
        assert kernel_threads() == 3
        with small_arrays():
            assert kernel_threads() == 3
    assert torch.get_num_threads() == kernel_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_items_are_worked_on_side_by_side_in_their_order():
    meeting = threading.Barrier(3, timeout=60)  # passed by three at once alone

    def work(item: int) -> tuple[int, int, int, bool]:
        meeting.wait()
        return item, torch.get_num_threads(), kernel_threads(), torch.is_grad_enabled()

    assert side_by_side(work, range(6)) == [(item, 1, 1, False) for item in range(6)]
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_one_item_is_raised_and_threads_are_as_before():
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("this one")
        return item

    with pytest.raises(ValueError, match="this one"):
        side_by_side(work, range(4))
    assert torch.get_num_threads() == kernel_threads() == 3


@pytest.mark.parametrize("threads", [2, 3, 16, 50])
def test_what_is_inserted_does_not_depend_on_the_number_of_threads(threads, scene, monkeypatch):
    """Each thread fills a part of the grid of its own, with the samples in the same order."""
    first, second = random_moments(len(scene.images))
    R, t = (x[: len(scene.images)] for x in (scene.samples.R, scene.samples.t))

    def inserted(count: int) -> list[torch.Tensor]:
        monkeypatch.setattr(dispatch, "kernel_threads", lambda points=None: count)
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
