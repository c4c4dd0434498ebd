"""PositionalMLP: cryoDRGN's decoder (Zhong et al. 2021), a network of encoded frequencies and latent coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.mask import radius_grid
from cryoloom.physics.fourier import fft3, ifft3
from cryoloom.physics.slicing import PADDING
from cryoloom.volumes.interface import ConformationVolume, in_other_half, read_out
from cryoloom.volumes.voxel_grid import interpolate_half

Frequencies = Literal["gaussian", "geometric"]


class PositionalEncoding(nn.Module):
    """Sines and cosines of a frequency k: each is a plane wave, the transform of a pair of points at +-x in the box."""

    waves: Tensor

    def __init__(self, box: int, kind: Frequencies, reach_px: float) -> None:
        """Args:
        kind: "geometric", for each coordinate k_j the waves k_j D pi (2/D)^(i/(D/2 - 1)), i = 0 .. D/2 - 1, k in
            cycles/pixel (Zhong et al. 2021, eq. 5); "gaussian", as many waves, with x drawn from a normal distribution.
        reach_px: standard deviation of x along each axis, pixels (cryoDRGN: a quarter of the box).
        """
        super().__init__()
        half = box // 2
        if kind == "geometric":
            part = torch.arange(half) / max(1, half - 1)
            waves = torch.kron(half * math.pi * (2 / box) ** part[:, None], torch.eye(3))
        else:
            waves = torch.randn(3 * half, 3) * reach_px * math.pi
        self.register_buffer("waves", waves.T.contiguous())

    @property
    def features(self) -> int:
        """Number of features of a frequency."""
        return 2 * self.waves.shape[1]

    def forward(self, q: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b F"]:
        """Features of frequencies in units of Nyquist, q = 2 k pixel_size."""
        phase = q @ self.waves
        return torch.cat([torch.sin(phase), torch.cos(phase)], -1)


class PositionalMLP(ConformationVolume):
    """V(k, z) = mean(k) + spectrum(|k|) f(pe(k), z) on the half-space, completed by V(-k) = conj V(k).

    f is a residual network of `layers` blocks of `width`. The mean is a fixed map and not learnt, so that an untrained
    network already predicts images and its first gradients come from the differences between them.
    """

    mean_grid: Tensor
    mean: Tensor
    spectrum: Tensor

    def __init__(
        self,
        box: int,
        pixel_size: float,
        latent: int,
        mean: Float[Tensor, "D D D"],
        spectrum: Float[Tensor, " S"],
        width: int = 128,
        layers: int = 3,
        frequencies: Frequencies = "gaussian",
        reach_px: float | None = None,
    ) -> None:
        """Args:
        mean: map of `box` voxels on the scale of the images (zeros: everything is learnt).
        spectrum: scale of the learnt part by shell in Fourier pixels; beyond its last shell the learnt part is 0.
        reach_px: standard deviation of x in the encoding, pixels (a quarter of the box if None).
        """
        super().__init__(box, pixel_size, latent)
        reach_px = box / 4 if reach_px is None else reach_px
        self._described: dict[str, float | str] = {
            "box": box,
            "pixel_size": pixel_size,
            "latent": latent,
            "width": width,
            "layers": layers,
            "frequencies": frequencies,
            "reach_px": reach_px,
        }
        self.encoding = PositionalEncoding(box, frequencies, reach_px)
        self.first = nn.Linear(self.encoding.features, width)
        self.conformation = nn.Linear(latent, width, bias=False)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.last = nn.Linear(width, 2)
        self.register_buffer("spectrum", spectrum.float())
        # these are given, not learnt: they stay out of checkpoints
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("mean_grid", torch.view_as_real(volume_to_half(mean)), persistent=False)

    @property
    def described(self) -> dict[str, float | str]:
        """See `ConformationVolume.described`."""
        return dict(self._described)

    def tensors(self) -> dict[str, Tensor]:
        """See `ConformationVolume.tensors`."""
        return {**self.state_dict(), "mean": self.mean}

    @classmethod
    def of_file(cls, described: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """See `ConformationVolume.of_file`."""
        d = described
        volume = cls(
            int(d["box"]),
            float(d["pixel_size"]),
            int(d["latent"]),
            mean=tensors["mean"],
            spectrum=tensors["spectrum"],
            width=int(d["width"]),
            layers=int(d["layers"]),
            frequencies=d["frequencies"],
            reach_px=float(d["reach_px"]),
        )
        volume.load_state_dict({name: value for name, value in tensors.items() if name != "mean"})
        return volume

    def slices(self, k: Float[Tensor, "B P 3"], z: Float[Tensor, "B Z"]) -> Complex[Tensor, "B P"]:
        """See `ConformationVolume.slices`."""
        return self.mean_slices(k) + self.deviations(k, z)

    def mean_slices(self, k: Float[Tensor, "*b P 3"]) -> Complex[Tensor, "*b P"]:
        """Fourier coefficients of the mean volume alone."""
        return interpolate_half(torch.view_as_complex(self.mean_grid), k * (self.box * self.pixel_size * PADDING))

    def deviations(self, k: Float[Tensor, "B P 3"], z: Float[Tensor, "B Z"]) -> Complex[Tensor, "B P"]:
        """Fourier coefficients of the deviations of the conformations from the mean."""
        q = 2 * self.pixel_size * k
        x, y, w = q.unbind(-1)
        sign = torch.where(in_other_half(x, y, w), -1.0, 1.0).to(q.dtype)
        h = self.first(self.encoding(q * sign[..., None])) + self.conformation(z)[:, None]
        for block in self.blocks:
            h = functional.relu(h)
            h = h + block(h)
        real, imaginary = (self.last(functional.relu(h)) * self._unit(q)[..., None]).unbind(-1)
        at_origin = (q == 0).all(-1)
        return torch.complex(real, torch.where(at_origin, torch.zeros_like(real), imaginary * sign))

    def _unit(self, q: Tensor) -> Tensor:
        """The spectrum, interpolated between shells; zero beyond the last one."""
        shell = q.norm(dim=-1) * (self.box / 2)
        padded = functional.pad(self.spectrum, (0, 2))
        low = shell.detach().floor().long().clamp(max=len(self.spectrum))
        return torch.lerp(padded[low], padded[low + 1], (shell - low).clamp(0, 1))

    @torch.no_grad()
    def density_map(self, z: Float[Tensor, " Z"], radius: float) -> Float[Tensor, "D D D"]:
        """See `ConformationVolume.density_map`."""
        within = radius_grid(self.box, device=z.device) <= min(radius, (self.box - 1) // 2)
        mean = ifft3(torch.where(within, fft3(self.mean), 0)).real
        reach = min(radius, len(self.spectrum))
        return mean + read_out(
            lambda k: self.deviations(k[None], z[None])[0], self.box, self.pixel_size, reach, z.device
        )
