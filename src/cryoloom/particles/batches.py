"""Batches of normalised Fourier coefficients: the only form in which inference sees images."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex, Int
from torch import Tensor

from cryoloom.particles.background import Background
from cryoloom.particles.coefficients import CoefficientReader
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.particles.preprocess import Preprocessing, read_normalised
from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.noise import spread_shells

# pixels are read and transformed in chunks of this size, so that a large batch needs no second copy of itself
_CHUNK_BYTES = 8 << 20
# coefficients are rounded to 0.17 % (r.m.s.): three millionths of the power, far below the noise of any image
KEPT_AS, COEFFICIENT_BYTES = torch.bfloat16, 4


@dataclass(frozen=True, slots=True)
class ParticleBatch:
    """B images as inference sees them.

    Attributes:
        rows: rows of the particle set, int64 [B].
        observed: normalised coefficients on the disc, complex64 [B, P].
        ctf: CTF parameters [B], float64.
        group: optics group [B], int64.
    """

    rows: np.ndarray
    observed: Complex[Tensor, "B P"]
    ctf: CTFParameters
    group: Int[Tensor, " B"]


class ParticleSource:
    """Reads, normalises and transforms images, and remembers the coefficients while they fit.

    Images have a background of mean 0, slope 0 and s.d. 1 (`Background`), and white particles; the noise of filtered
    images is made white (`Preprocessing.whitening`). Phase flipping is undone, which does not change the noise
    spectrum; premultiplied images stay premultiplied (`ParticleSet.ctf_premultiplied`).

    The coefficients of an image depend only on its pixels and the preprocessing: the same row gives the same bits in
    any batch, cached or not, all rounded to bfloat16. Memory is bounded by the cache (`cache_bytes`; 4 P bytes per
    image; images are kept in order of first use until it is full and are never evicted), the batch returned (8 P bytes
    per image) and about 40 MB of buffers for reading. The disc may be smaller than the working box allows. Threads may
    call `batch` concurrently.
    """

    def __init__(
        self, particles: ParticleSet, preprocessing: Preprocessing, disc: FourierDisc, cache_bytes: int
    ) -> None:
        if disc.box != preprocessing.box:
            raise ValueError(f"disc of box {disc.box} for a preprocessing of box {preprocessing.box}: they must agree")
        self.particles = particles
        self.preprocessing = preprocessing
        self.disc = disc
        self._reader = CoefficientReader.create(disc, particles.box)
        self._background = Background.create(
            particles.box, preprocessing.particle_diameter_angstrom / particles.pixel_size
        )
        self._group = torch.from_numpy(particles.group)
        white = preprocessing.whitening
        self._whitening = None if white is None else spread_shells(white, disc)
        room = min(len(particles), max(0, cache_bytes) // (COEFFICIENT_BYTES * len(disc.index)))
        self._cache = torch.empty(room, len(disc.index), 2, dtype=KEPT_AS)
        self._slot = np.full(len(particles), -1, dtype=np.int64)
        self._filled = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def holds_all(self) -> bool:
        """Whether each image is read from its file only once."""
        return len(self._cache) == len(self.particles)

    def batch(self, rows: np.ndarray, points: int | None = None) -> ParticleBatch:
        """The images of some rows, in the order asked for.

        Args:
            points: only so many coefficients, those of lowest frequency; all if left out.

        Raises:
            BadInput: if a stack is gone or changed, or an image can't be normalised (with its row).
        """
        rows = np.asarray(rows, dtype=np.int64)
        index = torch.from_numpy(rows)
        P = len(self.disc.index) if points is None else points
        observed = torch.empty(len(rows), P, 2)
        slot = self._slot[rows]
        known = np.flatnonzero(slot >= 0)
        if len(known) == len(rows):
            observed.copy_(self._cache[:, :P].index_select(0, torch.from_numpy(slot)))
        else:
            observed[torch.from_numpy(known)] = self._cache[torch.from_numpy(slot[known]), :P].float()
            self._compute(rows, np.flatnonzero(slot < 0), observed)
        return ParticleBatch(rows, torch.view_as_complex(observed), self.particles.ctf[index], self._group[index])

    def only(self, rows: np.ndarray) -> SomeOfASource:
        """Some of the images, numbered anew in the order given."""
        return SomeOfASource(self, rows)

    def _compute(self, rows: np.ndarray, wanted: np.ndarray, observed: Tensor) -> None:
        step = max(1, _CHUNK_BYTES // (4 * self.particles.box**2))
        for start in range(0, len(wanted), step):
            places = wanted[start : start + step]
            rounded = torch.view_as_real(self._coefficients(rows[places])).to(KEPT_AS)
            observed[torch.from_numpy(places)] = rounded[:, : observed.shape[1]].float()
            self._remember(rows[places], rounded)

    def _coefficients(self, rows: np.ndarray) -> Complex[Tensor, "B P"]:
        images = read_normalised(self.particles, rows, self._background, self.preprocessing.outlier_sigma)
        coefficients = self._reader(images)
        if self._whitening is not None:
            coefficients.mul_(self._whitening[self._group[torch.from_numpy(rows)]])
        if self.particles.phase_flipped:
            ctf = evaluate_ctf(self.particles.ctf[torch.from_numpy(rows)], self.disc.k.double())
            coefficients.mul_(torch.where(ctf < 0, -1.0, 1.0))
        return coefficients if self.preprocessing.contrast_sign > 0 else coefficients.neg_()

    def _remember(self, rows: np.ndarray, coefficients: Tensor) -> None:
        if self._filled == len(self._cache):
            return
        with self._lock:
            _, first = np.unique(rows, return_index=True)
            new = np.sort(first[self._slot[rows[first]] < 0])[: len(self._cache) - self._filled]
            slots = np.arange(self._filled, self._filled + len(new))
            self._cache[torch.from_numpy(slots)] = coefficients[torch.from_numpy(new)]
            # slots are published after their values are written, since readers take no lock
            self._slot[rows[new]] = slots
            self._filled += len(new)


class SomeOfASource:
    """Some images of a source, numbered anew, with the preprocessing and the cache of all.

    Attributes:
        particles: these images alone; preprocessing, disc: those of the source.
    """

    def __init__(self, source: ParticleSource, rows: np.ndarray) -> None:
        """`rows`: which images of the source, in the order of their new numbers."""
        self._source, self._rows = source, np.asarray(rows, dtype=np.int64)
        self.particles = source.particles.take(self._rows)
        self.preprocessing, self.disc = source.preprocessing, source.disc

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def holds_all(self) -> bool:
        """As `ParticleSource.holds_all`."""
        return self._source.holds_all

    def batch(self, rows: np.ndarray, points: int | None = None) -> ParticleBatch:
        """As `ParticleSource.batch`."""
        return replace(self._source.batch(self._rows[rows], points), rows=np.asarray(rows, dtype=np.int64))

    def only(self, rows: np.ndarray) -> SomeOfASource:
        """Some of these images, numbered anew in the order given."""
        return SomeOfASource(self._source, self._rows[rows])
