"""Contrast transfer function: parameters and evaluation.

Source: Rohou & Grigorieff, J. Struct. Biol. 192 (2015) 216, eqs. 2-5; the sign and the B-factor follow RELION.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

Values = Tensor | npt.ArrayLike  # a number, or one for each image


@dataclass(frozen=True, slots=True)
class CTFParameters:
    """CTF of B images; every field is a tensor [B].

    Underfocus is positive. The astigmatism angle is the angle of the U axis, from x towards y. The B-factor damps
    amplitudes as exp(-B k^2 / 4) and `scale` multiplies them.
    """

    defocus_u_angstrom: Tensor
    defocus_v_angstrom: Tensor
    astigmatism_radian: Tensor
    phase_shift_radian: Tensor
    b_factor_angstrom2: Tensor
    voltage_kv: Tensor
    spherical_aberration_mm: Tensor
    amplitude_contrast: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.defocus_u_angstrom)

    def __getitem__(self, rows) -> CTFParameters:
        """The parameters of some rows (a slice, an index tensor or a mask)."""
        return CTFParameters(*(getattr(self, f.name)[rows] for f in fields(self)))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CTFParameters:
        """The same parameters on a device or in a dtype."""
        return CTFParameters(*(getattr(self, f.name).to(device=device, dtype=dtype) for f in fields(self)))

    @staticmethod
    def create(
        defocus_u_angstrom: Values,
        defocus_v_angstrom: Values | None = None,
        astigmatism_radian: Values = 0.0,
        phase_shift_radian: Values = 0.0,
        b_factor_angstrom2: Values = 0.0,
        voltage_kv: Values = 300.0,
        spherical_aberration_mm: Values = 2.7,
        amplitude_contrast: Values = 0.1,
        scale: Values = 1.0,
        dtype: torch.dtype = torch.float64,
    ) -> CTFParameters:
        """Parameters from numbers or arrays that broadcast to [B]."""
        v = defocus_u_angstrom if defocus_v_angstrom is None else defocus_v_angstrom
        values = (
            defocus_u_angstrom,
            v,
            astigmatism_radian,
            phase_shift_radian,
            b_factor_angstrom2,
            voltage_kv,
            spherical_aberration_mm,
            amplitude_contrast,
            scale,
        )
        # np.array copies: torch warns about read-only arrays, such as pandas columns
        tensors = (torch.as_tensor(x if isinstance(x, Tensor) else np.array(x), dtype=dtype) for x in values)
        return CTFParameters(*(t.clone() for t in torch.broadcast_tensors(*map(torch.atleast_1d, tensors))))


def electron_wavelength(voltage_kv: Tensor) -> Tensor:
    """Relativistic wavelength in angstrom of electrons accelerated through `voltage_kv` kilovolts."""
    volt = voltage_kv * 1e3
    return 12.2642598 / torch.sqrt(volt * (1 + 0.978475598e-6 * volt))


def evaluate_ctf(parameters: CTFParameters, k: Float[Tensor, "... P 2"]) -> Float[Tensor, "B P"]:
    """CTF at frequencies k in 1/angstrom, [P, 2] or [B, P, 2], in the image's frame.

    C = scale exp(-B k^2 / 4) sin(chi + asin w), chi = pi lambda Delta k^2 - (pi / 2) Cs lambda^3 k^4 + phase shift, so
    C = +w at k = 0 without a phase plate: white particles stay white. Evaluated in the dtype of the parameters.
    """
    p = parameters
    k = k.to(p.defocus_u_angstrom.dtype)

    def column(x: Tensor) -> Tensor:
        return x[:, None]

    wavelength = column(electron_wavelength(p.voltage_kv))
    kx, ky = k[..., 0], k[..., 1]
    k2 = kx**2 + ky**2
    # cos 2(theta - theta0) k^2 by double angles: no atan2, smooth at k = 0
    two = column(2 * p.astigmatism_radian)
    k2cos = (kx**2 - ky**2) * torch.cos(two) + 2 * kx * ky * torch.sin(two)
    mean = column((p.defocus_u_angstrom + p.defocus_v_angstrom) / 2)
    half = column((p.defocus_u_angstrom - p.defocus_v_angstrom) / 2)
    cs = column(p.spherical_aberration_mm * 1e7)
    chi = math.pi * wavelength * (mean * k2 + half * k2cos) - 0.5 * math.pi * cs * wavelength**3 * k2**2
    chi = chi + column(p.phase_shift_radian + torch.asin(p.amplitude_contrast))
    return column(p.scale) * torch.exp(-0.25 * column(p.b_factor_angstrom2) * k2) * torch.sin(chi)
