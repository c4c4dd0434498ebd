"""What holds of every particle format; a toy one is registered and used from file to image batches and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.particles.batches import ParticleSource
from cryoloom.particles.errors import BadInput
from cryoloom.particles.formats import FORMATS, format_of
from cryoloom.particles.particle_set import open_particles, read_table, write_particles
from cryoloom.particles.preprocess import measure
from cryoloom.particles.table import ImageResults, ParticleTable
from cryoloom.physics.frequencies import FourierDisc

from .conftest import SmallSet
from .toy_format import TOY

TOY_TEXT = "stack,image,defocus,pixel_size,voltage_kv,spherical_aberration_mm,amplitude_contrast,note\n" + "".join(
    f'stack.mrcs,{i},{15000 + i}.5,3.5,200,2.7,0.10,"n, {i} ü"\n' for i in (3, 0, 5, 1)
)


@pytest.fixture
def with_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, TOY.name, TOY)


@pytest.fixture
def toy_file(small: SmallSet, with_toy: None) -> Path:
    path = small.star.with_suffix(".toy")
    path.write_text(TOY_TEXT, encoding="utf-8")
    return path


def same_tables(a: ParticleTable, b: ParticleTable) -> None:
    """The same images with the same numbers, and every column byte for byte."""
    assert [a.image_name(i) for i in range(len(a))] == [b.image_name(i) for i in range(len(b))]
    assert a.group.tolist() == b.group.tolist()
    assert [g.name for g in a.optics] == [g.name for g in b.optics]
    assert set(a.numbers) <= set(b.numbers)
    for quantity in a.numbers:
        np.testing.assert_array_equal(a.values(quantity), b.values(quantity))
    for name in a.columns:
        assert a.texts(name).equal(b.texts(name)), name


@pytest.mark.parametrize("name", ["relion", "toy"])
def test_read_write_read_gives_the_same_table(small: SmallSet, toy_file: Path, tmp_path: Path, name: str) -> None:
    path = {"relion": small.star, "toy": toy_file}[name]
    assert set(FORMATS) == {"relion", "toy"}, "a new format needs its sample here"
    table = read_table(path)
    assert table.format == name
    copy = tmp_path / f"copy{path.suffix}"
    format_of(copy).write(copy, table)
    same_tables(table, read_table(copy))
    rows = np.array([2, 0])
    format_of(copy).write(copy, table.take(rows))
    same_tables(table.take(rows), read_table(copy))


def test_a_new_format_goes_all_the_way_to_image_batches(small: SmallSet, toy_file: Path) -> None:
    particles = open_particles(toy_file)
    assert (len(particles), particles.box, particles.pixel_size) == (4, 16, 3.5)
    np.testing.assert_array_equal(particles.read(np.arange(4)), small.images[[3, 0, 5, 1]])
    assert particles.ctf.defocus_u_angstrom.tolist() == [15003.5, 15000.5, 15005.5, 15001.5]
    with pytest.raises(BadInput, match="without poses"):
        particles.input_poses()
    found = measure(particles, particle_diameter_angstrom=40, box=None, generator=torch.Generator())
    disc = FourierDisc.create(16, 3.5)
    batch = ParticleSource(particles, found, disc, 0).batch(np.arange(4))
    relion = open_particles(small.star)
    same = ParticleSource(relion, found, disc, 0).batch(np.array([3, 0, 5, 1]))
    assert torch.equal(batch.observed, same.observed)


def test_results_are_written_to_any_format(toy_file: Path, tmp_path: Path) -> None:
    particles = open_particles(toy_file)
    results = ImageResults(half_set=np.array([1, 2, 2, 1]), class_number=np.array([1, 1, 3, 2]))
    for suffix in (".toy", ".star"):
        path = tmp_path / f"written{suffix}"
        write_particles(path, particles, results)
        again = open_particles(path)
        np.testing.assert_array_equal(again.read(np.arange(4)), particles.read(np.arange(4)))
        assert torch.equal(again.ctf.defocus_u_angstrom, particles.ctf.defocus_u_angstrom)
        assert torch.equal(again.ctf.amplitude_contrast, particles.ctf.amplitude_contrast)
        np.testing.assert_array_equal(again.half_sets(), results.half_set)
        np.testing.assert_array_equal(again.table.values("class_number"), results.class_number)
        assert list(again.table.texts("note")) == [f"n, {i} ü" for i in (3, 0, 5, 1)]


def test_relion_images_can_be_written_in_the_new_format(small: SmallSet, with_toy: None, tmp_path: Path) -> None:
    particles = open_particles(small.star)
    write_particles(tmp_path / "from_relion.toy", particles, ImageResults())
    again = open_particles(tmp_path / "from_relion.toy")
    np.testing.assert_array_equal(again.read(np.arange(6)), small.images)
    assert torch.equal(again.ctf.defocus_u_angstrom, particles.ctf.defocus_u_angstrom)


def test_unknown_formats_are_refused_with_those_that_are_known(with_toy: None) -> None:
    with pytest.raises(BadInput) as caught:
        open_particles("particles.xyz")
    for words in ("particles.xyz", "'.xyz'", "RELION STAR file", "toy CSV file"):
        assert words in str(caught.value)


def test_reading_a_table_loads_neither_torch_nor_pandas(small: SmallSet) -> None:
    code = (
        "import sys; from pathlib import Path; from cryoloom.particles.formats import format_of\n"
        "path = Path(sys.argv[1]); table = format_of(path).read(path)\n"
        "assert table.values('defocus_u_angstrom')[2] == 15003.0\n"
        "print({'torch', 'pandas', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small.star)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
