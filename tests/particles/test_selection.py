"""Ab initio learns from the images that the CTF left most signal."""

import numpy as np
import pytest
import torch

from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.selection import information, most_informative
from cryoloom.physics.ctf import evaluate_ctf
from cryoloom.recipes.abinit import AbInitRecipe, AbInitSettings
from cryoloom.simulation.dataset import simulate_demo

RADIUS = 8


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> ImageFeed:
    folder = tmp_path_factory.mktemp("set")
    simulate_demo(folder, 300, seed=3)
    settings = ReconstructSettings(input=InputSettings(str(folder / "particles.star")))
    particles = open_input(settings.input)
    return make_feed(particles, prepare(particles, settings), settings)


def test_information_is_the_mean_of_the_squared_ctf_beyond_the_envelope(feed: ImageFeed):
    rows = np.array([7, 3, 250])
    found = information(feed, rows, RADIUS, torch.ones(1, 33))
    particles = feed.source.particles
    side = feed.box * feed.pixel_size
    for row, value in zip(rows, found.tolist(), strict=True):
        # over the whole plane, a shell at a time, instead of the disc's half plane
        axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64) / side
        k = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
        length = k.norm(dim=1) * side
        k = k[(length <= RADIUS) & (length > 2.5)]
        expected = evaluate_ctf(particles.ctf[torch.tensor([row])], k).square().mean()
        assert value == pytest.approx(float(expected), rel=1e-4)


def test_noisier_groups_tell_less(feed: ImageFeed):
    rows = np.arange(20)
    quiet = information(feed, rows, RADIUS, torch.ones(1, 33))
    # one group twice as noisy as the mean of two
    group = feed.source.particles.group.copy()
    try:
        feed.source.particles.group[:] = 0
        noise = torch.stack([torch.full((33,), 2.0), torch.zeros(33)])
        torch.testing.assert_close(information(feed, rows, RADIUS, noise), quiet / 2)
    finally:
        feed.source.particles.group[:] = group


def test_the_most_informative_are_chosen_and_stay_in_order(feed: ImageFeed):
    rows = np.random.default_rng(1).permutation(len(feed))
    noise = feed.source.preprocessing.noise
    chosen = most_informative(feed, rows, RADIUS, noise, 90)
    value = information(feed, rows, RADIUS, noise)
    kept = np.isin(rows, chosen)
    assert kept.sum() == len(chosen) == 90
    assert float(value[kept].min()) >= float(value[~kept].max())
    assert float(value[kept].mean()) > 1.5 * float(value[~kept].mean())
    place = {int(r): i for i, r in enumerate(rows)}
    assert [place[int(r)] for r in chosen] == sorted(place[int(r)] for r in chosen)
    assert np.array_equal(most_informative(feed, rows, RADIUS, noise, 300), rows)


def test_ab_initio_learns_from_them_alone_and_judges_by_others_of_them(feed: ImageFeed):
    recipe = AbInitRecipe(feed, AbInitSettings(share=0.3, least_used=100, held_out=20), seed=1)
    used = np.concatenate([recipe.pool, recipe.held_out])
    assert len(recipe.held_out) == 20
    assert len(np.unique(used)) == len(used) == 100
    value = information(
        feed, np.arange(len(feed)), feed.radius_of(AbInitSettings().levels[-1]), feed.source.preprocessing.noise
    )
    others = np.setdiff1d(np.arange(len(feed)), used)
    assert float(value[used].min()) >= float(value[others].max())
