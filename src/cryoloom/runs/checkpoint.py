"""Checkpoints of a run: safetensors files with a checksum inside, written durably, two kept for each stage.

A file holds the arrays of one state and, in the header's metadata, its stage and step, the fingerprint of the input,
the hash of the settings and a SHA-256 of all of these and the arrays. Nothing is ever unpickled or executed:
safetensors files hold only numbers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

import cryoloom
from cryoloom.files.durable import remove_leftovers, write_durably

if TYPE_CHECKING:
    import torch

FORMAT = 3
KEPT = 2
_HEADER_LIMIT = 100_000_000
_STAGE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FILE = re.compile(r"([a-z][a-z0-9_]{0,63})-(\d{8})\.safetensors")
_STORED = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "bfloat16",
)
_VIEWED = {"complex64": np.float32, "complex128": np.float64}

logger = logging.getLogger(__name__)


class BadCheckpoint(ValueError):
    """A file that is not an intact checkpoint of cryoloom."""


class CheckpointMismatch(ValueError):
    """An intact checkpoint that belongs to other data or settings."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one stage after `step` steps.

    Attributes:
        stage: name of the recipe (lower-case letters, digits, underscores).
        step: steps done.
        complete: the stage is finished (or was ended early) and this is its result.
        fingerprint: fingerprint of the input particles.
        settings_hash: hash of the settings.
        wall_s, cpu_s: seconds spent on the stage so far.
        arrays: arrays of the state; NumPy arrays or tensors, as they were given.
        version: version of cryoloom that wrote the checkpoint.
    """

    stage: str
    step: int
    complete: bool
    fingerprint: str
    settings_hash: str
    wall_s: float
    cpu_s: float
    arrays: Mapping[str, np.ndarray | torch.Tensor] = field(repr=False)
    version: str = cryoloom.__version__


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint durably.

    Raises:
        ValueError: for an array of a type that is not plain numbers, or a bad stage name.
        OSError: if the file can't be written, e.g. on a full disk; an older file at `path` is then untouched.
    """
    if not _STAGE.fullmatch(checkpoint.stage):
        raise ValueError(f"stage name {checkpoint.stage!r}: expected lower-case letters, digits and underscores")
    plain, kinds = {}, {}
    for name, array in checkpoint.arrays.items():
        plain[name], kinds[name] = _to_plain(name, array)
    document = {
        "format": FORMAT,
        "version": checkpoint.version,
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "complete": checkpoint.complete,
        "fingerprint": checkpoint.fingerprint,
        "settings_hash": checkpoint.settings_hash,
        "wall_s": checkpoint.wall_s,
        "cpu_s": checkpoint.cpu_s,
        "kinds": kinds,
    }
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    metadata = {"cryoloom": text, "sha256": _digest(text, plain)}
    write_durably(path, safetensors.numpy.save(plain, metadata=metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint; arrays come back as they were given to `save_checkpoint`, bit for bit.

    Raises:
        BadCheckpoint: when the file is foreign, damaged, or of a newer format.
    """
    raw = path.read_bytes()
    text, sha256 = _read_metadata(path, raw)
    try:
        plain = safetensors.numpy.load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{path}: damaged: {error}") from error
    if _digest(text, plain) != sha256:
        raise BadCheckpoint(f"{path}: damaged: its contents do not match its checksum")
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise BadCheckpoint(
                f"{path}: written in checkpoint format {document['format']} by cryoloom {document['version']}; "
                f"this is cryoloom {cryoloom.__version__}, which reads format {FORMAT}\n"
                "  what to do: use the version that wrote it, or start the run anew with --overwrite"
            )
        kinds = document["kinds"]
        if kinds.keys() != plain.keys():
            raise KeyError("kinds")
        return Checkpoint(
            stage=str(document["stage"]),
            step=int(document["step"]),
            complete=bool(document["complete"]),
            fingerprint=str(document["fingerprint"]),
            settings_hash=str(document["settings_hash"]),
            wall_s=float(document["wall_s"]),
            cpu_s=float(document["cpu_s"]),
            arrays={name: _from_plain(array, kinds[name]) for name, array in plain.items()},
            version=str(document["version"]),
        )
    except BadCheckpoint:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadCheckpoint(f"{path}: not a checkpoint written by cryoloom ({error})") from error


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of one run. Only the holder of the run's lock may use it."""

    folder: Path
    fingerprint: str
    settings_hash: str

    def save(
        self,
        stage: str,
        step: int,
        arrays: Mapping[str, np.ndarray | torch.Tensor],
        *,
        complete: bool,
        wall_s: float = 0.0,
        cpu_s: float = 0.0,
    ) -> None:
        """Write the state of a stage after `step` steps and drop all but the two newest of that stage."""
        self.folder.mkdir(exist_ok=True)
        new = Checkpoint(
            stage=stage,
            step=step,
            complete=complete,
            fingerprint=self.fingerprint,
            settings_hash=self.settings_hash,
            wall_s=wall_s,
            cpu_s=cpu_s,
            arrays=arrays,
        )
        save_checkpoint(self.folder / f"{stage}-{step:08d}.safetensors", new)
        for path in self.paths(stage)[KEPT:]:
            path.unlink(missing_ok=True)

    def newest(self, stage: str, warn: Callable[[str], None] = logger.warning) -> Checkpoint | None:
        """The newest intact checkpoint of a stage, or None if there is none at all.

        Raises:
            CheckpointMismatch: if it belongs to other data or settings.
            BadCheckpoint: if there are checkpoints of the stage but none of them is intact.
        """
        paths = self.paths(stage)
        for path in paths:
            try:
                found = load_checkpoint(path)
                if f"{found.stage}-{found.step:08d}.safetensors" != path.name:
                    raise BadCheckpoint(f"{path}: holds stage {found.stage}, step {found.step}: it was renamed")
            except (BadCheckpoint, OSError) as error:
                warn(f"checkpoint skipped: {error}")
                continue
            self._check_origin(path, found)
            if found.version != cryoloom.__version__:
                warn(
                    f"{path.name} was written by cryoloom {found.version}, this is {cryoloom.__version__}: "
                    "the result may differ from that of an uninterrupted run"
                )
            return found
        if paths:
            raise BadCheckpoint(
                f"{self.folder}: none of the {len(paths)} checkpoints of stage {stage} is intact\n"
                f"  found: {', '.join(path.name for path in paths)}\n"
                "  what to do: start the run anew with --overwrite, or delete these files to repeat this stage"
            )
        return None

    def paths(self, stage: str) -> list[Path]:
        """The files of a stage, newest first."""
        if not self.folder.is_dir():
            return []
        named = ((_FILE.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((path for match, path in named if match and match[1] == stage), reverse=True)

    def clear(self) -> None:
        """Remove all checkpoints (and nothing else)."""
        if self.folder.is_dir():
            remove_leftovers(self.folder)
            for path in self.folder.iterdir():
                if _FILE.fullmatch(path.name):
                    path.unlink()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _check_origin(self, path: Path, found: Checkpoint) -> None:
        for what, here, there in (
            ("input data", self.fingerprint, found.fingerprint),
            ("settings", self.settings_hash, found.settings_hash),
        ):
            if here != there:
                raise CheckpointMismatch(
                    f"{path}: this checkpoint belongs to other {what}\n"
                    f"  fingerprint found: {there[:16]}, expected: {here[:16]}\n"
                    f"  what to do: resume with the same {what}, or start a new run in another folder"
                )


def _read_metadata(path: Path, raw: bytes) -> tuple[str, str]:
    """cryoloom's metadata and their checksum from the safetensors header, before anything else is trusted."""
    foreign = BadCheckpoint(f"{path}: not a checkpoint written by cryoloom (it is not opened any further)")
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > min(_HEADER_LIMIT, len(raw) - 8):
        raise foreign
    try:
        metadata = json.loads(raw[8 : 8 + size])["__metadata__"]
        text, sha256 = metadata["cryoloom"], metadata["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise foreign from None
    if not (isinstance(text, str) and isinstance(sha256, str)):
        raise foreign
    return text, sha256


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name}\n{array.dtype.name}\n{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _to_plain(name: str, array: np.ndarray | torch.Tensor) -> tuple[np.ndarray, str]:
    """An array that safetensors can hold, and its original type: complex becomes pairs, bfloat16 int16."""
    if isinstance(array, np.ndarray | np.generic):
        library, dtype, plain = "numpy", array.dtype.name, np.asarray(array)
    else:
        import torch

        if not isinstance(array, torch.Tensor):
            raise ValueError(f"checkpoint array {name!r}: expected an array or tensor, found {type(array).__name__}")
        # a tensor comes back on the device that it was on
        library = "torch" if array.device.type == "cpu" else f"torch@{array.device.type}"
        dtype = str(array.dtype).removeprefix("torch.")
        tensor = array.detach().resolve_conj().resolve_neg().cpu()
        plain = (tensor.view(torch.int16) if dtype == "bfloat16" else tensor).numpy()
    if dtype not in _STORED:
        raise ValueError(f"checkpoint array {name!r}: dtype {dtype} cannot be stored, expected one of {_STORED}")
    if dtype in _VIEWED:
        plain = np.ascontiguousarray(plain).reshape(*plain.shape, 1).view(_VIEWED[dtype])
    plain = plain.astype(plain.dtype.newbyteorder("<"), order="C", copy=False)
    return plain, f"{library}:{dtype}"


def _from_plain(plain: np.ndarray, kind: str) -> np.ndarray | torch.Tensor:
    library, dtype = kind.split(":")
    # a copy: safetensors may return a read-only view of the file's bytes
    array = np.array(plain)
    if dtype in _VIEWED:
        array = array.view(dtype).reshape(array.shape[:-1])
    if library == "numpy":
        return array
    import torch

    tensor = torch.from_numpy(array)
    if dtype == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    return tensor.to(library.partition("@")[2] or "cpu")
