"""Fixtures shared by all rooms' tests, the environment they run in, and checks of shapes in the reference physics."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# What is compiled is compiled once, for this process and for all programs that tests start. Python, told to write no
# bytecode beside its sources, as in many containers, would compile all libraries anew for each of them.
CACHE = ROOT / ".pytest_cache"
if sys.dont_write_bytecode:
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(CACHE / "bytecode")
    os.environ["PYTHONDONTWRITEBYTECODE"], os.environ["PYTHONPYCACHEPREFIX"] = "", sys.pycache_prefix
os.environ.setdefault("NUMBA_CACHE_DIR", str(CACHE / "kernels"))
# As the program does for itself: threads that wait must sleep. Arrays are too small here for more threads than one.
for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}.items():
    os.environ.setdefault(name, value)

import pytest  # noqa: E402
import torch  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Shapes and types of the physics' annotations are checked at each call, in tests only; this must come before the first
# import of the package. The other rooms are left alone: numba cannot compile decorated kernels.
install_import_hook(
    "cryoloom.physics", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)  # the numeric tower lets an int stand where a float is asked for

# shells start background jobs with Ctrl-C ignored, and children inherit that: tests of Ctrl-C must not depend on it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _threads_of_numba():
    """Commands that are called within this process must not announce other threads than numba has begun with: it
    refuses to compile from then on. Programs of their own are free."""
    patch = pytest.MonkeyPatch()
    if importlib.util.find_spec("cryoloom.environment") is not None:  # the rooms that bugs are planted in stand alone
        patch.setattr("cryoloom.environment._THREAD_VARIABLES", ())
    yield
    patch.undo()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real files by other programs; tests that need it are skipped where it is absent."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip("real data folder ../shared/data is absent")
    return data


@pytest.fixture
def generator() -> torch.Generator:
    """A torch generator with a fixed seed."""
    return torch.Generator().manual_seed(20261120)
