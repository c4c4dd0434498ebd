"""Files that survive a kill, a crash or a full disk: either the old content is there or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_TEMPORARY_SUFFIX = ".cryoloom-tmp"


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[IO[bytes]]:
    """A file open for writing that takes its name only when the block ends without an error.

    Until then it is a temporary file in the same folder, synced before it is renamed and removed on failure.

    Raises:
        OSError: as the system gives it (ENOSPC on a full disk); what stood at `path` before is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Writes a whole file so that either its old content or the new one is there; see `durable_file`.

    Raises:
        OSError: as the system gives it (ENOSPC on a full disk); what stood at `path` before is then untouched.
    """
    with durable_file(path) as file:
        file.write(data)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed run left in `folder`; only for the holder of the run's lock."""
    for path in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a file name is that of a temporary file of `write_durably`."""
    return name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX)


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable; some network file systems refuse to sync a folder and do not need it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no more can be written: disk, quota or file-size limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
