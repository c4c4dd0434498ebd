"""Checkpoints: exact round trips, and nothing but an intact file of ours is ever accepted."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from cryoloom.runs.checkpoint import (
    FORMAT,
    BadCheckpoint,
    Checkpoint,
    CheckpointMismatch,
    CheckpointStore,
    load_checkpoint,
    save_checkpoint,
)

ARRAYS = {
    "float64": np.linspace(0, 1, 7).reshape(7, 1),
    "number": np.asarray(3),
    "empty": np.zeros((0, 3), np.float32),
    "flag": np.asarray([True, False]),
    "complex128": np.exp(1j * np.arange(6)).reshape(2, 3),
    "complex_number": np.asarray(1 + 2j, np.complex64),
    "strided": np.arange(12.0).reshape(3, 4).T[::2],
    "big_endian": np.arange(3, dtype=">f8"),
    "uint16": np.arange(3, dtype=np.uint16),
    "special": np.asarray([np.nan, -0.0, np.inf]),
    "tensor": torch.arange(6.0).reshape(2, 3).T,
    "tensor_number": torch.tensor(2.5, dtype=torch.float64),
    "bfloat16": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "complex_tensor": torch.tensor([1 + 2j]).conj(),
    "requires_grad": torch.ones(2, requires_grad=True),
}


def checkpoint(step: int = 3, **changes) -> Checkpoint:
    values = {
        "stage": "abinit",
        "step": step,
        "complete": False,
        "fingerprint": "data",
        "settings_hash": "settings",
        "wall_s": 1.5,
        "cpu_s": 2.5,
        "arrays": {"x": np.arange(100.0) + step},
    }
    return Checkpoint(**(values | changes))


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", "data", "settings")


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_bit_for_bit(tmp_path: Path, name: str):
    array = ARRAYS[name]
    save_checkpoint(tmp_path / "c", checkpoint(arrays={name: array}))
    back = load_checkpoint(tmp_path / "c").arrays[name]
    assert type(back) is type(array)
    assert back.dtype == (array.dtype if isinstance(array, torch.Tensor) else array.dtype.newbyteorder("="))
    assert back.shape == array.shape
    if isinstance(array, torch.Tensor):
        assert isinstance(back, torch.Tensor)
        assert torch.equal(back, array.detach())
        back += 1  # writable, and torch does not warn
    else:
        assert np.array_equal(np.signbit(back), np.signbit(array)) if name == "special" else True
        np.testing.assert_array_equal(back, array)


def test_header_comes_back(tmp_path: Path):
    save_checkpoint(tmp_path / "c", checkpoint(complete=True))
    back = load_checkpoint(tmp_path / "c")
    assert (back.stage, back.step, back.complete, back.wall_s, back.cpu_s) == ("abinit", 3, True, 1.5, 2.5)


@pytest.mark.parametrize("array", [np.asarray([object()]), np.asarray(["text"]), np.zeros(2, np.longdouble), [1, 2]])
def test_what_is_not_plain_numbers_is_refused(tmp_path: Path, array):
    with pytest.raises(ValueError, match="'x'"):
        save_checkpoint(tmp_path / "c", checkpoint(arrays={"x": array}))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("stage", ["../escape", "a/b", "", "Ab initio", "a" * 65])
def test_stage_names_can_not_leave_the_folder(store: CheckpointStore, stage: str):
    with pytest.raises(ValueError, match="stage name"):
        store.save(stage, 1, {}, complete=False)
    assert list(store.folder.iterdir()) == []


def test_every_damaged_byte_is_noticed(tmp_path: Path):
    path = tmp_path / "c"
    save_checkpoint(path, checkpoint(arrays={"x": np.arange(5.0), "y": np.ones(3, np.int8)}))
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        with pytest.raises(BadCheckpoint, match=r"c: (damaged|not a checkpoint)"):
            load_checkpoint(path)


def test_every_truncation_is_noticed(tmp_path: Path):
    path = tmp_path / "c"
    save_checkpoint(path, checkpoint(arrays={"x": np.arange(5.0)}))
    good = path.read_bytes()
    for data in (*(good[:n] for n in range(len(good))), good + b"\0"):
        path.write_bytes(data)
        with pytest.raises(BadCheckpoint):
            load_checkpoint(path)


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def foreign_files(target: Path) -> dict[str, bytes]:
    nested = b'{"__metadata__":' + b"[" * 200_000
    bomb = json.dumps({"__metadata__": {"cryoloom": "[" * 200_000, "sha256": "0"}}).encode()
    return {
        "pickle": pickle.dumps(Malicious(target)),
        "other safetensors": safetensors.numpy.save({"x": np.zeros(3)}, metadata={"format": "np"}),
        "no metadata": safetensors.numpy.save({"x": np.zeros(3)}),
        "empty": b"",
        "header of 2^63 bytes": (2**63).to_bytes(8, "little") + b"{}",
        "nested header": len(nested).to_bytes(8, "little") + nested,
        "nested metadata": len(bomb).to_bytes(8, "little") + bomb,
        "metadata is a list": (20).to_bytes(8, "little") + b'{"__metadata__":[1]}',
    }


@pytest.mark.parametrize("kind", foreign_files(Path()))
def test_foreign_and_malicious_files_are_refused(tmp_path: Path, kind: str):
    target = tmp_path / "executed"
    path = tmp_path / "c.safetensors"
    path.write_bytes(foreign_files(target)[kind])
    with pytest.raises(BadCheckpoint, match=r"c\.safetensors"):
        load_checkpoint(path)
    assert not target.exists()


def test_torch_pickle_is_refused_and_not_executed(tmp_path: Path):
    torch.save({"x": Malicious(tmp_path / "executed")}, tmp_path / "c")
    with pytest.raises(BadCheckpoint, match="not a checkpoint written by cryoloom"):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "executed").exists()


def test_a_well_formed_lie_is_refused(tmp_path: Path):
    """A file with a right checksum, made by someone who knows the format, whose metadata make no sense."""
    import hashlib

    text = json.dumps({"format": FORMAT, "version": "0", "kinds": {"other": "numpy:float64"}, "stage": "abinit"})
    x = np.zeros(2)
    digest = hashlib.sha256(text.encode() + b"\nx\nfloat64\n(2,)\n" + x.tobytes()).hexdigest()
    (tmp_path / "c").write_bytes(safetensors.numpy.save({"x": x}, metadata={"cryoloom": text, "sha256": digest}))
    with pytest.raises(BadCheckpoint, match="not a checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_two_are_kept_for_each_stage(store: CheckpointStore):
    for step in range(1, 6):
        for stage in ("abinit", "refine"):
            store.save(stage, step, {"x": np.asarray(step)}, complete=step == 5)
    names = sorted(p.name for p in store.folder.iterdir())
    assert names == [f"{stage}-0000000{n}.safetensors" for stage in ("abinit", "refine") for n in (4, 5)]
    newest = store.newest("refine")
    assert newest is not None
    assert (newest.step, newest.complete) == (5, True)
    assert store.newest("other") is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "pickle"])
def test_damaged_newest_falls_back_to_the_one_before(store: CheckpointStore, damage: str):
    store.save("abinit", 1, {"x": np.asarray(1)}, complete=False)
    store.save("abinit", 2, {"x": np.asarray(2)}, complete=False)
    path = store.paths("abinit")[0]
    good = path.read_bytes()
    path.write_bytes({"flip": good[:-1] + b"\x55", "truncate": good[:-4], "pickle": pickle.dumps([1])}[damage])
    said: list[str] = []
    found = store.newest("abinit", said.append)
    assert found is not None
    assert int(found.arrays["x"]) == 1
    assert len(said) == 1
    assert str(path) in said[0]


def test_no_intact_checkpoint_is_an_error(store: CheckpointStore):
    store.save("abinit", 1, {"x": np.asarray(1)}, complete=False)
    store.paths("abinit")[0].write_bytes(b"garbage")
    with pytest.raises(BadCheckpoint, match="none of the 1 checkpoints of stage abinit is intact"):
        store.newest("abinit", lambda message: None)


def test_a_renamed_checkpoint_is_not_taken_for_another_step(store: CheckpointStore):
    store.save("abinit", 1, {"x": np.asarray(1)}, complete=False)
    store.save("abinit", 2, {"x": np.asarray(2)}, complete=False)
    store.paths("abinit")[1].rename(store.folder / "abinit-00000009.safetensors")
    said: list[str] = []
    found = store.newest("abinit", said.append)
    assert found is not None
    assert found.step == 2
    assert "renamed" in said[0]


@pytest.mark.parametrize(
    ("data", "settings", "what"), [("other", "settings", "input data"), ("data", "other", "settings")]
)
def test_other_data_or_settings_are_refused(store: CheckpointStore, data: str, settings: str, what: str):
    store.save("abinit", 1, {"x": np.asarray(1)}, complete=False)
    with pytest.raises(CheckpointMismatch, match=f"belongs to other {what}"):
        CheckpointStore(store.folder, data, settings).newest("abinit")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_no_rubbish(store: CheckpointStore, monkeypatch, call: str):
    store.save("abinit", 1, {"x": np.asarray(1)}, complete=False)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            store.save("abinit", 1, {"x": np.asarray(2)}, complete=False)
        with pytest.raises(OSError, match="No space left"):
            store.save("abinit", 2, {"x": np.asarray(2)}, complete=False)
    assert len(list(store.folder.iterdir())) == 1
    found = store.newest("abinit")
    assert found is not None
    assert int(found.arrays["x"]) == 1


def test_clear_removes_checkpoints_only(store: CheckpointStore):
    store.save("abinit", 1, {}, complete=False)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / ".abinit-00000002.safetensors.77.cryoloom-tmp").write_text("half")
    store.clear()
    assert [p.name for p in store.folder.iterdir()] == ["notes.txt"]
