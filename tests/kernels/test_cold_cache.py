"""The first run on a machine, which compiles the kernels, against later ones, which take them from the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import hashlib
import torch
from cryoloom.kernels.dispatch import grid_posterior

g = torch.Generator().manual_seed(1)
B, T, m = 300, 5, 500
cross, norm = 3 * torch.randn(4, B, T, m, generator=g), -torch.rand(2, B, m, generator=g)
out = grid_posterior(cross, norm, torch.randn(B, T, generator=g), torch.rand(B, generator=g), draws=32, best=4)
found = (out.picks, out.best, out.best_score, out.log_evidence)
print(hashlib.sha256(b"".join(x.numpy().tobytes() for x in found)).hexdigest())
"""


def test_compiled_and_cached_kernels_give_the_same_bits(tmp_path: Path) -> None:
    """Draws turn on the last bit of sums, which two compiled copies of a helper round differently."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "1"}
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert any(tmp_path.rglob("*.nbc"))
    assert found[0] == found[1]
