"""The contract of every conformation method: posed images in; latents, a family of volumes and maps out.

A new method is one more row of METHODS.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from torch import Tensor

from cryoloom.jobs.conformation_run import ConformationRun, open_conformations
from cryoloom.jobs.verdict import Verdict
from cryoloom.maps.io import read_map
from cryoloom.runs.record import from_json
from cryoloom.simulation.dataset import simulate_dataset
from cryoloom.simulation.truth import SimulationSettings
from jobs.commands import cryoloom, verdict_of
from recipes.scene import two_states

COUNT = 500
QUIET = "-j 1 -q --particle-diameter 85"
TINY = """
[vae]
encoder_width = 64
encoder_layers = 2
decoder_width = 32
decoder_layers = 1
epochs = 12
rate = 4e-3
coefficients = 60
[pca]
most_components = 3
iterations = 6
first_level = 4.0
last_level = 7.0
"""


@dataclass(frozen=True)
class Method:
    """Options of a method; how many coordinates its latents have (None: as many as held-out images ask for)."""

    options: tuple[str, ...]
    latent: int | None


METHODS = {
    "pca": Method(("--method", "pca"), None),
    "classes": Method(("--method", "classes", "-k", "2"), None),
    "vae": Method(("--method", "vae", "--latent", "2"), 2),
    "vae, convolutional": Method(("--method", "vae", "--latent", "3", "--encoder", "cnn"), 3),
    "autodecoder": Method(("--method", "autodecoder", "--latent", "2"), 2),
}


@dataclass(frozen=True)
class Done:
    """A finished run, opened; the true state of each image and the true maps."""

    folder: Path
    run: ConformationRun
    state: np.ndarray
    maps: list[Tensor]


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    simulate_dataset(two_states(), SimulationSettings(count=COUNT, snr=1.0, seed=2, shift_px=1.0), folder)
    (folder / "tiny.toml").write_text(TINY)
    return folder


@pytest.fixture(scope="module", params=METHODS.values(), ids=METHODS.keys())
def method(request) -> Method:
    return request.param


@pytest.fixture(scope="module")
def done(method, truth, tmp_path_factory) -> Done:
    out = tmp_path_factory.mktemp("run") / "run"
    cryoloom(f"hetero {truth}/truth.star -o {out} --preset {truth}/tiny.toml {' '.join(method.options)} {QUIET}")
    state = starfile.read(truth / "truth.star")["particles"]["rlnClassNumber"].to_numpy()
    maps = [read_map(path).data.float() for path in sorted(truth.glob("truth_*.mrc"))]
    return Done(out, open_conformations(out, torch.device("cpu"), 1), state, maps)


def test_every_image_has_latents_with_a_covariance_and_a_contrast(method, done):
    latents = done.run.latents
    Z = latents.mean.shape[1]
    assert len(latents) == COUNT
    assert method.latent == Z or (method.latent is None and Z >= 1)
    assert latents.covariance.shape == (COUNT, Z, Z)
    assert latents.contrast.shape == (COUNT,)
    for x in (latents.mean, latents.covariance, latents.contrast):
        assert x.dtype == torch.float32
        assert x.isfinite().all()
    torch.testing.assert_close(latents.covariance, latents.covariance.mT)
    assert (torch.linalg.eigvalsh(latents.covariance) > 0).all()
    assert ((latents.contrast >= 0) & (latents.contrast <= 2)).all()
    # a prior of unit width: no posterior is wider
    assert (torch.diagonal(latents.covariance, dim1=1, dim2=2) < 1.5).all()


def test_the_states_are_told_apart(done):
    z = torch.cat([done.run.latents.mean, torch.ones(COUNT, 1)], 1)
    wanted = torch.from_numpy(done.state - 1.5).float()
    line = torch.linalg.lstsq(z, wanted[:, None]).solution
    assert ((z @ line)[:, 0] * wanted > 0).float().mean() > 0.95


def test_maps_at_the_states_are_the_states(done):
    """By images near a point of the latent space, and by the family itself."""
    mask = torch.stack(done.maps).mean(0)
    mask = mask > 0.1 * mask.max()
    true = (done.maps[1] - done.maps[0])[mask]
    z = [done.run.latents.mean[torch.from_numpy(done.state == s)].mean(0) for s in (1, 2)]
    for at in (lambda point: done.run.map_at(point).combined, lambda point: done.run.decoded(point).data):
        difference = (at(z[1]) - at(z[0]))[mask]
        assert torch.corrcoef(torch.stack([difference, true]))[0, 1] > 0.75


def test_the_family_is_that_of_the_latents(done):
    volume = done.run.volume
    assert volume.latent == done.run.latents.mean.shape[1]
    k = torch.randn(3, 10, 3) / (10 * volume.pixel_size)
    values = volume.slices(k, done.run.latents.mean[:3])
    assert values.shape == (3, 10)
    assert values.isfinite().all()


def test_the_verdict_speaks_of_conformations(done):
    verdict = verdict_of(done.folder)
    assert any(finding["name"] == "conformations" for finding in verdict["findings"])
    assert verdict["conformations"]["components"] >= 1


def test_more_classes_than_directions_tell_apart_are_said_to_be_too_many(truth, tmp_path):
    cryoloom(f"hetero {truth}/truth.star -o {tmp_path}/run --preset {truth}/tiny.toml --method classes -k 4 {QUIET}")
    said = str(from_json(Verdict, verdict_of(tmp_path / "run"), "run.json"))
    assert "4 classes were requested" in said
    assert "-k 2 avoids it" in said
