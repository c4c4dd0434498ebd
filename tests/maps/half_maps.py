"""Half maps with the noise of a reconstruction, made from a true map."""

import torch
from torch import Tensor


def shell_of(box: int) -> Tensor:
    f = torch.fft.fftfreq(box, 1 / box)
    return (f[:, None, None] ** 2 + f[None, :, None] ** 2 + torch.arange(box // 2 + 1) ** 2).sqrt()


def noisy_halves(truth: Tensor, shell: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two half maps whose unmasked FSC crosses 0.143 near `shell`: the noise of a reconstruction grows with |k|."""
    box = truth.shape[0]
    radius = shell_of(box)
    ring = (radius - shell).abs() < 1.0
    power = float(torch.fft.rfftn(truth)[ring].abs().square().mean())
    level = 6 * power / (1 + shell / 10)
    amplitude = (level * (1 + radius / 10)).sqrt() / box**1.5
    halves = []
    for _ in range(2):
        noise = torch.randn(box, box, box, generator=generator)
        halves.append(truth + torch.fft.irfftn(torch.fft.rfftn(noise) * amplitude, s=(box,) * 3))
    return halves[0], halves[1]
