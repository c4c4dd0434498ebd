"""Opening, reading and writing whole sets."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.particles.errors import BadInput
from cryoloom.particles.formats.relion.star import read_star
from cryoloom.particles.particle_set import ParticleSet, open_particles, write_particles
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.table import ImageResults
from cryoloom.physics.fourier import fft2, ifft2
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.rotations import from_euler, geodesic_degrees

from .conftest import SmallSet
from .files import mrc_bytes, noise_images, particle_row

# what each of the real sets needs to be told
REAL_SETS = {
    "stacks_real/cryodrgn_et_ribosome/sta_testing_bin8.star": {"b_factor_sign": "negative"},
    "stacks_real/empiar10076_7/empiar_10076_7.star": {},
    "stacks_real/relion31_5/relion31.star": {},
    "stacks_real/relion31_5/relion31.v2.star": {},
    "stacks_real/warptools_70S/warp70S_perimage.star": {},
    "stacks_sim_conventions/cryodrgn/toy_projections.star": {"pixel_size": 1.0, "no_ctf": True},
    "stacks_sim_conventions/relion_project/rln_proj_64.star": {"pixel_size": 1.0, "no_ctf": True},
    "stacks_sim_conventions/relion_project/rln_proj_65.star": {"pixel_size": 1.0, "no_ctf": True},
    "stacks_sim_conventions/relion_project/rln_proj_64_shifted.star": {"pixel_size": 1.0, "no_ctf": True},
}


def optics_of(path: Path) -> dict[str, list[str]]:
    """The optics table of a STAR file as text; empty where there is none."""
    block = read_star(path).block("optics")
    return {} if block is None else {name: list(texts) for name, texts in block.columns.items()}


def test_what_is_known_of_a_set(small: SmallSet) -> None:
    particles = open_particles(small.star)
    assert (len(particles), particles.box, particles.pixel_size) == (6, 16, 3.5)
    assert list(particles.table.columns) == list(small.content.columns)
    assert particles.group.tolist() == [0] * 6
    assert particles.group_names == ("glacios",)
    ctf = particles.ctf
    assert {f.name: getattr(ctf, f.name).dtype for f in dataclasses.fields(ctf)} == dict.fromkeys(
        (f.name for f in dataclasses.fields(ctf)), torch.float64
    )
    assert ctf.defocus_u_angstrom.tolist() == [15001.0, 15002.0, 15003.0, 15004.0, 15005.0, 15006.0]
    assert ctf.defocus_v_angstrom.tolist() == [14999.0, 14998.0, 14997.0, 14996.0, 14995.0, 14994.0]
    torch.testing.assert_close(ctf.astigmatism_radian, torch.full((6,), np.radians(33.25), dtype=torch.float64))
    assert float(ctf.voltage_kv[0]) == 200.0


def test_images_come_in_the_order_asked_for(small: SmallSet) -> None:
    particles = open_particles(small.star)
    rows = np.array([5, 0, 0, 3])
    images = particles.read(rows)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, small.images[rows])
    assert particles.read(np.array([], dtype=np.int64)).shape == (0, 16, 16)


def test_rows_over_several_stacks(small: SmallSet) -> None:
    other = noise_images(4, seed=11)
    (small.star.parent / "b.mrcs").write_bytes(mrc_bytes(other, mode=12, order=">", pixel_size=3.5))
    rows = [particle_row(4, "b.mrcs"), small.content.rows[2], particle_row(1, "b.mrcs"), small.content.rows[0]]
    small.star.write_text(dataclasses.replace(small.content, rows=tuple(rows)).text())
    half = other.astype(np.float16).astype(np.float32)
    expected = np.stack([half[3], small.images[2], half[0], small.images[0]])
    np.testing.assert_array_equal(open_particles(small.star).read(np.arange(4)), expected)


def test_options_take_the_place_of_the_file(small: SmallSet) -> None:
    particles = open_particles(small.star, StatedInput(pixel_size=1.7, voltage_kv=300, amplitude_contrast=0.07))
    assert particles.pixel_size == 1.7
    assert set(particles.ctf.voltage_kv.tolist()) == {300.0}
    assert set(particles.ctf.amplitude_contrast.tolist()) == {0.07}
    assert set(particles.ctf.spherical_aberration_mm.tolist()) == {2.7}


def test_fingerprint_follows_the_content(small: SmallSet, tmp_path: Path) -> None:
    first = open_particles(small.star).fingerprint()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (small.star, small.stack):
        shutil.copy(path, copy / path.name)
        os.utime(copy / path.name, (0, 0))
    assert open_particles(copy / small.star.name).fingerprint() == first
    small.star.write_text(small.star.read_text().replace("33.25", "33.26"))
    assert open_particles(small.star).fingerprint() != first
    for image in (0, -1):
        shutil.copy(copy / small.star.name, small.star)
        images = small.images.copy()
        images[image, 2, 2] += 1
        small.stack.write_bytes(mrc_bytes(images, pixel_size=3.5))
        assert open_particles(small.star).fingerprint() != first


def test_fingerprint_follows_the_rows_used(small: SmallSet) -> None:
    small.star.write_text(dataclasses.replace(small.content, rows=(*small.content.rows, small.content.rows[0])).text())
    kept = open_particles(small.star, StatedInput(on_duplicates="keep")).fingerprint()
    assert open_particles(small.star, StatedInput(on_duplicates="drop")).fingerprint() != kept


def test_poses_of_relions_own_shifted_projections(shared_data: Path) -> None:
    folder = shared_data / "stacks_sim_conventions" / "relion_project"
    shifted = open_particles(folder / "rln_proj_64_shifted.star", StatedInput(pixel_size=1.0, no_ctf=True))
    centred = open_particles(folder / "rln_proj_64_centered.star", StatedInput(pixel_size=1.0, no_ctf=True))
    poses = shifted.input_poses()
    assert poses.R.dtype == poses.t.dtype == torch.float64
    torch.testing.assert_close(poses.R, centred.input_poses().R)
    disc = FourierDisc.create(64, 1.0, dtype=torch.float64)
    moved = fft2(torch.from_numpy(centred.read(np.arange(4))).double())
    moved = ifft2(disc.scatter(disc.gather(moved) * shift_ramp(disc.k, poses.t))).real
    seen = torch.from_numpy(shifted.read(np.arange(4))).double()
    correlation = torch.nn.functional.cosine_similarity(moved.reshape(4, -1), seen.reshape(4, -1))
    assert (correlation > 0.99).all(), correlation


def test_origins_in_pixels_are_scaled_and_those_in_angstrom_are_not(shared_data: Path) -> None:
    star = shared_data / "stacks_sim_conventions" / "relion_project" / "rln_proj_64_shifted.star"
    pixels = open_particles(star, StatedInput(pixel_size=2.5, no_ctf=True)).input_poses().t
    expected = [[-15.0, -25.0], [-25.0, 12.5], [20.0, -27.5], [32.5, 7.5]]
    torch.testing.assert_close(pixels, torch.tensor(expected, dtype=torch.float64))


def test_sets_without_poses_say_so(small: SmallSet) -> None:
    with pytest.raises(BadInput, match="rlnAngleRot"):
        open_particles(small.star).input_poses()


def test_half_sets(small: SmallSet, tmp_path: Path) -> None:
    particles = open_particles(small.star)
    assert particles.half_sets() is None
    subset = np.array([1, 2, 1, 1, 2, 2])
    write_particles(tmp_path / "halves.star", particles, ImageResults(half_set=subset))
    np.testing.assert_array_equal(open_particles(tmp_path / "halves.star").half_sets(), subset)
    write_particles(tmp_path / "thirds.star", particles, ImageResults(half_set=np.array([1, 2, 3, 1, 2, 0])))
    with pytest.raises(BadInput, match="row 3, 6"):
        open_particles(tmp_path / "thirds.star").half_sets()


def same_particles(a: ParticleSet, b: ParticleSet) -> None:
    """Same images, optics and CTF."""
    assert (a.box, a.pixel_size, a.group.tolist()) == (b.box, pytest.approx(b.pixel_size), b.group.tolist())
    rows = np.arange(len(a))[:20]
    np.testing.assert_array_equal(a.read(rows), b.read(rows))
    for f in dataclasses.fields(a.ctf):
        torch.testing.assert_close(getattr(a.ctf, f.name), getattr(b.ctf, f.name), atol=1e-6, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(REAL_SETS))
def test_round_trip_keeps_columns_order_and_optics(shared_data: Path, tmp_path: Path, name: str) -> None:
    options = REAL_SETS[name]
    particles = open_particles(shared_data / name, StatedInput(**options))
    write_particles(tmp_path / "new.star", particles, ImageResults())
    # what is written has the sign that was used
    again = open_particles(tmp_path / "new.star", StatedInput(**{k: v for k, v in options.items() if "sign" not in k}))
    same_particles(particles, again)
    changed = ["rlnImageName", "rlnOriginX", "rlnOriginY", *(["rlnCtfBfactor"] if "b_factor_sign" in options else [])]
    kept = [c for c in particles.table.columns if c not in changed]
    assert [c for c in again.table.columns if c in kept] == kept
    for column in kept:
        assert again.table.texts(column).equal(particles.table.texts(column))
    before, after = optics_of(shared_data / name), optics_of(tmp_path / "new.star")
    for column, values in before.items():
        if column != "rlnImagePixelSize" or "pixel_size" not in options:
            assert after[column] == values
    if particles.table.poses.rotations is not None and particles.table.poses.shifts is not None:
        torch.testing.assert_close(again.input_poses().R, particles.input_poses().R)
        torch.testing.assert_close(again.input_poses().t, particles.input_poses().t, atol=1e-6, rtol=0)


def test_columns_are_added_and_replaced_for_chosen_rows(small: SmallSet, tmp_path: Path) -> None:
    particles = open_particles(small.star)
    rows = np.array([4, 1])
    columns = {"rlnDefocusAngle": np.array([1.5, 2.0]), "rlnClassNumber": np.array([3, 1]), "rlnAngleRot": np.zeros(2)}
    write_particles(tmp_path / "new.star", particles, ImageResults(further=columns), rows)
    new = open_particles(tmp_path / "new.star")
    assert list(new.table.columns) == [*small.content.columns, "rlnClassNumber", "rlnAngleRot"]
    assert list(new.table.texts("rlnDefocusAngle")) == ["1.500000", "2.000000"]
    assert list(new.table.texts("rlnClassNumber")) == ["3", "1"]
    assert list(new.table.texts("someUnknownColumn")) == ["text5", "text2"]
    np.testing.assert_array_equal(new.read(np.arange(2)), small.images[rows])
    further = {"a": np.array([1e-9, 0.0]), "b": np.array([True, False])}
    write_particles(tmp_path / "new.star", particles, ImageResults(further=further), rows)
    new = open_particles(tmp_path / "new.star")
    assert list(new.table.texts("a")) == ["1.000000e-09", "0.000000"]
    assert list(new.table.texts("b")) == ["1", "0"]
    with pytest.raises(ValueError, match="row 2"):
        write_particles(tmp_path / "new.star", particles, ImageResults(further={"a": np.array([0.0, np.nan])}), rows)
    with pytest.raises(ValueError, match="2 rows"):
        write_particles(tmp_path / "new.star", particles, ImageResults(class_number=np.arange(6)), rows)


def test_image_names_change_only_where_they_must(small: SmallSet, tmp_path: Path) -> None:
    particles = open_particles(small.star)
    write_particles(tmp_path / "beside.star", particles, ImageResults())
    beside = open_particles(tmp_path / "beside.star")
    assert list(beside.table.texts("rlnImageName")) == list(particles.table.texts("rlnImageName"))
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    write_particles(run / "new.star", particles, ImageResults())
    new = open_particles(run / "new.star")
    assert new.table.texts("rlnImageName")[2] == "000003@../../stack.mrcs"
    np.testing.assert_array_equal(new.read(np.arange(6)), small.images)


def test_written_poses_come_back(small: SmallSet, tmp_path: Path) -> None:
    particles = open_particles(small.star)
    rng = np.random.default_rng(3)
    angles = np.stack([rng.uniform(-180, 180, 6), rng.uniform(0, 180, 6), rng.uniform(-180, 180, 6)], -1)
    shift = rng.normal(0, 5, (6, 2))
    R = from_euler(torch.from_numpy(angles))
    write_particles(tmp_path / "posed.star", particles, ImageResults(R=R.numpy(), t=shift))
    written = read_star(tmp_path / "posed.star").block("particles")
    assert written is not None
    for column, values in zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True):
        np.testing.assert_allclose(written.columns[column].numbers(), values, atol=1e-6)
    np.testing.assert_allclose(written.columns["rlnOriginXAngst"].numbers(), -shift[:, 0], atol=1e-6)
    np.testing.assert_allclose(written.columns["rlnOriginYAngst"].numbers(), -shift[:, 1], atol=1e-6)
    poses = open_particles(tmp_path / "posed.star").input_poses()
    assert float(geodesic_degrees(poses.R, R).max()) < 1e-5
    torch.testing.assert_close(poses.t, torch.from_numpy(shift), atol=1e-6, rtol=0)


def test_relion30_becomes_relion31(shared_data: Path, tmp_path: Path) -> None:
    particles = open_particles(shared_data / "stacks_real" / "empiar10076_7" / "empiar_10076_7.star")
    assert not optics_of(particles.path)
    write_particles(tmp_path / "new.star", particles, ImageResults())
    optics = optics_of(tmp_path / "new.star")
    required = {"rlnOpticsGroup", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize"}
    assert required | {"rlnImageSize", "rlnImageDimensionality"} <= set(optics)
    assert optics["rlnImageSize"] == [str(particles.box)]


def test_stated_values_are_written(small: SmallSet, tmp_path: Path) -> None:
    particles = open_particles(small.star, StatedInput(pixel_size=1.7, voltage_kv=300))
    write_particles(tmp_path / "new.star", particles, ImageResults())
    new = open_particles(tmp_path / "new.star", StatedInput(pixel_size=1.7))
    optics = optics_of(tmp_path / "new.star")
    assert optics["rlnImagePixelSize"] == ["1.700000"]
    assert set(new.ctf.voltage_kv.tolist()) == {300.0}
    assert optics["rlnSphericalAberration"] == ["2.7"]


def test_a_real_set_whose_stack_was_renamed(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "stacks_real" / "trpv1_10"
    with pytest.raises(BadInput, match="batch_0_restacked"):
        open_particles(folder / "trpv1_small_stack.star")
    shutil.copy(folder / "trpv1_small_stack.mrcs", tmp_path / "batch_0_restacked.mrc")
    particles = open_particles(folder / "trpv1_small_stack.star", StatedInput(datadir=str(tmp_path)))
    assert len(particles) == 10
    assert particles.input_poses().R.shape == (10, 3, 3)


def test_tomographic_particles_are_refused(shared_data: Path) -> None:
    star = "stacks_real/warptools_70S/warptools_test_4-tomos_10-ptcls_box-32_angpix-12.star"
    with pytest.raises(BadInput, match="tomographic"):
        open_particles(shared_data / star)
