"""The contract of every pose method: images in, a PosePosterior out. A new method is one more row of METHODS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from cryoloom.inference.poses.dreams import dream
from cryoloom.inference.poses.grids import cached_rotation_grid, shift_grid, shift_step_angstrom
from cryoloom.inference.poses.polar_encoder import PolarEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import refine_poses
from cryoloom.inference.poses.search import distinct_candidates, match, match_fine, shift_prior, slice_reference
from cryoloom.inference.training import Trainer
from cryoloom.kernels.images import Images
from cryoloom.physics.rotations import geodesic_degrees, random_rotations
from inference.scene import BOX, PIXEL_SIZE, Phantom, turned

B, K = 45, 3
SIGMA = 8.0  # angstrom, of the shifts


@dataclass(frozen=True)
class Task:
    """Images of the phantom and what a method may be given to start from."""

    phantom: Phantom
    images: Images
    R: Tensor  # the truth: for known poses and for judging
    t: Tensor
    start: PosePosterior  # 2 to 4 degrees off, with a far one beside


def shifts_for(radius: float) -> Tensor:
    step = shift_step_angstrom(BOX, PIXEL_SIZE, radius)
    return shift_grid(step, 2 * SIGMA)


def known(task: Task, generator: torch.Generator) -> PosePosterior:
    return PosePosterior.certain(task.R, task.t)


def search(task: Task, generator: torch.Generator) -> PosePosterior:
    reference = slice_reference(task.phantom.grid, cached_rotation_grid(4), task.phantom.disc.prefix(8))
    shifts = shifts_for(8)
    found = match(
        task.images,
        reference,
        shifts=shifts,
        prior=shift_prior(shifts, SIGMA),
        uniform=torch.rand(B, generator=generator),
        draws=4,
        best=4 * K,
    )
    return distinct_candidates(found, reference.grid, shifts, K, 20.0)


def drawn(task: Task, generator: torch.Generator) -> PosePosterior:
    """Draws from the posterior over the grid as equally weighted candidates."""
    reference = slice_reference(task.phantom.grid, cached_rotation_grid(4), task.phantom.disc.prefix(8))
    shifts = shifts_for(8)
    found = match(
        task.images,
        reference,
        shifts=shifts,
        prior=shift_prior(shifts, SIGMA),
        uniform=torch.rand(B, generator=generator),
        draws=K,
        best=1,
    )
    M = len(reference.grid.R)
    return PosePosterior(reference.grid.R[found.picks % M], shifts[found.picks // M], torch.zeros(B, K)).normalised()


def pruned_search(task: Task, generator: torch.Generator) -> PosePosterior:
    coarse = slice_reference(task.phantom.grid, cached_rotation_grid(4), task.phantom.disc.prefix(8))
    fine = slice_reference(task.phantom.grid, cached_rotation_grid(8), task.phantom.disc.prefix(11))
    shifts = shifts_for(11)
    uniform = torch.rand(B, generator=generator)
    found = match_fine(
        task.images,
        coarse,
        fine=fine,
        coarse_shifts=shifts_for(8),
        fine_shifts=shifts,
        sigma_angstrom=SIGMA,
        uniform=uniform,
        draws=4,
        best=8 * K,
    )
    return distinct_candidates(found, fine.grid, shifts, K, 10.0)


def refinement(task: Task, generator: torch.Generator) -> PosePosterior:
    return refine_poses(task.phantom.grid, task.images, task.start, SIGMA).posterior


@lru_cache(maxsize=1)
def trained(phantom: Phantom) -> PolarEncoder:
    """An encoder after a minute's dreams, as it were: small, and so is the phantom."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        disc = phantom.disc.prefix(9)
        encoder = PolarEncoder(
            disc, 100.0, torch.full((10,), 30.0), SIGMA / 2, candidates=K, nside=3, angles=36, channels=64, layers=3
        )
    trainer = Trainer({"encoder": encoder}, {"encoder": 3e-3})
    generator = torch.Generator().manual_seed(5)
    like = phantom.images(torch.eye(3).expand(96, 3, 3), torch.zeros(96, 2), 0.5).prefix(9)
    for step in range(250):
        dreamt = dream(phantom.grid, like, SIGMA / 2, generator)
        trainer.update(encoder.dream_loss(dreamt.images, dreamt.R, dreamt.t), 1 - step / 250)
    return encoder.eval()


def encoder(task: Task, generator: torch.Generator) -> PosePosterior:
    network = trained(task.phantom)
    with torch.no_grad():
        return network(task.images)


@dataclass(frozen=True)
class Method:
    """A pose method, its number of candidates and the median error in degrees that it must stay below here."""

    run: Callable[[Task, torch.Generator], PosePosterior]
    candidates: int
    degrees: float


METHODS = {
    "known poses": Method(known, 1, 1e-2),
    "grid search": Method(search, K, 11.0),
    "grid draws": Method(drawn, K, 11.0),
    "pruned grid search": Method(pruned_search, K, 5.0),
    "refinement": Method(refinement, 2, 2.0),
    "encoder": Method(encoder, K, 20.0),
}


@pytest.fixture(scope="module")
def task(phantom) -> Task:
    generator = torch.Generator().manual_seed(11)
    R, t = random_rotations(B, generator).float(), SIGMA / 2 * torch.randn(B, 2, generator=generator)
    near, far = turned(R, 3.0, generator), turned(R, 100.0, generator)
    start = PosePosterior(torch.stack([far, near], 1), torch.stack([t, t], 1), torch.zeros(B, 2)).normalised()
    return Task(phantom, phantom.images(R, t, 0.5, generator), R, t, start)


# an encoder is trained first: 12 CPU-s
SLOW = {"encoder": pytest.mark.slow}
ROWS = [pytest.param(method, id=name, marks=SLOW.get(name, ())) for name, method in METHODS.items()]


@pytest.fixture(scope="module", params=ROWS)
def method(request) -> Method:
    return request.param


@pytest.fixture(scope="module")
def found(method, task) -> PosePosterior:
    return method.run(task, torch.Generator().manual_seed(3))


def tensors(thing: object) -> list[Tensor]:
    """All tensors of nested dataclasses."""
    if isinstance(thing, Tensor):
        return [thing]
    names = [f.name for f in fields(thing)] if hasattr(thing, "__dataclass_fields__") else []  # type: ignore[arg-type]
    return [x for name in names for x in tensors(getattr(thing, name))]


def test_shapes_and_types(method, found, task):
    k = method.candidates
    assert isinstance(found, PosePosterior)
    assert len(found) == B
    assert found.R.shape == (B, k, 3, 3)
    assert found.t.shape == (B, k, 2)
    assert found.log_weight.shape == (B, k)
    for x in (found.R, found.t, found.log_weight):
        assert x.dtype == torch.float32
        assert x.device == task.images.observed.device


def test_candidates_are_proper_rotations_and_finite_shifts(found):
    eye = torch.eye(3).expand_as(found.R)
    torch.testing.assert_close(found.R @ found.R.mT, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(found.R), torch.ones(found.R.shape[:2]), rtol=0, atol=1e-5)
    assert found.t.isfinite().all()


def test_weights_are_normalised(found):
    torch.testing.assert_close(found.log_weight.logsumexp(1), torch.zeros(B), rtol=0, atol=1e-5)
    assert not found.log_weight.isnan().any()


def test_covariances_are_positive_definite_where_there_are_any(method, found):
    if found.covariance is None:
        assert method.run is not refinement
        return
    used = found.covariance[found.log_weight > -torch.inf]
    assert found.covariance.shape == (B, method.candidates, 5, 5)
    torch.testing.assert_close(used, used.mT)
    # rotations in radian and shifts in angstrom: scaled to a unit diagonal first
    scale = torch.diagonal(used, dim1=1, dim2=2).sqrt()
    assert torch.linalg.eigvalsh(used / scale[:, :, None] / scale[:, None, :]).min() > 0


def test_a_seed_decides_everything_and_inputs_are_left_alone(method, found, task):
    before = [x.clone() for x in tensors(task)]
    again = method.run(task, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(tensors(found), tensors(again), strict=True))
    assert len(before) > 10
    assert all(torch.equal(a, b) for a, b in zip(tensors(task), before, strict=True))


def test_it_finds_the_poses(method, found, task):
    R, t = found.best()
    assert geodesic_degrees(R, task.R).median() < method.degrees
    assert (t - task.t).norm(dim=1).median() < 3.0
