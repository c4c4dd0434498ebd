"""Images of a simulated set, computed batch by batch: clean projections, optics, contrast, junk and noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.maps.io import DensityMap
from cryoloom.physics.noise import sample_noise
from cryoloom.simulation.output import PixelSums
from cryoloom.simulation.projector import Projector, apply_optics, image_variance
from cryoloom.simulation.truth import SimulationSettings, Truth

SNR_SAMPLE = 2000  # images from which the variance of the signal is measured before noise is added
_BATCH_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 25}
_JUNK_SMOOTHNESS, _JUNK_SIZE = 0.2, 0.2  # low-pass over Nyquist, s.d. of the blob over the box


class ImageSource:
    """Images of a set in batches of one state each, so that one padded transform is in memory at a time."""

    def __init__(
        self, states: tuple[DensityMap, ...], truth: Truth, settings: SimulationSettings, device: torch.device
    ) -> None:
        self.states, self.truth, self.settings, self.device = states, truth, settings, device
        self.box, self.pixel_size = states[0].data.shape[-1], states[0].pixel_size
        if device.type not in _BATCH_PIXELS:
            raise ValueError(f"device {device}; expected one of {', '.join(_BATCH_PIXELS)}")
        self.batch = max(1, _BATCH_PIXELS[device.type] // self.box**2)
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        self._projector: tuple[int, Projector] | None = None
        self.molecules = truth.state > 0
        self.signal = self._mean_signal()
        if self.molecules.any() and self.signal <= 0:
            raise ValueError("the clean images have no variance: the states' maps are empty or constant; check them")
        self.scale = float(np.sqrt(settings.snr / self.signal)) if self.signal else 0.0
        self._power = 0.0

    @property
    def measured_snr(self) -> float:
        """Mean variance of the signal of molecules in units of the noise, over the batches so far."""
        return self._power / max(1, int(self.molecules.sum()))

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, PixelSums]]:
        """(rows, images [B, D, D], their sums) of the whole set, state by state, junk last."""
        for state in (*range(1, len(self.states) + 1), 0):
            for rows in self._rows_of(np.flatnonzero(self.truth.state == state)):
                images = self._noise(len(rows))
                if not self.settings.noise_only:
                    projector = self.projector(max(state, 1))
                    coefficients = self._clean(rows, projector) if state else self._junk(rows, projector)
                    contrast = torch.from_numpy(self.truth.contrast[rows]).to(self.device, torch.float32)
                    coefficients = coefficients * (self.scale * contrast)[:, None]
                    if state:
                        self._power += float(image_variance(coefficients, projector.disc).sum())
                    images += projector.images(coefficients)
                sums = PixelSums.of(images)
                yield rows, images.to(getattr(torch, self.settings.dtype)).cpu().numpy(), sums

    def projector(self, state: int) -> Projector:
        """Projector of a state (from 1); the last one is kept in memory."""
        if self._projector is None or self._projector[0] != state:
            self._projector = None  # frees the old transform before the new one is made
            self._projector = state, Projector(self.states[state - 1].data.to(self.device), self.pixel_size)
        return self._projector[1]

    def _rows_of(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.split(rows, range(self.batch, len(rows), self.batch)) if len(rows) else []

    def _mean_signal(self) -> float:
        """Mean variance of the unscaled clean images of molecules, sampled evenly from the set."""
        rows = np.flatnonzero(self.molecules)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, SNR_SAMPLE).round().astype(int))] if len(rows) else rows
        total = 0.0
        for state in range(len(self.states), 0, -1):  # ends with the state whose images come first
            for part in self._rows_of(rows[self.truth.state[rows] == state]):
                projector = self.projector(state)
                total += float(image_variance(self._clean(part, projector), projector.disc).sum())
        return total / max(1, len(rows))

    def _optics(self, rows: np.ndarray, values: Tensor, projector: Projector) -> Tensor:
        t = torch.from_numpy(self.truth.t_angstrom[rows]).to(self.device, torch.float32)
        ctf = self.truth.ctf[torch.from_numpy(rows)].to(self.device, torch.float32)
        return apply_optics(values, t, ctf, projector.disc)

    def _clean(self, rows: np.ndarray, projector: Projector) -> Complex[Tensor, "B P"]:
        R = self.truth.rotations(rows).to(self.device, torch.float32)
        return self._optics(rows, projector.slices(R), projector)

    def _junk(self, rows: np.ndarray, projector: Projector) -> Complex[Tensor, "B P"]:
        """Smooth random blobs imaged with the same optics, each with the mean signal of a molecule."""
        blobs = _smooth_blobs(len(rows), self.box, self.generator)
        values = self._optics(rows, projector.disc.transform(blobs), projector)
        strength = torch.sqrt(self.signal / image_variance(values, projector.disc).clamp(min=1e-30))
        return values * strength.to(torch.float32)[:, None]

    def _noise(self, count: int) -> Float[Tensor, "count D D"]:
        if self.settings.noise_colour == 0:
            return torch.randn(count, self.box, self.box, generator=self.generator, device=self.device)
        spectrum = noise_spectrum(self.box, self.settings.noise_colour).to(self.device, torch.float32)
        return sample_noise(spectrum, count, self.box, self.generator)


def noise_spectrum(box: int, colour: float) -> Float[Tensor, " S"]:
    """E|n|^2 by shell of noise with pixel variance 1 and power 1 + colour exp(-(k / 0.1 Nyquist)^2), float64."""
    f = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64)
    shell = torch.hypot(f[:, None], f[None]).round().long()
    radius = torch.arange(int(shell.max()) + 1, dtype=torch.float64) / (box / 2)
    power = 1 + colour * torch.exp(-((radius / 0.1) ** 2))
    return power / power[shell].mean() * box**2


def _smooth_blobs(count: int, box: int, generator: torch.Generator) -> Float[Tensor, "count D D"]:
    device = generator.device
    white = torch.randn(count, box, box, generator=generator, device=device)
    x = torch.arange(box, device=device) - box // 2
    envelope = torch.exp(-0.5 * (x / (_JUNK_SIZE * box)) ** 2)
    fy, fx = torch.fft.fftfreq(box, 0.5, device=device), torch.fft.rfftfreq(box, 0.5, device=device)
    smooth = torch.exp(-0.5 * (fy[:, None] ** 2 + fx[None] ** 2) / _JUNK_SMOOTHNESS**2)
    return torch.fft.irfft2(torch.fft.rfft2(white) * smooth, s=(box, box)) * envelope[:, None] * envelope[None]
