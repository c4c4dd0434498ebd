"""The command on runs with conformations: which files it takes, what it prints, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import cryoloom as cl
from cryoloom.cli.evaluate import register
from cryoloom.evaluation.conformation_scores import map_files

from .estimates import Case, make, make_states

CASE = Case(turn=(0.2, 0.9, -0.4), blur=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixture")
    make_states(CASE, path)
    return path


def _invoke(*arguments: str | Path):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    command = ["evaluate", "--threads", "1", *map(str, arguments)]
    return CliRunner().invoke(app, command, env={"COLUMNS": "120"})


def _json(*arguments: str | Path) -> dict:
    result = _invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def _message(*arguments: str | Path) -> str:
    result = _invoke(*arguments)
    assert isinstance(result.exception, ValueError)
    return str(result.exception)


@pytest.fixture(scope="module")
def run(folder: Path) -> tuple[str | Path, ...]:
    """What the command needs to score the run."""
    return folder, "--truth", folder / "truth.star", "--truth-maps", folder / "truth_*.mrc"


@pytest.fixture(scope="module")
def values(run: tuple[str | Path, ...]) -> dict:
    """Its scores."""
    return _json(*run)


def test_what_a_run_holds_is_scored(run: tuple[str | Path, ...], values: dict) -> None:
    assert values["class_of_state"] == [2, 3, 1]
    assert values["classes_right"] == pytest.approx(14 / 15, abs=0.05)  # a tenth drawn at random among three
    assert 0.7 < values["ari"] < 0.95
    assert values["spearman_best_direction"] > 0.9 > values["spearman_best_coordinate"]
    assert (values["own_truth_is_best"], values["own_or_next_truth_is_best"]) == (1.0, 1.0)
    assert np.shape(values["fsc_auc_matrix"]) == (3, 3)
    # rows are classes: state 1 is class 2
    own = [values["fsc_auc_matrix"][c - 1][s] for s, c in enumerate(values["class_of_state"])]
    assert own == values["fsc_auc_per_state"]
    # wrongly classed images count with the map that they were given
    assert min(own) - 0.05 < values["fsc_auc_image_mean"] < values["fsc_auc_mean"]
    result = _invoke(*run)
    assert result.exit_code == 0, result.output
    for words in (
        "true states",
        "adjusted Rand index",
        "best direction",
        "FSC-AUC",
        "neighbouring state",
        "match their own true state best",
    ):
        assert words in result.output
    assert f"{values['fsc_auc_mean']:.4f}" in result.output


def test_the_face_gives_the_same_scores(folder: Path, values: dict) -> None:
    found = cl.evaluate(folder, folder).conformations
    assert found is not None
    assert found.classes is not None
    assert found.latent is not None
    assert found.maps is not None
    assert found.classes.adjusted_rand_index == values["ari"]
    assert found.latent.direction == values["spearman_best_direction"]
    assert "adjusted Rand index of the classes 0." in repr(cl.evaluate(folder / "particles.star", folder))


@pytest.mark.slow
def test_maps_in_the_order_of_the_states(folder: Path, run: tuple[str | Path, ...], values: dict) -> None:
    paths = ",".join(str(folder / f"class_{k:03d}.mrc") for k in (2, 3, 1))
    by_state = _json(*run, "--maps", paths)
    assert by_state["fsc_auc_per_state"] == values["fsc_auc_per_state"]
    assert by_state["fsc_auc_image_mean"] > values["fsc_auc_image_mean"]  # each image with the map of its true state
    wrong = _json(*run, "--maps", folder / "class_*.mrc")
    assert wrong["own_truth_is_best"] < 1
    assert wrong["fsc_auc_mean"] < values["fsc_auc_mean"] - 0.02


def test_a_radius_and_a_mask_are_laid_on_the_maps_of_states(
    run: tuple[str | Path, ...], values: dict, tmp_path: Path
) -> None:
    from cryoloom.evaluation.map_error import soft_sphere
    from cryoloom.maps.io import DensityMap, write_map

    write_map(tmp_path / "mask.mrc", DensityMap(soft_sphere(32, 7.0).float(), 4.0))
    masked = _json(*run, "--mask", tmp_path / "mask.mrc")["fsc_auc_per_state"]
    assert masked == pytest.approx(_json(*run, "--radius", "7")["fsc_auc_per_state"], abs=1e-4)
    assert masked != values["fsc_auc_per_state"]


def test_a_latent_of_other_particles_is_not_taken(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "particles.star", tmp_path / "other.star")
    given = (folder, "--truth", folder / "truth.star", "--particles", tmp_path / "other.star")
    assert "spearman_best_direction" not in _json(*given)
    assert "spearman_best_direction" in _json(*given, "--latent", folder / "z.npy")


def test_homogeneous_runs_are_scored_as_ever(tmp_path: Path) -> None:
    make(CASE, tmp_path)
    shutil.copy(tmp_path / "est.star", tmp_path / "particles.star")
    run = (tmp_path, "--truth", tmp_path / "truth.star")
    plain = _json(*run)
    rows = sum("@" in line for line in (tmp_path / "est.star").read_text().splitlines())
    np.save(tmp_path / "z.npy", np.zeros((rows, 2)))
    assert _json(*run) == plain
    assert "conformations" not in _invoke(*run).output
    # the map of a single state can be scored like those of several; the run's latent has nothing to follow
    one = _json(*run, "--maps", tmp_path / "est.mrc", "--truth-maps", tmp_path / "truth_001.mrc")
    assert one["fsc_auc_image_mean"] == pytest.approx(one["fsc_auc_mean"])
    assert 0.2 < one["fsc_auc_mean"] < 0.5
    assert "spearman_best_direction" not in one
    assert "two states; found" in _message(*run, "--latent", tmp_path / "z.npy")


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    truth = ("--truth", folder / "truth.star")
    truth_maps = ("--truth-maps", folder / "truth_*.mrc")
    assert "--maps needs the true maps" in _message(folder, *truth, "--maps", folder / "class_*.mrc")
    one = ("--maps", folder / "class_001.mrc")
    assert "1 estimated and 3 true maps" in _message(folder, *truth, *truth_maps, *one)
    assert "state 3; there are 1" in _message(folder, *truth, "--truth-maps", folder / "truth_001.mrc", *one)
    alone = ("--particles", folder / "particles.star")
    assert "give one for each state with --maps" in _message(*truth, *alone, *truth_maps)
    assert "--est-map and --mask need the true map" in _message(folder, *truth, "--mask", folder / "class_001.mrc")
    np.save(tmp_path / "short.npy", np.zeros((3, 2)))
    assert "one row for each row of the estimated STAR file" in _message(
        folder, *truth, "--latent", tmp_path / "short.npy"
    )
    (tmp_path / "text.npy").write_text("1 2 3")
    assert "can't be read" in _message(folder, *truth, "--latent", tmp_path / "text.npy")


def test_a_class_without_a_map_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("particles.star", "class_001.mrc", "class_003.mrc"):
        shutil.copy(folder / name, tmp_path / name)
    truth = ("--truth", folder / "truth.star", "--truth-maps", folder / "truth_*.mrc")
    assert "no class_002.mrc" in _message(tmp_path, *truth)


def test_patterns_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("s_10.mrc", "s_2.mrc", "s_1.mrc", "a,b.mrc"):
        (tmp_path / name).touch()
    pattern, comma = str(tmp_path / "s_*.mrc"), str(tmp_path / "a,b.mrc")
    assert [p.name for p in map_files([pattern], "--maps")] == ["s_1.mrc", "s_2.mrc", "s_10.mrc"]
    both = f"{tmp_path / 's_2.mrc'},{tmp_path / 's_1.mrc'}"
    assert [p.name for p in map_files([both, comma], "--maps")] == ["s_2.mrc", "s_1.mrc", "a,b.mrc"]
    assert map_files(None, "--maps") == ()
    with pytest.raises(ValueError, match="no such file"):
        map_files([str(tmp_path / "t_*.mrc")], "--maps")
