"""How far poses have still to go: directed moves add up, jumps about the optimum do not."""

import pytest
import torch

from cryoloom.inference.poses.modes import smallest_turns
from cryoloom.inference.poses.moves import AHEAD, MOMENTUM, beyond, to_go
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.physics.rotations import exponential, geodesic_degrees_modulo, random_rotations, symmetry_group


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_rms(n: int, rms: float, g: torch.Generator) -> torch.Tensor:
    """Vectors of a root mean square length, [n, 3]."""
    return torch.randn(n, 3, generator=g) * rms / 3**0.5


@pytest.mark.parametrize("symmetry", ["C1", "C7", "O"])
def test_moves_do_not_depend_on_the_mate(symmetry):
    g = generator()
    group = symmetry_group(symmetry)
    before = random_rotations(50, g)
    omega = of_rms(50, 0.05, g).double()
    mates = group[torch.randint(len(group), (50,), generator=g)]
    after = before @ exponential(omega)
    torch.testing.assert_close(smallest_turns(before, mates @ after, group), omega, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        torch.rad2deg(smallest_turns(mates @ before, after, group).norm(dim=1)),
        geodesic_degrees_modulo(after, before, group),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("jumps", [0.0, 0.1, 0.3])
def test_directed_moves_add_up(share, jumps):
    g = generator(3)
    a = of_rms(20_000, 0.3, g)
    first, second, third = (of_rms(20_000, jumps, g) for _ in range(3))
    way = to_go(share * a + third - second, a + second - first)
    assert way == pytest.approx(0.3 * sum(share**k for k in range(2, 2 + AHEAD)), rel=0.15)


def test_jumps_about_the_optimum_lead_nowhere():
    for seed in range(5):
        first, second, third = (of_rms(1000, 0.2, generator(10 * seed + k)) for k in range(3))
        assert to_go(third - second, second - first) < 0.02


def test_small_moves_that_do_not_become_smaller_have_far_to_go():
    a = of_rms(1000, 0.1, generator())
    assert to_go(a, a) == pytest.approx(0.1 * AHEAD, rel=0.1)  # less what is left out as jumps of mode
    assert to_go(torch.zeros(1000, 3), a) == 0
    assert to_go(torch.zeros(1000, 3), torch.zeros(1000, 3)) == 0


def test_images_that_change_their_mode_do_not_count():
    g = generator()
    first, second, third = (of_rms(1000, 0.1, g) for _ in range(3))
    newest = third - second
    newest[:100] = of_rms(100, 20.0, g)
    assert to_go(newest, second - first) < 0.05


def test_images_are_inserted_beyond_their_last_move():
    g = generator()
    group = symmetry_group("C3")
    before = random_rotations(40, g).float()[:, None].repeat(1, 2, 1, 1)
    omega = of_rms(40, 0.05, g)
    omega[:4] = of_rms(4, 2.0, g)  # these have changed their mode
    after = before.clone()
    after[:, 0] = group[1].float() @ before[:, 0] @ exponential(omega)
    known, found = (PosePosterior(R, torch.zeros(40, 2, 2), torch.zeros(40, 2)).normalised() for R in (before, after))
    onward = beyond(found, known, group.float())
    torch.testing.assert_close(
        smallest_turns(after[4:, 0], onward.R[4:, 0], group.float()), MOMENTUM * omega[4:], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(onward.R[:4], after[:4])
    torch.testing.assert_close(onward.R[:, 1], after[:, 1])
    torch.testing.assert_close(onward.log_weight, found.log_weight)
    unknown = PosePosterior(known.R, known.t, torch.full((40, 2), -torch.inf))
    torch.testing.assert_close(beyond(found, unknown, group.float()).R, after)


def test_momentum_makes_fewer_iterations():
    """On the model that `to_go` is drawn from: poses x go to a share q of the way between map and optimum 0."""
    for q, times in ((0.7, 0.3), (0.85, 0.6)):
        x = before = 1.0
        for _ in range(6):
            x, before = q * (x + MOMENTUM * (x - before)), x
        assert abs(x) < times * q**6
