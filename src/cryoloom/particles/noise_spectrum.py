"""The noise's power spectrum from the pixels outside the particle.

A window multiplies the image, so its power is the true power convolved with the window's. For a spectrum that depends
on |k| alone that is one matrix over shells, which is inverted: the pseudo-spectrum method of Hivon et al., Astrophys.
J. 567 (2002) 2 (MASTER), on the plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class WindowedSpectrum:
    """Estimator of E|n|^2 by shell from images of side D multiplied by `window` [D, D].

    Attributes:
        window: weights in [0, 1].
        shell: of each coefficient of rfft2, flattened; weight: its multiplicity in the full plane.
        mixing: expected windowed power by shell per unit of true power by shell, [C, C]; C shells reach the corners.
    """

    window: Tensor
    shell: Tensor
    weight: Tensor
    mixing: Tensor

    @staticmethod
    def create(window: Float[Tensor, "D D"]) -> WindowedSpectrum:
        """For one window; costs C transforms of one image."""
        box = window.shape[-1]
        fy, fx = torch.fft.fftfreq(box, 1 / box), torch.fft.rfftfreq(box, 1 / box)
        shell = torch.hypot(fy[:, None], fx[None]).round().long()
        weight = torch.full((box, box // 2 + 1), 2.0, dtype=torch.float64)
        weight[:, 0] = 1
        if box % 2 == 0:
            weight[:, -1] = 1
        count = int(shell.max()) + 1
        # convolution of each shell's indicator with |W|^2, by the correlation theorem
        kernel = torch.fft.irfft2(torch.fft.rfft2(window.double()).abs().square(), s=(box, box)) / box**2
        indicators = torch.nn.functional.one_hot(shell, count).double().permute(2, 0, 1)
        spread = torch.fft.rfft2(torch.fft.irfft2(indicators, s=(box, box)) * kernel).real
        total = torch.zeros(count, count, dtype=torch.float64)
        total.index_add_(0, shell.reshape(-1), (spread * weight).reshape(count, -1).T.contiguous())
        per_shell = torch.zeros(count, dtype=torch.float64).index_add_(0, shell.reshape(-1), weight.reshape(-1))
        return WindowedSpectrum(window, shell.reshape(-1), weight.reshape(-1), total / per_shell[:, None])

    def power(self, images: Float[Tensor, "B D D"]) -> Float[Tensor, " C"]:
        """Windowed power by shell, mean over the images, float64; averages of several batches may be mixed."""
        spectrum = torch.fft.rfft2(images * self.window).abs().square().mean(0).reshape(-1).double()
        zero = torch.zeros(len(self.mixing), dtype=torch.float64)
        total = zero.index_add(0, self.shell, spectrum * self.weight)
        return total / zero.index_add(0, self.shell, self.weight)

    def unmix(self, power: Float[Tensor, " C"], images: int) -> Float[Tensor, " S"]:
        """E|n|^2 by shell 0 .. D // 2 of the noise whose windowed power was measured on so many images.

        Shells are smoothed over as many neighbours as few images demand; the lowest are the steepest and are left.
        """
        spectrum = torch.linalg.solve(self.mixing, power)
        # the background's mean was subtracted: shell 0 holds nothing of the noise
        spectrum[0] = spectrum[1]
        floor = 1e-3 * power[1:].median() / self.mixing.sum(1).median()
        return _smooth(spectrum.clamp(min=floor), images)[: self.window.shape[-1] // 2 + 1]


def _smooth(spectrum: Tensor, images: int) -> Tensor:
    """Geometric mean over +-w shells; w grows with the shell and with scarcity of images and is 0 for the first five."""
    out, log = spectrum.clone(), spectrum.log()
    n = len(spectrum)
    for s in range(n):
        width = min(s // 5, 1 + 300 // max(images, 1)) if s >= 5 else 0
        low, high = max(1, s - width), min(n, s + width + 1)
        if width:
            out[s] = log[low:high].mean().exp()
    return out
