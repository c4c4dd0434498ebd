"""Slices and insertion against the reference, and against each other as an adjoint pair."""

import pytest
import torch

from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import GUARD, volume_to_half
from cryoloom.kernels.images import Images, Samples
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.rotations import random_rotations
from cryoloom.physics.slicing import extract_slices, insert_slices, symmetrise_hermitian, volume_to_grid
from kernels.scene import random_moments, relative_error

ALONG_Z = torch.tensor([[[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]])  # takes the image's x to z: the rim to the last plane


def test_slices_are_the_references(scene, kernels):
    found = kernels.slices(scene.grid, scene.samples.R, scene.disc)
    assert found.dtype == torch.complex64
    expected = extract_slices(scene.reference, scene.samples.R.double(), scene.disc.index)
    assert relative_error(found, expected) < 2e-6


@pytest.mark.parametrize("padding", [2, 3, 4])
def test_slices_at_other_paddings(padding, kernels, generator):
    volume = torch.randn(11, 11, 11, generator=generator)
    disc = FourierDisc.create(11, 1.0)
    R = random_rotations(9, generator).float()
    found = kernels.slices(volume_to_half(volume, padding), R, disc, padding)
    expected = extract_slices(volume_to_grid(volume.double(), padding), R.double(), disc.index, padding)
    assert relative_error(found, expected) < 2e-6


def test_nothing_beyond_the_grid_is_read(kernels, generator):
    """The rim of an odd box lies on the last grid line, whose cell would end one line later."""
    side = 42
    shape = (side, side, side // 2 + GUARD)
    size = shape[0] * shape[1] * shape[2]
    around = torch.full((3 * size,), torch.nan, dtype=torch.complex64)
    grid = around[size : 2 * size].view(shape)
    grid[:] = torch.randn(shape, dtype=torch.complex64, generator=generator)
    disc = FourierDisc.create(21, 1.0)
    for R in (torch.eye(3)[None], ALONG_Z, ALONG_Z.mT, random_rotations(50, generator).float()):
        assert kernels.slices(grid, R.contiguous(), disc).isfinite().all()


def test_a_disc_that_leaves_the_grid_is_refused(scene):
    small = torch.zeros(2 * 16, 2 * 16, 16 + GUARD, dtype=torch.complex64)
    with pytest.raises(ValueError, match="crop the disc"):
        dispatch.slices(small, scene.samples.R, scene.disc)
    with pytest.raises(ValueError, match="crop the disc"):
        dispatch.insert(scene.images, scene.samples, 32)
    with pytest.raises(ValueError, match="crop the disc"):
        dispatch.residual_power(small, scene.images, scene.samples)
    with pytest.raises(ValueError, match="crop the disc"):
        dispatch.normal_equations(small, scene.images, scene.samples.image, scene.samples.R, scene.samples.t)


def expected_insertion(scene, samples) -> tuple[torch.Tensor, torch.Tensor]:
    """Numerator and denominator by the reference, x >= 0 part of the folded full grids."""
    im, disc = scene.images, scene.disc
    weight = samples.weight[:, None].double() * disc.weight / (2 * im.variance[im.group[samples.image]])
    ctf = im.ctf[samples.image].double()
    values = weight * ctf * im.observed[samples.image] * shift_ramp(disc.k, -samples.t.double())
    R = samples.R.double()
    num = symmetrise_hermitian(insert_slices(values, R, disc.index, scene.side))
    squares = (weight * ctf**2).to(torch.complex128)
    den = symmetrise_hermitian(insert_slices(squares, R, disc.index, scene.side)).real
    return num[..., scene.side // 2 :], den[..., scene.side // 2 :]


def test_insertion_is_the_references(scene, kernels):
    num, den = kernels.insert(scene.images, scene.samples, scene.side)
    assert num.shape == den.shape == (scene.side, scene.side, scene.side // 2 + GUARD)
    assert num.dtype == torch.complex64
    assert den.dtype == torch.float32
    expected_num, expected_den = expected_insertion(scene, scene.samples)
    n = scene.side // 2
    assert relative_error(num[..., :n], expected_num) < 3e-6
    assert relative_error(den[..., :n], expected_den) < 3e-6
    assert num[..., n:].abs().max() == 0
    assert den[..., n:].abs().max() == 0


def test_insertion_of_moments_is_one_insertion_a_channel(scene, kernels):
    """Each channel is what `insert` gives with the channel's moment as the weight of the image."""
    s, B = scene.samples, len(scene.images.observed)
    first, second = random_moments(B)
    num, den = kernels.insert_moments(scene.images, s.R[:B], s.t[:B], first=first, second=second, side=scene.side)
    for moments, found, part in ((first, num, 0), (second, den, 1)):
        assert found.shape[-1] == moments.shape[1]
        for q in range(moments.shape[1]):
            samples = Samples(s.image[:B], s.R[:B], s.t[:B], moments[:, q].contiguous())
            assert relative_error(found[..., q], dispatch.insert(scene.images, samples, scene.side)[part]) < 3e-6


def test_moments_that_do_not_belong_together_are_refused(scene):
    s, B = scene.samples, len(scene.images.observed)
    with pytest.raises(ValueError, match="expected 6"):
        dispatch.insert_moments(
            scene.images, s.R[:B], s.t[:B], first=torch.ones(B, 3), second=torch.ones(B, 5), side=scene.side
        )


@pytest.mark.parametrize("gpu", [False, True], ids=["numba", "torch"])
@pytest.mark.parametrize("before", [-4, 0])
@pytest.mark.parametrize("after", [-4, 0, 4])
def test_memory_that_is_used_again_holds_nothing_of_what_was_there(gpu, before, after, scene, monkeypatch):
    monkeypatch.setattr(dispatch, "on_gpu", lambda at: gpu)

    def images(change: int) -> Images:
        return scene.images.prefix(scene.disc.radius + min(change, 0) / 2)

    expected = dispatch.insert(images(after), scene.samples, scene.side + 2 * after)
    insertion = dispatch.Insertion(scene.side + 2 * before, largest=scene.side + 8)
    insertion.add(images(before), scene.samples)
    insertion.sums()  # mates folded in
    assert insertion.has_room(scene.side + 8)
    again = insertion.emptied(scene.side + 2 * after)
    assert not insertion._room.any()
    assert again._room.data_ptr() == insertion._room.data_ptr()
    again.add(images(after), scene.samples)
    for found, wanted in zip(again.sums(), expected, strict=True):
        assert torch.equal(found, wanted)
    assert not again.has_room(scene.side + 10)
    assert again.emptied(scene.side + 10).side == scene.side + 10


def test_samples_without_weight_are_left_out_whatever_they_hold(scene, kernels):
    s = scene.samples
    weight = s.weight.clone()
    weight[::3] = 0
    R, t = s.R.clone(), s.t.clone()
    t[::3], R[3::6] = torch.nan, 1e9
    spoilt = Samples(s.image, R, t, weight)
    kept = weight > 0
    clean = Samples(s.image[kept], s.R[kept], s.t[kept], weight[kept])
    for a, b in zip(
        kernels.insert(scene.images, spoilt, scene.side), kernels.insert(scene.images, clean, scene.side), strict=True
    ):
        assert relative_error(a, b) < 1e-6


@pytest.mark.parametrize("padding", [2, 3])
@pytest.mark.parametrize("box", [14, 15])
def test_insertion_is_the_adjoint_of_slices(box, padding, kernels, generator):
    """Re <S V, u> over the half-plane = Re <V, insert u> over the half grid, which has the plane x = 0 twice."""
    disc = FourierDisc.create(box, 3.0)
    N, P = 15, len(disc.k)
    grid = volume_to_half(torch.randn(box, box, box, generator=generator), padding)
    if box * padding % 2 == 0:
        grid[0], grid[:, 0] = 0, 0
    R = random_rotations(N, generator).float()
    t = 4 * torch.randn(N, 2, generator=generator)
    u = torch.randn(N, P, dtype=torch.complex64, generator=generator)
    # variance = h / 2 leaves weight 1 on each coefficient
    images = Images(u, torch.ones(N, P), disc.weight[None] / 2, torch.zeros(N, dtype=torch.int64), disc)
    num, _ = kernels.insert(images, Samples(torch.arange(N), R, t, torch.ones(N)), padding * box, padding)
    values = kernels.slices(grid, R, disc, padding) * shift_ramp(disc.k, t)
    forward = (values.to(torch.complex128) * u.conj()).sum().real
    product = (grid.to(torch.complex128) * num.conj()).real
    backward = product[..., 1:].sum() + product[..., 0].sum() / 2
    scale = values.norm() * u.norm()
    assert abs(forward - backward) < 1e-6 * scale
    assert abs(forward) > 1e-3 * scale


def test_inputs_are_left_alone(scene, kernels):
    im, s = scene.images, scene.samples
    tensors = (scene.grid, im.observed, im.ctf, im.variance, im.group, s.image, s.R, s.t, s.weight)
    before = [x.clone() for x in tensors]
    kernels.slices(scene.grid, s.R, scene.disc)
    kernels.insert(im, s, scene.side)
    kernels.normal_equations(scene.grid, im, s.image, s.R, s.t)
    kernels.residual_power(scene.grid, im, s)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
