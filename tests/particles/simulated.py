"""Particles of a known cloud of Gaussians under known optics and noise, made from the reference physics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.fourier import ifft2
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.noise import sample_noise
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import random_rotations

from .files import mrc_bytes

BOX = 64
PIXEL_SIZE = 3.0
RADIUS = 50.0  # angstrom, of the sphere that holds the Gaussians' centres
WIDTH = 4.0  # angstrom, their s.d.


@dataclass(frozen=True)
class Simulation:
    """Images in parts, so that a test can put them together in its own way.

    Attributes:
        clean: transforms of the projections on `disc`, shifted, without CTF, scaled to s.d. 1 per image, [N, P].
        ctf: values of the CTF there, [N, P]; parameters: of it.
        disc: all frequencies below Nyquist.
    """

    clean: Tensor
    ctf: Tensor
    parameters: CTFParameters
    disc: FourierDisc

    def images(self, factor: Tensor) -> Tensor:
        """Signal images [N, D, D] with the clean transforms multiplied by `factor` [N, P]."""
        return ifft2(self.disc.scatter((self.clean * factor).to(torch.complex64))).real


def simulate(
    count: int,
    generator: torch.Generator,
    shift_pixels: float = 1.5,
    width: float = WIDTH,
    cloud: GaussianCloud | None = None,
) -> Simulation:
    """A cloud, by default a random one, seen from random directions at a defocus of 0.8 to 2.0 um."""
    cloud = GaussianCloud.random(25, RADIUS, width, generator) if cloud is None else cloud
    disc = FourierDisc.create(BOX, PIXEL_SIZE, dtype=torch.float64)
    R = random_rotations(count, generator)
    points = torch.einsum("bij,pj->bpi", R[:, :, :2], disc.k)
    t = torch.randn(count, 2, generator=generator, dtype=torch.float64) * shift_pixels * PIXEL_SIZE
    clean = cloud.transform(points) * shift_ramp(disc.k, t)
    power = (clean[:, 1:].abs().square() * disc.weight[1:]).sum(-1) / BOX**4
    defocus = 8000 + 12000 * torch.rand(count, generator=generator, dtype=torch.float64)
    parameters = CTFParameters.create(defocus)
    ctf = evaluate_ctf(parameters, disc.k)
    return Simulation(clean / power.sqrt()[:, None], ctf, parameters, disc)


def noise(count: int, colour: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise images [N, D, D] of s.d. 1 with power ~ 1 + colour exp(-(k / 0.1 Nyquist)^2), and E|n|^2 by shell."""
    shell = torch.arange(BOX)
    spectrum = 1 + colour * torch.exp(-((shell / (0.1 * BOX / 2)) ** 2))
    f = torch.fft.fftfreq(BOX, 1 / BOX)
    plane = spectrum[torch.hypot(f[:, None], f[None]).round().long()]
    spectrum = spectrum / plane.mean() * BOX**2
    return sample_noise(spectrum, count, BOX, generator), spectrum[: BOX // 2 + 1]


def write(folder: Path, images: Tensor, parameters: CTFParameters, extra: str = "", groups: int = 1) -> Path:
    """STAR file and stack; `extra` is a particle column whose value is 1 for all; groups alternate."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stack.mrcs").write_bytes(mrc_bytes(images.numpy().astype(np.float32), pixel_size=PIXEL_SIZE))
    text = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
    text += "_rlnImagePixelSize\n" + "".join(f"{g + 1} 300 2.7 0.1 {PIXEL_SIZE}\n" for g in range(groups))
    columns = ["rlnImageName", "rlnDefocusU", "rlnDefocusV", "rlnOpticsGroup", *([extra] if extra else [])]
    text += "\ndata_particles\nloop_\n" + "".join(f"_{c}\n" for c in columns)
    for i, defocus in enumerate(parameters.defocus_u_angstrom.tolist()):
        text += f"{i + 1}@stack.mrcs {defocus:.6f} {defocus:.6f} {i % groups + 1}{' 1' if extra else ''}\n"
    (folder / "particles.star").write_text(text)
    return folder / "particles.star"
