"""Power spectrum of the noise, measured on the pixels outside the particle.

The power of an image multiplied by a window is the true power convolved with that of the window. For a spectrum that
depends only on |k| this is a matrix over shells, which is inverted: the pseudo-spectrum method of Hivon et al.,
Astrophys. J. 567 (2002) 2 (MASTER), in the plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# number of images from which on smoothing over few neighbours reduces the error of a shell to 1 %
_PLENTY = 400
# shells below this are not smoothed: the spectrum may be steep there, and neighbours are missing on one side
_STEEP = 5


@dataclass(frozen=True, slots=True)
class WindowedSpectrum:
    """Estimator of E|n|^2 by shell from images of side D multiplied by `window` [D, D].

    Attributes:
        window: weights in [0, 1].
        shell: shell of each coefficient of rfft2, flattened; weight: its multiplicity in the full plane.
        mixing: expected windowed power by shell per unit of true power by shell, [C, C]; C shells reach the corners.
    """

    window: Tensor
    shell: Tensor
    weight: Tensor
    mixing: Tensor

    @staticmethod
    def create(window: Float[Tensor, "D D"]) -> WindowedSpectrum:
        """Estimator for one window; costs C transforms of one image."""
        box = window.shape[-1]
        fy, fx = torch.fft.fftfreq(box, 1 / box), torch.fft.rfftfreq(box, 1 / box)
        shell = torch.hypot(fy[:, None], fx[None]).round().long()
        weight = torch.full((box, box // 2 + 1), 2.0, dtype=torch.float64)
        weight[:, 0] = 1
        if box % 2 == 0:
            weight[:, -1] = 1
        count = int(shell.max()) + 1
        # convolution of each shell's indicator with |W|^2, by the correlation theorem; few shells at a time
        kernel = torch.fft.irfft2(torch.fft.rfft2(window.double()).abs().square(), s=(box, box)) / box**2
        total = torch.zeros(count, count, dtype=torch.float64)
        step = max(1, 4_000_000 // box**2)
        for first in range(0, count, step):
            chosen = torch.arange(first, min(first + step, count))
            indicators = (shell == chosen[:, None, None]).double()
            spread = torch.fft.rfft2(torch.fft.irfft2(indicators, s=(box, box)) * kernel).real * weight
            total[:, chosen] = total[:, chosen].index_add(0, shell.reshape(-1), spread.reshape(len(chosen), -1).T)
        per_shell = torch.zeros(count, dtype=torch.float64).index_add_(0, shell.reshape(-1), weight.reshape(-1))
        return WindowedSpectrum(window, shell.reshape(-1), weight.reshape(-1), total / per_shell[:, None])

    def power(self, images: Float[Tensor, "B D D"]) -> Float[Tensor, " C"]:
        """Mean windowed power of the images by shell, float64; may be averaged over batches before `unmix`."""
        spectrum = torch.fft.rfft2(images * self.window).abs().square().mean(0).reshape(-1).double()
        zero = torch.zeros(len(self.mixing), dtype=torch.float64)
        total = zero.index_add(0, self.shell, spectrum * self.weight)
        return total / zero.index_add(0, self.shell, self.weight)

    def unmix(self, power: Float[Tensor, " C"], images: int) -> Float[Tensor, " S"]:
        """E|n|^2 of the noise by shell 0 .. D // 2, from its windowed power measured on `images` images."""
        spectrum = power / self.mixing.sum(1)
        # multiplicative iterations keep all shells positive, unlike a matrix inverse; three converge to within 1 %
        for _ in range(3):
            spectrum = spectrum * power / (self.mixing @ spectrum)
        # the mean of the background was subtracted: shell 0 holds no noise
        spectrum[0] = spectrum[1]
        return _smooth(spectrum, images)[: self.window.shape[-1] // 2 + 1]


def _smooth(spectrum: Tensor, images: int) -> Tensor:
    """The spectrum smoothed by local parabolas in its logarithm, over 5 shells, or 9 if images are scarce."""
    out = _parabolas(spectrum, spectrum, reach=2, first=_STEEP)
    return out if images >= _PLENTY else _parabolas(spectrum, out, reach=4, first=2 * _STEEP)


def _parabolas(spectrum: Tensor, out: Tensor, reach: int, first: int) -> Tensor:
    """`out` with the shells from `first` on replaced by smoothed values of `spectrum`."""
    x = torch.arange(-reach, reach + 1, dtype=spectrum.dtype)
    # the value at 0 of the least-squares parabola is a fixed weighted sum of the neighbours (Savitzky and Golay 1964)
    weights = torch.linalg.pinv(torch.stack([torch.ones_like(x), x, x**2], -1))[0]
    smooth = spectrum.log().unfold(0, 2 * reach + 1, 1).matmul(weights).exp()  # index i is shell i + reach
    out = out.clone()
    out[first : len(spectrum) - reach] = smooth[first - reach :]
    return out
