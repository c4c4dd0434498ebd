"""Amortised inference as stages and as whole runs: exact resumption, the symmetrised loss, the run folder, infer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from typer.testing import CliRunner

from cryoloom.cli.main import build_app
from cryoloom.inference.poses.candidate_loss import candidate_loss
from cryoloom.inference.poses.encoder import half_turned, with_half_turn
from cryoloom.inference.poses.frames import HALF_TURN
from cryoloom.inference.training import Trainer, Weights
from cryoloom.jobs.infer import TrainedRun, march
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.reconstruct import run
from cryoloom.maps.align import mirrored
from cryoloom.maps.io import read_map, write_map
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import open_particles
from cryoloom.particles.stated import StatedInput
from cryoloom.recipes.amortized import AmortizedRecipe
from cryoloom.recipes.methods.amortized import AmortizedSettings
from cryoloom.recipes.methods.hybrid import WakeSleepSettings
from cryoloom.recipes.wake_sleep import WakeSleepRecipe
from cryoloom.runs import layout
from cryoloom.runs.folder import RunFolder
from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.pack import unpack
from cryoloom.runs.progress import SilentProgress
from cryoloom.runs.session import Session
from cryoloom.simulation.dataset import simulate_demo
from jobs.small_run import settings_for
from recipes.scene import copied

AWAKE = WakeSleepSettings(
    rounds=4, updates=3, batch=16, wake_every=1, wake_batch=50, candidates=3, nside=2, angles=24, channels=16, layers=2
)
COLD = AmortizedSettings(rounds=4, updates=3, batch=16, width=16, first_level=3.0, last_level=4.0)


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    simulate_demo(folder, 300, seed=3)
    return folder / "particles.star"


@pytest.fixture(scope="module")
def feed(particles: Path) -> ImageFeed:
    settings = settings_for(particles)
    images = open_input(settings.input)
    return make_feed(images, prepare(images, settings), settings)


def wake_sleep(feed: ImageFeed) -> WakeSleepRecipe:
    volume = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = feed.source.preprocessing.noise.float()
    return WakeSleepRecipe(
        feed=feed, settings=AWAKE, seed=1, volume=volume, noise=noise, sigma_angstrom=2 * feed.pixel_size
    )


def amortized(feed: ImageFeed, **changes: object) -> AmortizedRecipe:
    return AmortizedRecipe(feed, replace(COLD, **changes), 1)  # type: ignore[arg-type]


RECIPES = {
    "wake-sleep": wake_sleep,
    "fouriernet": amortized,
    "voxel": lambda feed: amortized(feed, volume="voxel", heads=2),
    "real": lambda feed: amortized(feed, volume="real", symmetrised=False),
}


@pytest.fixture(params=RECIPES.values(), ids=RECIPES.keys())
def make(request):
    return request.param


def test_a_stage_goes_on_exactly_from_its_arrays(make, feed):
    """Networks, optimiser, statistics, noise: in a fresh recipe the rest of the run is the same bit by bit."""
    first = make(feed)
    state = first.init()
    middle = None
    while not first.finished(state):
        state, info = first.step(state)
        assert all(np.isfinite(value) for _, value in info.metrics), info.metrics
        if info.step == 2:
            middle = copied(state)
    assert middle is not None
    second = make(feed)
    again = unpack(second.state_type, middle)
    while not second.finished(again):
        again, _ = second.step(again)
    expected, found = copied(state), copied(again)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert np.array_equal(np.asarray(value), np.asarray(found[name])), name


def test_a_step_leaves_its_argument_alone(make, feed):
    recipe = make(feed)
    state, _ = recipe.step(recipe.init())
    before = copied(state)
    recipe.step(state)
    assert all(np.array_equal(v, before[k]) for k, v in copied(state).items())


def test_the_symmetrised_loss_is_invariant_under_the_half_turn(feed):
    recipe = amortized(feed)
    recipe.encoder.eval()
    images = feed.images(np.arange(20), recipe.reach, feed.source.preprocessing.noise.float())
    turned = half_turned(images)
    with torch.no_grad():
        one = candidate_loss(recipe.volume, images, with_half_turn(recipe.encoder, images))
        two = candidate_loss(recipe.volume, turned, with_half_turn(recipe.encoder, turned))
    torch.testing.assert_close(one.loss, two.loss, rtol=1e-4, atol=1e-6)
    assert (one.branch != two.branch).all()


def test_the_loss_is_the_gaussian_likelihood(feed):
    """Against a plain sum over the full plane."""
    recipe = amortized(feed)
    images = feed.images(np.arange(3), recipe.reach, feed.source.preprocessing.noise.float())
    recipe.encoder.eval()
    with torch.no_grad():
        poses = recipe.encoder(images)
        found = candidate_loss(recipe.volume, images, poses)
        k3 = torch.einsum("bij,pj->bpi", poses.R[:, 0, :, :2], images.disc.k)
        phase = -2 * np.pi * poses.t[:, 0] @ images.disc.k.T
        X = images.ctf * recipe.volume.slices(k3) * torch.exp(1j * phase)
        total = 0.5 * (images.disc.weight * (images.observed - X).abs() ** 2 / images.variance[images.group]).sum(1)
    torch.testing.assert_close(found.loss, total / images.disc.weight.sum(), rtol=1e-4, atol=1e-5)


def test_a_trainer_restored_repeats_its_updates():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    trainer = Trainer({"net": net}, {"net": 1e-2})
    data = torch.randn(20, 8, 3)

    def go(steps: range) -> Weights:
        for i in steps:
            trainer.update(net(data[i]).square().sum())
        return trainer.weights()

    middle = go(range(5))
    end = go(range(5, 10))
    trainer.restore(middle)
    trainer.update(net(data[5]).square().sum())  # a step that is given up
    trainer.restore(middle)
    assert all(torch.equal(v, end.arrays[k]) for k, v in go(range(5, 10)).arrays.items())
    assert any(not torch.equal(v, end.arrays[k]) for k, v in middle.arrays.items())


def complete(particles: Path, folder: Path, **changes: object) -> RunFolder:
    settings = settings_for(particles)
    methods = settings.methods.with_table("wake_sleep", AWAKE).with_table("amortized", COLD)
    settings = replace(settings, methods=methods, **changes)  # type: ignore[arg-type]
    images = open_input(settings.input)
    opened = RunFolder.create(
        folder, settings, images.fingerprint(), "reconstruct", input_path=particles, seed=1, threads=1, device="cpu"
    )
    with Interrupts() as interrupts, opened as run_folder:
        session = Session(run_folder, SilentProgress(), interrupts)
        verdict = run(settings, images, prepare(images, settings), session)
        run_folder.finish(verdict)
    return opened


@pytest.fixture(scope="module", params=["hybrid", "amortized"])
def finished(request, particles, tmp_path_factory) -> RunFolder:
    return complete(particles, tmp_path_factory.mktemp(request.param) / "run", poses=request.param)


def test_a_run_leaves_the_same_files_as_a_search(finished):
    files = (layout.MAP, layout.HALF1, layout.HALF2, layout.MASK, layout.PARTICLES, layout.ENCODER)
    missing = [file.name for file in files if not file.path(finished.path).exists()]
    assert missing == []
    table = starfile.read(layout.PARTICLES.path(finished.path))["particles"]
    assert len(table) == 300
    assert np.isfinite(table[["rlnAngleRot", "rlnOriginXAngst", "rlnLogLikeliContribution"]].to_numpy(float)).all()


def test_infer_gives_poses_of_new_images(finished, particles, tmp_path):
    out = tmp_path / "new.star"
    result = CliRunner().invoke(build_app(), ["infer", str(finished.path), str(particles), "-o", str(out), "-q"])
    assert result.exit_code == 0, result.output
    assert "images/s" in result.output
    table = starfile.read(out)["particles"]
    assert len(table) == 300
    assert np.isfinite(table[["rlnAngleRot", "rlnAngleTilt", "rlnOriginXAngst"]].to_numpy(float)).all()
    again = CliRunner().invoke(build_app(), ["infer", str(finished.path), str(particles), "-o", str(out), "-q"])
    assert again.exit_code != 0
    assert "--overwrite" in again.output + str(again.exception)


def test_infer_follows_the_hand_of_a_flipped_run(finished, particles, tmp_path):
    """Maps mirrored, as --flip writes them: the same fit, and poses of the other hand."""
    other = tmp_path / "flipped"
    shutil.copytree(finished.path, other)
    record = json.loads((other / "run.json").read_text())
    record["settings"]["flip"] = True
    (other / "run.json").write_text(json.dumps(record))
    for file in (layout.MAP, layout.HALF1, layout.HALF2, layout.MASK):
        density = read_map(file.path(other))
        write_map(file.path(other), replace(density, data=mirrored(density.data)))
    tables = []
    for folder, name in ((finished.path, "as_found.star"), (other, "flipped.star")):
        out = tmp_path / name
        result = CliRunner().invoke(build_app(), ["infer", str(folder), str(particles), "-o", str(out), "-q"])
        assert result.exit_code == 0, result.output
        tables.append(open_particles(out, scan=False))
    found, flipped = (table.input_poses().R for table in tables)
    torch.testing.assert_close(flipped, found @ HALF_TURN.double(), atol=1e-4, rtol=0)


def test_a_run_without_an_encoder_says_what_to_do(finished, tmp_path):
    shutil.copy(finished.path / "run.json", tmp_path)
    with pytest.raises(ValueError, match="--poses hybrid"):
        TrainedRun(tmp_path, torch.device("cpu"))


def test_images_of_another_field_of_view_are_refused(finished, tmp_path):
    simulate_demo(tmp_path, 20, seed=1)
    other = open_input(replace(settings_for(tmp_path / "particles.star").input, stated=StatedInput(pixel_size=9.9)))
    with pytest.raises(ValueError, match="field of view"):
        TrainedRun(finished.path, torch.device("cpu")).check(other)


def test_climbs_go_from_the_encoders_radius_to_the_maps():
    assert march(8, 31) == [8, 12, 18, 27, 31]
    assert march(8, 8) == [8]
    assert march(8, 5) == [8]  # a map that ends below the encoder's radius is zero beyond
