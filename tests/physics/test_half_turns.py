"""Slices at half turns about the axes of the image, and products with them, against those computed one by one."""

import torch

from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.half_turns import HALF_TURNS, MirrorPairs, at_half_turns, in_groups, unfolded
from cryoloom.physics.rotations import random_rotations

BOX, PIXEL_SIZE, RADIUS, M = 16, 2.0, 6.5, 7


def test_half_turns_are_a_group_of_rotations():
    identity = torch.eye(3)
    assert torch.equal(HALF_TURNS[0], identity)
    assert torch.equal(HALF_TURNS @ HALF_TURNS, identity.expand(4, 3, 3))
    assert torch.equal(HALF_TURNS[1] @ HALF_TURNS[2], HALF_TURNS[3])
    assert (torch.det(HALF_TURNS) == 1).all()


def test_pairs_are_mirror_images():
    disc = FourierDisc.create(BOX, PIXEL_SIZE, RADIUS)
    pairs = MirrorPairs.of(disc)
    assert torch.equal(pairs.order.sort().values, torch.arange(len(disc.index)))
    mirrored = disc.index * torch.tensor([1, -1])
    assert torch.equal(pairs.mirrored(disc.index[pairs.order].T).T, mirrored[pairs.order])


def test_slices_at_half_turns_follow_from_those_at_the_rotations(generator):
    half, disc = volume_to_half(torch.randn(BOX, BOX, BOX, generator=generator)), FourierDisc.create(BOX, PIXEL_SIZE, 6)
    R = random_rotations(M, generator).float()
    turned = (R[None] @ HALF_TURNS[:, None]).reshape(-1, 3, 3)
    known = at_half_turns(dispatch.slices(half, R, disc), MirrorPairs.of(disc))
    torch.testing.assert_close(known.resolve_conj(), dispatch.slices(half, turned, disc), rtol=0, atol=2e-4)


def test_products_of_parts_are_those_with_all_slices(generator):
    disc = FourierDisc.create(BOX, PIXEL_SIZE, RADIUS)
    pairs, P = MirrorPairs.of(disc), len(disc.index)
    images, slices = (torch.randn(n, P, dtype=torch.complex128, generator=generator) for n in (3, M))
    of_images, of_slices = (pairs.parts(x[:, pairs.order].real, x[:, pairs.order].imag) for x in (images, slices))
    products = torch.stack([a @ b.T for a, b in zip(of_images, pairs.halved(of_slices), strict=True)])
    whole = (images @ at_half_turns(slices, pairs).mH).real
    torch.testing.assert_close(unfolded(products), whole)


def test_norms_are_in_the_order_of_the_products(generator):
    """Powers of slices, weighted by frequency: those at R and R Rz are alike, and those at R Rx and R Ry."""
    disc = FourierDisc.create(BOX, PIXEL_SIZE, RADIUS)
    pairs, P = MirrorPairs.of(disc), len(disc.index)
    slices, weight = torch.randn(M, P, dtype=torch.complex128, generator=generator), torch.rand(P).double()
    powers = at_half_turns(slices, pairs).abs().square() @ weight
    torch.testing.assert_close(in_groups(torch.stack([powers[:M], powers[2 * M : 3 * M]])), powers)
