"""Whole runs of conformations from the command line: files, verdict, analysis, single maps, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from cryoloom.jobs.class_table import read_class_table
from cryoloom.maps.io import read_map
from cryoloom.simulation.dataset import simulate_dataset
from cryoloom.simulation.truth import SimulationSettings
from cryoloom.volumes.conformation_file import read_conformations
from cryoloom.volumes.linear_family import LinearFamily
from jobs.commands import cryoloom, verdict_of
from recipes.scene import three_states

COUNT = 900
QUIET = "-j 1 -q --particle-diameter 85"


@pytest.fixture(scope="module")
def particles(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    simulate_dataset(three_states(), SimulationSettings(count=COUNT, snr=1.0, seed=2, shift_px=1.0), folder)
    return folder / "truth.star"


@pytest.fixture(scope="module")
def run(particles, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    cryoloom(f"hetero {particles} -o {out} --method classes -k 3 {QUIET}")
    return out


def test_a_run_leaves_latents_classes_maps_and_a_verdict(run, particles):
    z, covariance = np.load(run / "z.npy"), np.load(run / "z_covariance.npy")
    assert z.shape == (COUNT, 2)
    assert covariance.shape == (COUNT, 2, 2)
    conformations = verdict_of(run)["conformations"]
    assert (conformations["method"], conformations["components"]) == ("classes", 2)
    assert conformations["gain_nats"] > 0
    assert len(conformations["class_shares"]) == 3
    found = starfile.read(run / "particles.star")["particles"]["rlnClassNumber"].to_numpy()
    truth = starfile.read(particles)["particles"]["rlnClassNumber"].to_numpy()
    table = np.array([[((found == a) & (truth == b)).sum() for b in (1, 2, 3)] for a in (1, 2, 3)])
    assert table.max(1).sum() > 0.95 * COUNT
    for k in range(3):
        drawn = read_map(run / f"class_{k + 1:03d}.mrc").data.flatten()
        alike = [float(torch.corrcoef(torch.stack([drawn, m.data.flatten()]))[0, 1]) for m in three_states()]
        assert int(np.argmax(alike)) == int(table[k].argmax())
    assert len((run / "classes.csv").read_text().splitlines()) == 4
    page = (run / "report.html").read_text()
    assert "class_001" in page
    assert "Heterogeneity along 2 components" in page


def test_the_family_of_volumes_is_read_again(run):
    volume = read_conformations(run / "conformations.safetensors")
    assert isinstance(volume, LinearFamily)
    z = torch.tensor([0.5, -1.0])
    expected = volume.volumes[0] + 0.5 * volume.volumes[1] - volume.volumes[2]
    torch.testing.assert_close(volume.density_map(z, 100), expected, atol=0.02 * float(expected.max()), rtol=0)


def test_analysis_and_single_maps(run, tmp_path):
    one = 1 + np.flatnonzero(starfile.read(run / "particles.star")["particles"]["rlnClassNumber"] == 1)[:2]
    cryoloom(f"analyze {run} -k 3 --points 3 --axes 1 --through={one[0]},{one[1]} -j 1 -q")
    inner = run / "analysis"
    for name, count in (("pc1", 3), ("way", 3)):
        assert len(list(inner.glob(f"{name}_[0-9][0-9][0-9].mrc"))) == count
        assert np.load(inner / f"{name}.npy").shape == (count, 2)
    shown = int((np.load(run / "contrast.npy") >= 0.5).sum())
    assert shown >= 0.99 * COUNT
    labels = np.load(inner / "labels.npy")
    assert (labels > 0).sum() == shown
    table = {row.name: row for row in read_class_table(inner / "clusters.csv")}
    assert set(table) == {"cluster_001", "cluster_002", "cluster_003"}
    for k in (1, 2, 3):
        own = starfile.read(inner / f"cluster_{k:03d}.star")["particles"]
        assert len(own) == (labels == k).sum() == table[f"cluster_{k:03d}"].particles
        assert read_map(inner / f"cluster_{k:03d}.mrc").data.shape == (24, 24, 24)
        assert table[f"cluster_{k:03d}"].resolution_angstrom is not None
    assert np.load(inner / "cluster.npy").shape == (3, 2)
    assert "pc1_[0-9][0-9][0-9].mrc" in (inner / "open.cxc").read_text()
    page = (run / "report.html").read_text()
    # the classes that were found stay beside the clusters
    assert "cluster_003" in page
    assert "class_003" in page
    cryoloom(f"analyze {run} --points 3 --axes 0 -j 1 -q")
    names = [row.name for row in read_class_table(inner / "clusters.csv")]
    assert names == ["cluster_001", "cluster_002", "cluster_003"]
    # trajectories that were not asked for again are gone
    assert not list(inner.glob("pc1*")) + list(inner.glob("way*"))
    said = cryoloom(f"volume {run} --particle 5 -o {tmp_path}/one.mrc -j 1")
    assert "nearest images" in said
    z = np.load(run / "z.npy")[4]
    cryoloom(f"volume {run} --z={z[0]},{z[1]} -o {tmp_path}/same.mrc -j 1 -q")
    torch.testing.assert_close(read_map(tmp_path / "one.mrc").data, read_map(tmp_path / "same.mrc").data)
    assert (tmp_path / "one_half2.mrc").exists()
    cryoloom(f"volume {run} --particle 5 --model -o {tmp_path}/model.mrc -q")
    assert read_map(tmp_path / "model.mrc").data.shape == (24, 24, 24)


def test_what_volume_and_analyze_refuse(run, tmp_path):
    assert "either --z or --particle" in cryoloom(f"volume {run} -o {tmp_path}/x.mrc", code=2)
    assert "expected numbers" in cryoloom(f"volume {run} --z a,b -o {tmp_path}/x.mrc", code=2)
    assert "expected 2" in cryoloom(f"volume {run} --z 1 -o {tmp_path}/x.mrc", code=2)
    assert "expected 2" in cryoloom(f"volume {run} --z 1 --model -o {tmp_path}/x.mrc", code=2)
    assert not (tmp_path / "x.mrc").exists()
    # before anything is computed: no folder is made
    shutil.rmtree(run / "analysis", ignore_errors=True)
    assert f"rows from 1 to {COUNT}" in cryoloom(f"analyze {run} --through 1,{COUNT + 1}", code=2)
    assert not (run / "analysis").exists()


@pytest.mark.parametrize("method", [pytest.param("vae", marks=pytest.mark.slow), "autodecoder"])
def test_networks_invent_no_motion(method, tmp_path):
    simulate_dataset(three_states()[:1], SimulationSettings(count=500, snr=1.0, seed=2, shift_px=1.0), tmp_path / "set")
    run = tmp_path / "run"
    cryoloom(f"hetero {tmp_path}/set/truth.star -o {run} --method {method} --latent 2 --epochs 8 {QUIET}")
    assert verdict_of(run)["conformations"]["components"] == 0
    assert not (run / "z.npy").exists()


def test_one_conformation_is_said_to_be_one_and_there_is_nothing_to_analyze(tmp_path):
    simulate_dataset(three_states()[:1], SimulationSettings(count=500, snr=1.0, seed=2, shift_px=1.0), tmp_path / "set")
    run = tmp_path / "run"
    cryoloom(f"hetero {tmp_path}/set/truth.star -o {run} {QUIET}")
    assert verdict_of(run)["conformations"]["components"] == 0
    assert not (run / "z.npy").exists()
    assert (run / "map.mrc").exists()
    # also where the file had classes of its own
    assert set(starfile.read(run / "particles.star")["particles"]["rlnClassNumber"]) == {1}
    assert "found no heterogeneity" in cryoloom(f"analyze {run}", code=2)
    assert "found no heterogeneity" in cryoloom(f"volume {run} --z 0 -o {tmp_path}/x.mrc", code=2)


def test_particles_without_poses_are_refused_with_advice(particles, tmp_path):
    said = cryoloom(f"hetero {particles.with_name('particles.star')} -o {tmp_path}/run -q", code=2)
    assert "without poses" in said
