"""Atomic models: what is kept of a file, and density against the direct sum over atoms."""

import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cryoloom.physics.fourier import fft3
from cryoloom.simulation.structure import (
    AtomicModel,
    assemble,
    electron_density,
    is_model,
    load_embedded_structure,
    read_models,
)


def _atom(serial, name, altloc, residue, number, x, occupancy=1.0, element="", record="ATOM"):
    return (
        f"{record:<6}{serial:>5} {name}{altloc}{residue:>3} A{number:>4}    "
        f"{x:8.3f}{2.0:8.3f}{3.0:8.3f}{occupancy:6.2f}{20.0:6.2f}          {element:>2}"
    )


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    """Waters, hydrogens, conformers, an ion, and names without an element column."""
    lines = [
        _atom(1, " N  ", altloc=" ", residue="ALA", number=1, x=1.0),
        _atom(2, "CA  ", altloc=" ", residue="ALA", number=1, x=2.0),  # one column off: reads as calcium
        _atom(3, " C  ", altloc=" ", residue="ALA", number=1, x=3.0),
        _atom(4, "1HB ", altloc=" ", residue="ALA", number=1, x=4.0),
        _atom(5, " N  ", altloc=" ", residue="SER", number=2, x=5.0, element="N"),
        _atom(6, " OG ", altloc="A", residue="SER", number=2, x=6.0, occupancy=0.3, element="O"),
        _atom(7, " OG ", altloc="B", residue="SER", number=2, x=7.0, occupancy=0.7, element="O"),
        _atom(8, "CA   ", altloc="", residue=" CA", number=3, x=8.0, element="CA", record="HETATM"),
        _atom(9, " O  ", altloc=" ", residue="HOH", number=4, x=9.0, element="O", record="HETATM"),
        "END",
    ]
    path = tmp_path / "modèle éé.pdb"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_awkward_file_keeps_the_right_atoms(awkward: Path) -> None:
    (model,) = read_models(awkward)
    found = [(gemmi.Element(int(z)).name, float(x)) for z, x in zip(model.atomic_number, model.xyz[:, 0], strict=True)]
    assert found == [("N", 1.0), ("C", 2.0), ("C", 3.0), ("N", 5.0), ("O", 7.0), ("Ca", 8.0)]


def test_compressed_model_is_the_same(awkward: Path, tmp_path: Path) -> None:
    packed = tmp_path / "model.pdb.gz"
    packed.write_bytes(gzip.compress(awkward.read_bytes()))
    assert is_model(packed)
    assert np.array_equal(read_models(packed)[0].xyz, read_models(awkward)[0].xyz)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdb", b"", "no heavy atoms"),
        ("a.cif", b"not a cif", "not a readable"),
        ("a.pdb.gz", b"not gzip", "can't be read"),
        ("a.npz", b"PK garbage", "not a trajectory"),
    ],
)
def test_unreadable_models_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_models(path)


def test_trajectory_frames(tmp_path: Path) -> None:
    path = tmp_path / "path.npz"
    xyz = np.arange(18.0).reshape(2, 3, 3)
    np.savez(path, xyz=xyz, name=np.array(["CA", "HB1", "OD1"]))
    models = read_models(path, [1, 0])
    assert [m.atomic_number.tolist() for m in models] == [[6, 8], [6, 8]]
    assert np.array_equal(models[0].xyz, xyz[1, [0, 2]])
    with pytest.raises(ValueError, match="frames 0 to 1"):
        read_models(path, [2])


def test_pickled_trajectory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, xyz=np.array([{"a": 1}], dtype=object), name=np.array(["C"]))
    with pytest.raises(ValueError, match="not a trajectory"):
        read_models(path)


@pytest.mark.parametrize("box", [32, 33])
def test_density_is_the_sum_of_form_factors(box: int) -> None:
    """Independent of gemmi's grid: f(k) e^{-B k^2 / 4} e^{-2 pi i k.x} summed over atoms, electron form factors."""
    rng = np.random.default_rng(3)
    pixel_size, b_factor = 2.5, 40.0
    numbers = np.array([6, 7, 8, 16, 15], np.uint8)
    model = AtomicModel(rng.uniform(-20, 20, (5, 3)), numbers, "five atoms")
    found = fft3(electron_density(model, box, pixel_size, b_factor).double()).numpy() * pixel_size**3

    f = (np.arange(box) - box // 2) / (box * pixel_size)
    kz, ky, kx = np.meshgrid(f, f, f, indexing="ij")
    k2 = kx**2 + ky**2 + kz**2
    expected = np.zeros((box,) * 3, complex)
    for number, (x, y, z) in zip(numbers, model.xyz, strict=True):
        c = gemmi.Element(int(number)).c4322
        factor = sum(a * np.exp(-b * k2 / 4) for a, b in zip(c.a, c.b, strict=True))
        expected += factor * np.exp(-b_factor * k2 / 4) * np.exp(-2j * np.pi * (kx * x + ky * y + kz * z))
    inside = np.ones((box,) * 3, bool)
    if box % 2 == 0:  # unpaired Nyquist planes are dropped
        inside[0], inside[:, 0], inside[:, :, 0] = False, False, False
    error = np.linalg.norm((found - expected)[inside]) / np.linalg.norm(expected[inside])
    assert error < 2e-3


def test_narrow_atoms_do_not_alias() -> None:
    """With B far below the pixel's scale the fine grid must follow the atom, or shifts of half a voxel show."""
    here = AtomicModel(np.zeros((1, 3)), np.array([6], np.uint8), "one atom")
    there = here.moved(np.array([0.37, 0.0, 0.0]))
    a, b = (fft3(electron_density(m, 24, 3.0, 5.0).double()).abs() for m in (here, there))
    assert float((a - b).abs().max() / a.max()) < 5e-3


def test_too_small_box_is_refused() -> None:
    with pytest.raises(ValueError, match="enlarge the box"):
        electron_density(load_embedded_structure(), 32, 4.0, 100.0)


def test_assembly_has_its_symmetry() -> None:
    model = AtomicModel(np.random.default_rng(0).normal(0, 5, (20, 3)), np.full(20, 6, np.uint8), "blob")
    whole = assemble(model, "D3", 30.0)
    assert len(whole) == 6 * 20
    turn = np.array([[-0.5, -np.sqrt(0.75), 0], [np.sqrt(0.75), -0.5, 0], [0, 0, 1]])
    turned = whole.xyz @ turn.T
    nearest = np.linalg.norm(whole.xyz[:, None] - turned[None], axis=-1).min(0)
    assert nearest.max() < 1e-9


def test_embedded_structure_is_the_deposited_one(shared_data: Path) -> None:
    model, (file,) = load_embedded_structure(), read_models(shared_data / "models" / "1hzh_IgG.pdb")
    assert np.array_equal(model.atomic_number, file.atomic_number)
    assert np.abs(model.xyz - (file.xyz - file.xyz.mean(0))).max() < 0.006


def test_embedded_structure_without_files() -> None:
    model = load_embedded_structure()
    assert len(model) == 10576
    assert np.abs(model.xyz.mean(0)).max() < 0.01
    density = electron_density(model, 48, 5.0, 150.0)
    assert torch.isfinite(density).all()
    # electron form factors at zero angle: about 2.5, 2.2, 2.0 and 5.2 A for C, N, O, S
    assert float(density.sum()) * 125 == pytest.approx(25000, rel=0.05)
