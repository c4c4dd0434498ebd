"""FourierNet: a network that represents the Fourier transform of a volume (Levy et al. 2022, cryoAI, section 3.3)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cryoloom.volumes.interface import Volume, in_other_half


class Siren(nn.Module):
    """Fully connected layers with sines between them (Sitzmann et al. 2020).

    The first layer is a set of plane waves: weights 2 pi x with x drawn in a ball of `reach` (in units that make k x
    dimensionless), so that the untrained network varies as fast as the transform of a particle of that radius, and no
    faster.
    """

    def __init__(self, reach: float, width: int, hidden: int, outputs: int, w0: float) -> None:
        super().__init__()
        self.w0 = w0
        self.first = nn.Linear(3, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(hidden))
        self.last = nn.Linear(width, outputs)
        bound = math.sqrt(6 / width) / w0
        with torch.no_grad():
            x = torch.randn(width, 3)
            x = x / x.norm(dim=1, keepdim=True) * torch.rand(width, 1) ** (1 / 3) * reach
            self.first.weight.copy_(2 * math.pi * x / w0)
            self.first.bias.uniform_(-math.pi / w0, math.pi / w0)
            for layer in (*self.hidden, self.last):
                for parameter in layer.parameters():
                    nn.init.uniform_(parameter, -bound, bound)

    def forward(self, k: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b out"]:
        """Values at points k."""
        h = torch.sin(self.w0 * self.first(k))
        for layer in self.hidden:
            h = torch.sin(self.w0 * layer(h))
        return self.last(h)


class FourierNet(Volume):
    """V(k) = exp(a(k)) p(k) on the half-space, completed by V(-k) = conj V(k).

    Fourier amplitudes span orders of magnitude, which a single SIREN fits badly: one network gives their logarithm a
    (added to a fixed spectrum by shell), a second one the phase factor p, a complex number of about unit modulus.
    """

    log_spectrum: Tensor

    def __init__(
        self,
        box: int,
        pixel_size: float,
        amplitude: Float[Tensor, " S"] | None = None,
        radius_angstrom: float | None = None,
        width: int = 256,
        hidden: int = 2,
        w0: float = 30.0,
    ) -> None:
        """Args:
        amplitude: initial |V| by shell in Fourier pixels (1 if None).
        radius_angstrom: radius of the particle (0.4 box sides if None).
        """
        super().__init__(box, pixel_size)
        side = box * pixel_size
        # frequencies enter as 2 k pixel_size, in [-1, 1]
        reach = (0.4 * side if radius_angstrom is None else radius_angstrom) / (2 * pixel_size)
        self.amplitude = Siren(reach, width, hidden, 1, w0)
        self.phase = Siren(reach, width, hidden, 2, w0)
        spectrum = torch.ones(box // 2 + 1) if amplitude is None else amplitude.float()
        self.register_buffer("log_spectrum", spectrum.clamp(min=1e-6 * float(spectrum.max())).log())

    def slices(self, k: Float[Tensor, "*b P 3"]) -> Complex[Tensor, "*b P"]:
        """See `Volume.slices`."""
        q = 2 * self.pixel_size * k
        x, y, z = q.unbind(-1)
        sign = torch.where(in_other_half(x, y, z), -1.0, 1.0).to(q.dtype)
        q = q * sign[..., None]
        level = self.amplitude(q)[..., 0] + self._spectrum_at(q)
        real, imaginary = self.phase(q).unbind(-1)
        size = torch.exp(level)
        at_origin = (x == 0) & (y == 0) & (z == 0)
        imaginary = torch.where(at_origin, torch.zeros_like(imaginary), imaginary * sign)
        return torch.complex(size * real, size * imaginary)

    def _spectrum_at(self, q: Tensor) -> Tensor:
        """The fixed log spectrum, interpolated between shells."""
        shell = q.norm(dim=-1) * (self.box / 2)
        low = shell.detach().floor().long().clamp(max=len(self.log_spectrum) - 2)
        part = (shell - low).clamp(0, 1).to(self.log_spectrum)
        return torch.lerp(self.log_spectrum[low], self.log_spectrum[low + 1], part)
