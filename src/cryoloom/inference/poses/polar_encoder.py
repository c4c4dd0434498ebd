"""Pose encoder that is equivariant to in-plane rotation by construction: rotating the image rotates the pose.

The image is sampled on rings around its centre, so that an in-plane rotation is a cyclic shift along the rings, which
circular convolutions preserve. The output has one logit for each in-plane angle and viewing direction, together a
distribution over a grid of SO(3). In-plane angles, which take most of the training of an ordinary network, need not be
learnt, and a distribution over cells can represent several hypotheses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import roma
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cryoloom.inference.poses.encoder import PoseEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import Images
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.noise import spread_shells
from cryoloom.physics.rotations import exponential, from_euler, geodesic_degrees, grid_spacing_degrees, view_grid

KERNEL_DEGREES = 8.0  # width of the target around the true rotation: half a cell
CELLS = 24  # best cells of an image from which distinct candidates are taken
APART = 1.3  # least distance between distinct candidates, in cells


class PolarEncoder(PoseEncoder):
    """Rings -> circular convolutions -> logits over views x angles, offsets within the cell, shifts."""

    equivariant = True

    views: Tensor
    angles: Tensor
    signal: Tensor
    basis: Tensor

    def __init__(
        self,
        disc: FourierDisc,
        diameter_angstrom: float,
        signal: Float[Tensor, " S"],
        shift_sigma_angstrom: float,
        candidates: int = 8,
        nside: int = 4,
        rings: int = 16,
        angles: int = 48,
        channels: int = 128,
        layers: int = 4,
        offsets: int = 64,
    ) -> None:
        """Args:
        disc: frequencies that the network reads.
        signal: E|V|^2 by shell, by which images are Wiener-filtered and whitened.
        shift_sigma_angstrom: standard deviation of the shifts, the unit in which the network predicts them.
        nside: HEALPix nside of the grid of views (4: 192 views, 15 degrees apart).
        """
        super().__init__(disc.radius)
        self.described = {
            "box": disc.box,
            "pixel_size": disc.pixel_size,
            "radius": disc.radius,
            "diameter_angstrom": diameter_angstrom,
            "shells": len(signal),
            "shift_sigma_angstrom": shift_sigma_angstrom,
            "candidates": candidates,
            "nside": nside,
            "rings": rings,
            "angles": angles,
            "channels": channels,
            "layers": layers,
            "offsets": offsets,
        }
        self.candidates = candidates
        self.nside = nside
        self.sigma = shift_sigma_angstrom
        # rotating an image by an angle decreases psi by that angle
        self.register_buffer("angles", -2 * math.pi * torch.arange(angles) / angles)
        grid = view_grid(nside)
        self.register_buffer("views", from_euler(torch.cat([grid, torch.zeros_like(grid[:, :1])], 1)).float())
        self.register_buffer("basis", _ring_basis(disc, 0.55 * diameter_angstrom, rings, angles), persistent=False)
        self.register_buffer("signal", signal.float())
        V = len(grid)
        self.first = nn.Conv1d(rings, channels, 5, padding=2, padding_mode="circular")
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, channels, 5, padding=2 * d, dilation=d, padding_mode="circular")
            for d in (1 + i % 2 for i in range(layers))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(layers + 1))
        self.logits = nn.Conv1d(channels, V, 1)
        self.fine = nn.Conv1d(channels, offsets, 1)
        self.offset_weight = nn.Parameter(0.03 * torch.randn(V, 5, offsets))
        self.offset_bias = nn.Parameter(torch.zeros(V, 5))

    @classmethod
    def of_description(cls, described: Mapping[str, float]) -> Self:
        """See `PoseEncoder.of_description`."""
        d = described
        disc = FourierDisc.create(int(d["box"]), d["pixel_size"], d["radius"])
        whole = ("candidates", "nside", "rings", "angles", "channels", "layers", "offsets")
        return cls(
            disc,
            d["diameter_angstrom"],
            torch.ones(int(d["shells"])),
            d["shift_sigma_angstrom"],
            **{name: int(d[name]) for name in whole},
        )

    @property
    def cell_degrees(self) -> float:
        """Spacing of the rotation grid, degrees."""
        return grid_spacing_degrees(self.nside)

    def rings(self, images: Images) -> Float[Tensor, "B rings angles"]:
        """Wiener-filtered, whitened images on the rings."""
        images = images.prefix(self.radius)
        signal = spread_shells(self.signal, images.disc)
        noise = images.variance[images.group]
        filtered = images.observed * (images.ctf * signal.sqrt() / (images.ctf.square() * signal + noise))
        rings = torch.cat([filtered.real, filtered.imag], 1) @ self.basis
        return rings.unflatten(1, (-1, len(self.angles)))

    def _features(self, images: Images) -> tuple[Float[Tensor, "B V A"], Float[Tensor, "B F A"]]:
        h = functional.gelu(self.norms[0](self.first(self.rings(images))))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            h = h + functional.gelu(norm(convolution(h)))
        return self.logits(h), functional.gelu(self.fine(h))

    def _offsets(self, fine: Tensor, view: Tensor, angle: Tensor) -> Float[Tensor, "B K 5"]:
        """Rotation vector (in cells) and shift (in sigma) within cells, in the frame of the turned image."""
        row = torch.arange(len(fine), device=fine.device)[:, None]
        h = fine.permute(0, 2, 1)[row, angle]
        return torch.einsum("bkf,bkof->bko", h, self.offset_weight[view]) + self.offset_bias[view]

    def _poses(self, view: Tensor, angle: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """R = view exp(offset) Rz(angle), and the shift turned along."""
        psi = self.angles[angle]
        turn = offsets[..., :3] * math.radians(self.cell_degrees / 2)
        R = self.views[view] @ exponential(turn) @ _about_z(psi)
        return R, _turned(offsets[..., 3:], -psi) * self.sigma

    def forward(self, images: Images) -> PosePosterior:
        """Poses of the best distinct cells with their offsets, weighted by the probabilities of the network."""
        logits, fine = self._features(images)
        A = len(self.angles)
        log_p, cell = functional.log_softmax(logits.flatten(1), 1).topk(CELLS, 1)
        view, angle = cell // A, cell % A
        R, t = self._poses(view, angle, self._offsets(fine, view, angle))
        row = torch.arange(len(R), device=R.device)
        free, chosen = log_p.detach().clone(), []
        for _ in range(self.candidates):
            k = free.argmax(1)
            chosen.append(torch.where(free[row, k] > -torch.inf, k, -1))
            near = geodesic_degrees(R, R[row, k][:, None].expand_as(R)) < APART * self.cell_degrees
            free = free.masked_fill(near, -torch.inf)
        k = torch.stack(chosen, 1)
        row = row[:, None]
        weight = torch.where(k >= 0, log_p[row, k], -torch.inf)
        return PosePosterior(R[row, k], t[row, k], weight).normalised()

    def dream_loss(self, images: Images, R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]) -> Tensor:
        """Cross entropy with a kernel around the true rotation, plus the error of the offset in the nearest cell."""
        logits, fine = self._features(images)
        trace = self._traces(R).flatten(1)
        kappa = 1 / math.radians(KERNEL_DEGREES) ** 2
        target = torch.softmax(kappa * (trace - 3) / 2, 1)
        entropy = -(target * functional.log_softmax(logits.flatten(1), 1)).sum(1).mean()
        cell = trace.argmax(1)
        view, angle = cell // len(self.angles), cell % len(self.angles)
        psi = self.angles[angle]
        turn = roma.rotmat_to_rotvec(self.views[view].mT @ R @ _about_z(-psi)) / math.radians(self.cell_degrees / 2)
        wanted = torch.cat([turn, _turned(t / self.sigma, psi)], 1)
        found = self._offsets(fine, view[:, None], angle[:, None])[:, 0]
        return entropy + 0.5 * (found - wanted).square().sum(1).mean()

    def _traces(self, R: Tensor) -> Float[Tensor, "B V A"]:
        """1 + 2 cos of the angle between R and every cell's centre."""
        M = torch.einsum("bji,vjk->bvik", R, self.views)
        even, odd = M[..., 0, 0] + M[..., 1, 1], M[..., 0, 1] - M[..., 1, 0]
        return even[..., None] * self.angles.cos() + odd[..., None] * self.angles.sin() + M[..., 2, 2, None]


def _ring_basis(disc: FourierDisc, radius_angstrom: float, rings: int, angles: int) -> Float[Tensor, "2P ringsxangles"]:
    """From real and imaginary parts of coefficients to values at points on rings: an exact Fourier sum."""
    r = torch.linspace(radius_angstrom / (2 * rings), radius_angstrom, rings)
    phi = 2 * math.pi * torch.arange(angles) / angles
    points = torch.stack([r[:, None] * phi.cos(), r[:, None] * phi.sin()], -1).reshape(-1, 2)
    phase = 2 * math.pi * disc.k.cpu() @ points.T
    basis = torch.cat([phase.cos(), -phase.sin()]) * disc.weight.cpu().repeat(2)[:, None]
    return basis / disc.weight.sum().cpu().sqrt()


def _about_z(angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b 3 3"]:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    c, s = angle.cos(), angle.sin()
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).unflatten(-1, (3, 3))


def _turned(t: Float[Tensor, "*b 2"], angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2"]:
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * t[..., 0] - s * t[..., 1], s * t[..., 0] + c * t[..., 1]], -1)
