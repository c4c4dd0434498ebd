"""Files for other programs: what is written is read again, complete, and nothing of an earlier series is left."""

from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from cryoloom.analyze.series import write_cluster_particles, write_movie_script, write_series
from cryoloom.maps.io import DensityMap, read_map
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.table import ImageResults
from cryoloom.simulation.dataset import simulate_demo


def maps(count: int, box: int = 8, pixel_size: float = 1.7) -> list[DensityMap]:
    g = torch.Generator().manual_seed(count)
    return [DensityMap(torch.randn(box, box, box, generator=g), pixel_size) for _ in range(count)]


def test_a_series_is_read_again_equal(tmp_path: Path) -> None:
    wanted = maps(7)
    found = write_series(tmp_path / "new", "pc1", iter(wanted))
    assert [p.name for p in found.paths] == [f"pc1_{i:03d}.mrc" for i in range(7)]
    for path, one in zip(found.paths, wanted, strict=True):
        again = read_map(path)
        assert torch.equal(again.data, one.data)
        assert again.pixel_size == pytest.approx(1.7)


def test_a_shorter_series_replaces_a_longer_one(tmp_path: Path) -> None:
    """The script opens all files of a name; other names are left alone."""
    write_series(tmp_path, "pc1", maps(5))
    write_series(tmp_path, "pc1_fine", maps(2))
    (tmp_path / "pc1_mean.mrc").write_bytes(b"")
    write_series(tmp_path, "pc1", maps(3))
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["pc1_000.mrc", "pc1_001.mrc", "pc1_002.mrc", "pc1_fine_000.mrc", "pc1_fine_001.mrc", "pc1_mean.mrc"]


def test_the_script_opens_exactly_the_series(tmp_path: Path) -> None:
    first = write_series(tmp_path / "maps", "pc1", maps(4))
    write_series(tmp_path / "maps", "pc1_fine", maps(2))
    single = write_series(tmp_path, "mean", maps(1))
    write_movie_script(tmp_path / "open.cxc", [first, single], level=0.125)
    lines = (tmp_path / "open.cxc").read_text().splitlines()
    opened = [line.split() for line in lines if line.startswith("open ")]
    assert [sorted(tmp_path.glob(words[1])) for words in opened] == [list(first.paths), list(single.paths)]
    assert opened[0][2:] == ["vseries", "true", "id", "1"]
    assert opened[1][2:] == ["id", "2"]
    assert sum("level 0.125" in line for line in lines) == 2
    assert [line for line in lines if line.startswith("vseries")] == [
        "vseries play #1 direction oscillate loop true maxFrameRate 8 cacheFrames 200"
    ]
    assert "hide #2 models" in lines


def test_series_that_can_not_be_written_are_refused(tmp_path: Path) -> None:
    for name in ("a b", "../x", "a;exit", "", "a*"):
        with pytest.raises(ValueError, match="can't be named"):
            write_series(tmp_path, name, maps(1))
    with pytest.raises(ValueError, match="no map"):
        write_series(tmp_path, "pc1", [])
    with pytest.raises(ValueError, match="expected one grid"):
        write_series(tmp_path, "pc1", maps(1) + maps(1, box=9))
    with pytest.raises(ValueError, match="no series"):
        write_movie_script(tmp_path / "open.cxc", [])
    outside = write_series(tmp_path / "one", "pc1", maps(1))
    (tmp_path / "two").mkdir()
    with pytest.raises(ValueError, match="below the script's"):
        write_movie_script(tmp_path / "two" / "open.cxc", [outside])
    spaced = write_series(tmp_path / "with space", "pc1", maps(1))
    with pytest.raises(ValueError, match="'with space' can't be named"):
        write_movie_script(tmp_path / "open.cxc", [spaced])


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> ParticleSet:
    folder = tmp_path_factory.mktemp("set")
    simulate_demo(folder, 60, seed=4)
    return open_particles(folder / "particles.star", scan=False)


def test_cluster_files_are_complete_and_disjoint(particles: ParticleSet, tmp_path: Path) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat([1, 2, 4, 0], [10, 20, 25, 5]))
    number = np.arange(60)
    found = write_cluster_particles(
        tmp_path / "clusters", particles, labels, 4, results=ImageResults(further={"myNumber": number})
    )
    assert [p.name for p in found] == ["cluster_001.star", "cluster_002.star", "cluster_004.star"]
    seen = []
    for path, label in zip(found, (1, 2, 4), strict=True):
        table = starfile.read(path)["particles"]
        assert (table["rlnClassNumber"] == label).all()
        assert (table["myNumber"].to_numpy() == np.flatnonzero(labels == label)).all()
        seen += table["myNumber"].tolist()
        again = open_particles(path, scan=False)
        rows = np.flatnonzero(labels == label)
        np.testing.assert_array_equal(again.read(np.array([0])), particles.read(rows[:1]))
        assert set(particles.table.columns) <= set(again.table.columns)
    assert sorted(seen) == np.flatnonzero(labels > 0).tolist()


def test_an_empty_cluster_leaves_no_old_file(particles: ParticleSet, tmp_path: Path) -> None:
    write_cluster_particles(tmp_path, particles, np.repeat([1, 2], 30), 2)
    write_cluster_particles(tmp_path, particles, np.ones(60, dtype=int), 2)
    assert [p.name for p in tmp_path.iterdir()] == ["cluster_001.star"]


def test_labels_that_do_not_fit_are_refused(particles: ParticleSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one per particle"):
        write_cluster_particles(tmp_path, particles, np.zeros(59, dtype=int), 2)
    with pytest.raises(ValueError, match="labels from 1 to 3"):
        write_cluster_particles(tmp_path, particles, 1 + np.arange(60) % 3, 2)
