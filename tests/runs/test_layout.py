"""The list of a run's files is the one that is documented, and the script for ChimeraX opens those that are there."""

from pathlib import Path

import pytest

from cryoloom.jobs.chimerax import write_chimerax_script
from cryoloom.runs import layout
from cryoloom.runs.folder import _remove_run

ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_files_are_those_of_the_list():
    assert layout.table() in (ROOT / "docs" / "files.md").read_text()


def test_every_file_is_in_the_list_once():
    named = [value for value in vars(layout).values() if isinstance(value, layout.RunFile)]
    assert len(named) > 20
    assert set(named) <= set(layout.FILES)
    assert len({file.name for file in layout.FILES}) == len(layout.FILES)


@pytest.mark.parametrize("file", layout.FILES, ids=lambda file: file.name)
def test_a_pattern_fits_its_own_files_alone(file: layout.RunFile, tmp_path: Path):
    if file.name.endswith("/"):
        assert file.pattern == file.name.replace("{number:03d}", "[0-9][0-9][0-9]")
        return
    path = file.path(tmp_path, number=7, series="pc1")
    path.parent.mkdir(exist_ok=True)
    path.touch()
    others = ("notes.txt", "my_map.mrc", "class_01.mrc", "analysis/notes.txt", "analysis/class.mrc")
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(tmp_path.glob(file.pattern)) == [path]


def test_what_the_run_keeps_itself_is_no_result():
    assert not {"run.json", "run.log", "run.lock", "metrics.jsonl"} & set(layout.RESULTS)
    assert {"map.mrc", "particles.star", "class_[0-9][0-9][0-9].mrc", "report.html"} <= set(layout.RESULTS)


def test_an_earlier_run_leaves_nothing_in_the_folders_of_its_classes(tmp_path: Path):
    run = tmp_path / "run"
    for name in ("run.json", "map.mrc", "analysis/clusters.csv", "checkpoints/refine-1.safetensors"):
        (run / "class_002" / name).parent.mkdir(parents=True, exist_ok=True)
        (run / "class_002" / name).touch()
    (run / "class_003").mkdir()
    (run / "class_003" / "mine.txt").touch()
    (run / "class_003" / "map.mrc").touch()
    _remove_run(run, layout.RESULTS)
    assert not (run / "class_002").exists()
    assert [p.name for p in (run / "class_003").iterdir()] == ["mine.txt"]


def test_the_chimerax_script_opens_the_maps_that_are_there(tmp_path: Path):
    write_chimerax_script(tmp_path, level=0.25)
    script = layout.MAPS_SCRIPT.path(tmp_path)
    lines = script.read_text().splitlines()
    assert "open map.mrc id 1" in lines
    assert "volume #1 style surface step 1 level 0.25 color #8fb3d9" in lines
    assert not any("map_sharp" in line for line in lines)
    layout.SHARP_MAP.path(tmp_path).touch()
    write_chimerax_script(tmp_path)
    assert "open map_sharp.mrc id 2" in script.read_text().splitlines()
