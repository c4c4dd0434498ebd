"""What is particular to the GPU's implementation: chunks, memory that runs out, and the device itself."""

from __future__ import annotations

import pytest
import torch

from cryoloom.kernels import gpu
from cryoloom.kernels.images import Images, Samples
from cryoloom.physics.frequencies import FourierDisc
from kernels.conftest import NUMBA, TORCH, Kernels
from kernels.scene import Scene, random_moments, relative_error


def everything(kernels: Kernels, scene: Scene, device: str = "cpu") -> list[torch.Tensor]:
    """The outputs of all kernels that images go through, on the CPU."""
    im, s, d = scene.images, scene.samples, scene.disc
    disc = FourierDisc.create(d.box, d.pixel_size, device=device)
    images = Images(im.observed.to(device), im.ctf.to(device), im.variance.to(device), im.group.to(device), disc)
    samples = Samples(s.image.to(device), s.R.to(device), s.t.to(device), s.weight.to(device))
    grid = scene.grid.to(device)
    generator = torch.Generator().manual_seed(5)
    R, t = samples.R[: len(im.observed)], samples.t[: len(im.observed)]
    shapes = (4, 9, 4, 175), (2, 9, 175), (9, 4)
    cross, norm, prior = (2 * torch.randn(shape, generator=generator).to(device) for shape in shapes)
    uniform = torch.rand(9, generator=generator).to(device)
    posterior = kernels.grid_posterior(cross, norm, prior, uniform, draws=6, best=3)
    first, second = (m.to(device) for m in random_moments(len(t)))
    outputs = [
        kernels.slices(grid, samples.R, disc),
        *kernels.insert(images, samples, scene.side),
        *kernels.insert_moments(images, R, t, first=first, second=second, side=scene.side),
        *kernels.normal_equations(grid, images, samples.image, samples.R, samples.t),
        kernels.turns(
            [grid, grid],
            torch.linspace(-1, 1, 2 * len(samples.R), device=device).reshape(-1, 2),
            samples.R,
            images.disc,
        ),
        *kernels.residual_power(grid, images, samples),
        posterior.picks,
        posterior.best,
        posterior.best_score,
        posterior.log_evidence,
    ]
    assert all(x.device.type == torch.device(device).type for x in outputs)
    return [x.cpu() for x in outputs]


def assert_alike(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 3e-6) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if a.dtype == torch.int64:
            assert torch.equal(a, b)
        else:
            assert relative_error(a, b) < tolerance


@pytest.fixture
def no_room(monkeypatch):
    """Lets memory run out wherever more than `limit` poses or images are taken at once; returns the sizes tried."""

    def plant(limit: int) -> list[int]:
        tried, chunks = [], gpu._in_chunks

        def in_chunks(work, *args):
            def tight(rows):
                tried.append(rows.stop - rows.start)
                if tried[-1] > limit:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
                work(rows)

            chunks(tight, *args)

        monkeypatch.setattr(gpu, "_in_chunks", in_chunks)
        return tried

    return plant


def test_it_agrees_with_the_cpu_kernels(scene):
    assert_alike(everything(TORCH, scene), everything(NUMBA, scene))


@pytest.mark.parametrize("budget", [1, 2**20])
def test_chunks_change_nothing_but_rounding(budget, scene, monkeypatch):
    whole = everything(TORCH, scene)
    monkeypatch.setattr(gpu, "BUDGET_BYTES", budget)
    assert_alike(everything(TORCH, scene), whole)


def test_a_small_budget_makes_small_chunks(scene, monkeypatch, no_room):
    monkeypatch.setattr(gpu, "BUDGET_BYTES", 7 * gpu.SLICE_BYTES * len(scene.disc.index))
    tried = no_room(1000)
    gpu.slices(scene.grid, scene.samples.R, scene.disc.index, 2)
    assert tried == [7, 7, 7, 3]


def test_chunks_are_halved_until_they_fit(scene, no_room):
    whole = everything(TORCH, scene)
    tried = no_room(5)
    assert_alike(everything(TORCH, scene), whole)
    # the posterior's 9 images, then the 24 poses of the slices
    assert tried[:8] == [9, 4, 4, 1, 24, 12, 6, 3]


def test_memory_that_runs_out_late_leaves_nothing_behind(scene, monkeypatch):
    """The last large tensor of an insertion fails: the retry must not count any sample twice."""
    whole = TORCH.insert(scene.images, scene.samples, scene.side)
    stack, failures = torch.stack, []

    def failing_stack(tensors, dim=0):
        # the fractions of the cells: what is computed last
        if len(tensors) == 2 and tensors[0].shape[0] > 10:
            failures.append(tensors[0].shape[0])
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return stack(tensors, dim)

    monkeypatch.setattr(torch, "stack", failing_stack)
    assert_alike(list(TORCH.insert(scene.images, scene.samples, scene.side)), list(whole))
    assert failures == [24, 12]


def test_when_not_even_one_fits_it_stops_and_says_so(scene, no_room):
    no_room(0)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="one of 24 images or poses alone needs more than the cpu"):
        gpu.slices(scene.grid, scene.samples.R, scene.disc.index, 2)


def test_other_errors_are_not_taken_for_a_want_of_memory(scene):
    with pytest.raises(RuntimeError, match=r"(?i)size|shape"):
        gpu.normal_equations(
            scene.grid, scene.images, scene.samples.image, R=scene.samples.R, t=scene.samples.t[:3], padding=2
        )


def test_no_samples_at_all(scene):
    s = scene.samples
    none = Samples(s.image, s.R, s.t, torch.zeros_like(s.weight))
    assert all(x.abs().max() == 0 for x in TORCH.insert(scene.images, none, scene.side))
    assert all(x.abs().max() == 0 for x in TORCH.residual_power(scene.grid, scene.images, none))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_dispatch_on_a_gpu_agrees_with_the_cpu(scene):
    # the same calls: dispatch goes by the device of its tensors
    assert_alike(everything(NUMBA, scene, "cuda"), everything(NUMBA, scene), tolerance=1e-5)
