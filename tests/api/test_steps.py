"""Single steps on a small set of known truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cryoloom as cl
from cryoloom.physics.rotations import geodesic_degrees


@pytest.fixture(scope="module")
def refined(images: cl.ImageFeed, true_map: cl.DensityMap) -> cl.PosePosterior:
    """Poses of the small set, searched and refined against the true map."""
    return cl.refine(images, true_map, cl.search(images, true_map))


@pytest.fixture(scope="module")
def truth(small_set: Path):
    """True poses."""
    return cl.open(small_set / "truth.star").input_poses()


def test_search_finds_poses_to_its_grid(images: cl.ImageFeed, true_map: cl.DensityMap, truth):
    found = cl.search(images, true_map)
    R, t = found.best()
    assert found.log_weight.shape == (100, 4)
    assert float((geodesic_degrees(R.double(), truth.R) < 10).double().mean()) > 0.9
    assert float((t.double() - truth.t).norm(dim=1).median()) < images.pixel_size


def test_refinement_goes_below_the_grid_and_knows_its_uncertainty(refined: cl.PosePosterior, truth):
    error = geodesic_degrees(refined.best()[0].double(), truth.R)
    assert float((error < 10).double().mean()) > 0.97
    assert float(error.median()) < 2.5
    assert refined.covariance is not None
    expected = torch.rad2deg(torch.diagonal(refined.covariance[:, 0, :3, :3], dim1=1, dim2=2).sum(1).sqrt())
    assert 0.5 < float(error.median() / expected.median()) < 1.5
    assert torch.allclose(refined.log_weight.exp().sum(1), torch.ones(100), atol=1e-4)


def test_refinement_alone_searches_first(images: cl.ImageFeed, true_map: cl.DensityMap, refined: cl.PosePosterior):
    alone = cl.refine(images, true_map)
    assert torch.equal(alone.R, refined.R)


def test_backprojection_gives_the_true_map(images: cl.ImageFeed, true_map: cl.DensityMap, refined: cl.PosePosterior):
    maps = cl.backproject(images, refined)
    assert maps.map.data.shape == true_map.data.shape
    assert maps.resolution_angstrom is not None
    with_truth = cl.fsc(maps.map, true_map, mask=maps.mask).resolution_angstrom(0.5)
    assert with_truth is not None
    assert with_truth < 30.0
    again = cl.gold_standard(*maps.half_maps, maps.mask)
    assert again.resolution_angstrom == pytest.approx(maps.resolution_angstrom, rel=0.1)


def test_half_sets_can_be_given(images: cl.ImageFeed, refined: cl.PosePosterior):
    with pytest.raises(ValueError, match="half set 2 has no particles"):
        cl.backproject(images, refined, half_sets=np.ones(100, dtype=int))


def test_any_scale_and_box_of_the_map_will_do(images: cl.ImageFeed, true_map: cl.DensityMap, refined: cl.PosePosterior):
    larger = torch.zeros(40, 40, 40)
    larger[4:-4, 4:-4, 4:-4] = 1000 * true_map.data
    found = cl.refine(images, replace(true_map, data=larger), refined)
    assert float(geodesic_degrees(found.best()[0], refined.best()[0]).median()) < 0.2


def test_a_map_that_does_not_fit_is_refused(images: cl.ImageFeed, true_map: cl.DensityMap):
    with pytest.raises(cl.BadInput, match="resample the map to the images' pixel size"):
        cl.search(images, replace(true_map, pixel_size=13.0))


def test_an_empty_map_is_refused(images: cl.ImageFeed, true_map: cl.DensityMap):
    with pytest.raises(cl.BadInput, match="The map is empty"):
        cl.search(images, replace(true_map, data=torch.zeros_like(true_map.data)))


def test_poses_of_other_images_are_refused(images: cl.ImageFeed, true_map: cl.DensityMap, refined: cl.PosePosterior):
    with pytest.raises(ValueError, match="poses of 3 images for 100 images"):
        cl.refine(images, true_map, refined.rows(torch.arange(3)))


def test_poses_are_written_and_scored(images: cl.ImageFeed, refined: cl.PosePosterior, small_set: Path, tmp_path: Path):
    cl.write_particles(tmp_path / "posed.star", images, refined)
    scores = cl.evaluate(tmp_path / "posed.star", small_set)
    assert scores.map is None
    assert scores.poses.share_below(10) > 0.97
    assert "100 of 100 particles" in repr(scores)


def test_a_recipe_runs_without_a_folder(images: cl.ImageFeed):
    settings = cl.recipes.AbInitSettings(
        restarts=1,
        levels=(3.75, 4.5),
        nside=(2, 2, 2),
        batch=(50, 50, 50),
        rate=(0.5, 0.5, 0.5),
        least_steps=(6, 6, 5),
        most_steps=8,
        held_out=20,
    )
    found = cl.run(cl.recipes.AbInitRecipe(images, settings, 1))
    assert found.starts == 1
    assert bool(torch.isfinite(found.volume).all())


def test_what_a_notebook_shows(images: cl.ImageFeed, true_map: cl.DensityMap, refined: cl.PosePosterior):
    assert repr(images).startswith("ImageFeed(100 images of 32 x 32 px, 8 Å/px, particle diameter 1")
    maps = cl.backproject(images, refined)
    assert repr(maps).startswith("Maps(32 x 32 x 32 voxels of 8 Å, resolution ")
    assert repr(cl.fsc(true_map, true_map)) == (
        "FSCCurve(17 shells, resolution 16.00 Å at 0.5, 16.00 Å at 0.143, mean 1.000)"
    )
