"""Registered methods: a toy of each kind runs end to end, and every method keeps to the contract."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cryoloom.cli.main import build_app
from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
from cryoloom.recipes.methods.option import options_of
from cryoloom.recipes.methods.registry import CONFORMATION_METHODS, POSE_METHODS, conformation_method, pose_method
from cryoloom.recipes.methods.settings import MethodSettings, tables
from cryoloom.runs import layout
from cryoloom.runs.record import read_settings
from cryoloom.simulation.dataset import simulate_dataset
from cryoloom.simulation.truth import SimulationSettings
from recipes.scene import two_states
from recipes.toy_conformation_method import HALVES
from recipes.toy_pose_method import BLOB

COUNT = 120
ALL = [*POSE_METHODS.values(), *CONFORMATION_METHODS.values(), BLOB, HALVES]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys among the methods."""
    monkeypatch.setitem(POSE_METHODS, BLOB.name, BLOB)
    monkeypatch.setitem(CONFORMATION_METHODS, HALVES.name, HALVES)


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    simulate_dataset(two_states(), SimulationSettings(count=COUNT, snr=1.0, seed=2, shift_px=1.0), folder)
    return folder


def cryoloom(arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(build_app(), shlex.split(arguments))
    assert result.exit_code == code, result.output
    return result.output


def run_of(folder: Path) -> dict[str, Any]:
    return json.loads(layout.RUN_RECORD.path(folder).read_text())


@pytest.mark.usefixtures("registered")
def test_a_pose_method_in_a_file_of_its_own_runs_end_to_end(particles, tmp_path):
    shown = cryoloom("reconstruct --help")
    assert "--blob-width" in shown
    run = tmp_path / "run"
    options = "--poses blob --blob-width 0.3 --particle-diameter 85 -j 1 -q"
    cryoloom(f"reconstruct {particles}/particles.star -o {run} {options}")
    assert run_of(run)["settings"]["methods"] == {"blob": {"width": 0.3, "level": 5.0}}
    assert read_settings(run, ReconstructSettings).methods["blob"].width == 0.3
    for file in (layout.MAP, layout.PARTICLES, layout.ABINIT_MAP, layout.REPORT):
        assert file.path(run).exists(), file.name
    assert run_of(run)["verdict"]["outcome"] in ("converged", "uncertain", "failed", "noise")


@pytest.mark.usefixtures("registered")
def test_a_conformation_method_in_a_file_of_its_own_runs_end_to_end(particles, tmp_path):
    run = tmp_path / "run"
    options = "--method halves --cut-axis 1 --particle-diameter 85 -j 1 -q"
    cryoloom(f"hetero {particles}/truth.star -o {run} {options}")
    assert run_of(run)["settings"]["methods"] == {"halves": {"axis": 1}}
    assert read_settings(run, HeteroSettings).methods["halves"].axis == 1
    assert np.load(layout.LATENTS.path(run)).shape == (COUNT, 1)
    assert run_of(run)["verdict"]["conformations"]["components"] == 1
    cryoloom(f"volume {run} --particle 1 -o {tmp_path}/one.mrc -q")
    assert (tmp_path / "one.mrc").exists()


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_every_method_keeps_to_the_contract(method):
    assert method.name.isidentifier()
    assert method.help
    assert method.help[0].islower() or method.help[0] == "K"
    assert not method.help.endswith(".")
    assert method.settings
    for kind in method.settings.values():
        assert dataclasses.is_dataclass(kind)
        assert kind() == kind()  # all settings have defaults, and are values
        for name, chosen in options_of(kind).items():
            assert name in {f.name for f in dataclasses.fields(kind)}
            assert all(flag.startswith("-") for flag in chosen.flags)
            assert chosen.help.endswith(".")


def test_no_two_methods_share_a_table_with_different_settings():
    kinds: dict[str, set[type]] = {}
    for method in ALL:
        for table, kind in method.settings.items():
            kinds.setdefault(table, set()).add(kind)
    assert {table for table, found in kinds.items() if len(found) > 1} == set()


def test_an_option_of_another_method_is_refused(particles, tmp_path):
    star, run = particles / "particles.star", tmp_path / "run"
    said = cryoloom(f"reconstruct {star} -o {run} --volume voxel", code=2)
    assert "--volume belongs to --poses amortized; this run has --poses search" in " ".join(said.split())
    said = cryoloom(f"hetero {star} -o {run} --latent 3", code=2)
    assert "--latent belongs to --method vae or --method autodecoder" in " ".join(said.split())
    assert not run.exists()


def test_names_that_no_method_has_are_refused():
    with pytest.raises(ValueError, match="expected one of search, amortized, hybrid"):
        pose_method("magic")
    with pytest.raises(ValueError, match="expected one of pca, classes, vae, autodecoder"):
        conformation_method("magic")


def test_values_beyond_the_bounds_of_an_option_are_refused_wherever_they_come_from():
    with pytest.raises(ValueError, match=r"pca\.components = 0; expected at least 1"):
        MethodSettings().changed("pca", components=0)
    with pytest.raises(ValueError, match=r"pca\.components = 31; expected at most 30"):
        MethodSettings().with_options(("pca",), {"components": 31})


def test_settings_hold_defaults_and_changes():
    settings = MethodSettings().changed("abinit", restarts=2)
    assert settings["abinit"].restarts == 2
    assert settings["vae"] == tables()["vae"]()
    assert list(settings) == ["abinit"]
    assert set(settings.of(("abinit", "pca"))) == {"abinit", "pca"}
    assert settings.with_options(("classes", "pca"), {"components": 3, "classes": 4})["pca"].components == 3
    with pytest.raises(ValueError, match="colour: no setting of this method"):
        settings.with_options(("pca",), {"colour": 1})
    with pytest.raises(KeyError):
        settings["magic"]
