"""Rotations: matrices, Euler angles as RELION writes them, rotation vectors, angles, grids and symmetry groups.

A pose R maps the image's frame to the volume's frame: the slice of the image at (kx, ky, 0) is V(R k). R = A^T for
RELION's Euler matrix A.
"""

from __future__ import annotations

import math

import healpix
import numpy as np
import roma
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor


def from_euler(angles_degree: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """R from RELION's (rot, tilt, psi) in degrees."""
    return roma.euler_to_rotmat("ZYZ", angles_degree, degrees=True)


def to_euler(R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """RELION's (rot, tilt, psi) in degrees with tilt in [0, 180]; rot = 0 where tilt is 0 or 180 (gimbal lock)."""
    tilt = torch.atan2(torch.hypot(R[..., 0, 2], R[..., 1, 2]), R[..., 2, 2])
    lock = torch.sin(tilt).abs() < 1e-6
    rot = torch.where(lock, torch.zeros_like(tilt), torch.atan2(R[..., 1, 2], R[..., 0, 2]))
    psi = torch.atan2(R[..., 2, 1], -R[..., 2, 0])
    sign = torch.sign(R[..., 2, 2])
    psi = torch.where(lock, torch.atan2(sign * R[..., 1, 0], R[..., 1, 1]) * sign, psi)
    return torch.rad2deg(torch.stack([rot, tilt, psi], -1))


def geodesic_degrees(a: Float[Tensor, "*#b 3 3"], b: Float[Tensor, "*#b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle in degrees of the rotation that takes a to b; accurate near 0 and 180."""
    relative = a.mT @ b
    # the trace alone (arccos) loses half of the digits near 0, the chord |a - b| (arcsin) near 180
    sine = (relative - relative.mT).square().sum((-2, -1)).sqrt() / math.sqrt(8)
    cosine = (torch.einsum("...ii->...", relative) - 1) / 2
    return torch.rad2deg(torch.atan2(sine, cosine))


def exponential(omega: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a rotation vector in radians."""
    return roma.rotvec_to_rotmat(omega)


def nearest_rotation(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """Proper rotation nearest to a matrix in the Frobenius norm."""
    # roma returns a tuple only if the singular values are requested
    return roma.special_procrustes(matrix)  # pyright: ignore[reportReturnType]


def random_rotations(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Float[Tensor, "n 3 3"]:
    """Uniform rotations (normalised Gaussian quaternions, Shoemake 1992)."""
    q = torch.randn(n, 4, generator=generator, dtype=torch.float64, device=generator.device)
    return roma.unitquat_to_rotmat(q / q.norm(dim=-1, keepdim=True)).to(dtype)


def view_grid(nside: int) -> Float[Tensor, "V 2"]:
    """HEALPix directions (rot, tilt) in degrees, ring order, V = 12 nside^2; spacing about 58.6 / nside degrees."""
    theta, phi = healpix.pix2ang(nside, np.arange(12 * nside**2))
    return torch.from_numpy(np.degrees(np.stack([phi, theta], -1)))


def rotation_grid(nside: int) -> Float[Tensor, "M 3 3"]:
    """Near-uniform grid: HEALPix views times 6 nside in-plane angles; M = 72 nside^3, views slowest.

    nside 4 is the 15-degree grid (4608), nside 8 the 7.5-degree one (36864).
    """
    views = view_grid(nside)
    psi = torch.arange(6 * nside, dtype=torch.float64) * (60.0 / nside)
    angles = torch.cat([views[:, None].expand(-1, len(psi), -1), psi[None, :, None].expand(len(views), -1, -1)], -1)
    return from_euler(angles.reshape(-1, 3))


def grid_spacing_degrees(nside: int) -> float:
    """Mean spacing of `rotation_grid`."""
    return 60.0 / nside


_POLYHEDRAL = ("T", "O", "I", "I1", "I2")


def symmetry_group(symmetry: str) -> Float[Tensor, "G 3 3"]:
    """Rotations of a point group about the standard axes: Cn along z, Dn with a twofold along x, T, O, I, I1, I2.

    Axes as in scipy's ``Rotation.create_group``, and as in RELION but for T, whose twofold axes are along x, y and z
    here (RELION: a threefold along z), and I, which is RELION's I1 here (RELION: I2, turned by 90 degrees about z). The
    identity comes first.

    Raises:
        ValueError: for a name that is not a point group of rotations.
    """
    name = symmetry.strip().upper()
    valid = name in _POLYHEDRAL or (name[:1] in ("C", "D") and name[1:].isdigit() and int(name[1:]) > 0)
    if not valid:
        raise ValueError(f"symmetry {symmetry!r} is not a point group: expected C1, Cn, Dn, T, O, I (that is I1) or I2")
    group = torch.from_numpy(Rotation.create_group(name[:1] if name in _POLYHEDRAL else name).as_matrix())
    if name == "I2":
        turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        group = turn @ group @ turn.T
    order = torch.argsort(-torch.einsum("gii->g", group), stable=True)
    return group[order]


def is_polyhedral(symmetry: str) -> bool:
    """Whether a point group is T, O or I (I1, I2): its particles are spheres or shells at low resolution."""
    return symmetry.strip().upper() in _POLYHEDRAL


def axis_order(degrees: float, within: float = 1.0, most: int = 12) -> int | None:
    """Lowest order n of an axis, 2 to `most`, that has a rotation, by a multiple of 360 / n; None if none is near."""
    return next((n for n in range(2, most + 1) if any(abs(degrees - 360 * k / n) < within for k in range(1, n))), None)


def generated_group(
    rotations: Float[Tensor, "n 3 3"], most: int = 60, same_degrees: float = 5.0
) -> Float[Tensor, "G 3 3"] | None:
    """The point group that rotations generate, identity first; None if it has more than `most` elements.

    Measured rotations close only nearly: products that are a few degrees apart are one element.
    """
    found = [torch.eye(3).to(rotations)]
    new = found
    while new:
        products = [r @ g for g in new for r in rotations]
        new = []
        for product in products:
            if float(geodesic_degrees(product.expand(len(found), 3, 3), torch.stack(found)).min()) > same_degrees:
                found.append(product)
                new.append(product)
                if len(found) > most:
                    return None
    return torch.stack(found)


def group_name(group: Float[Tensor, "G 3 3"]) -> str:
    """Name of a point group of rotations about any axes, as `symmetry_group` takes it."""
    if len(group) == 1:
        return "C1"
    least = float(geodesic_degrees(group[0].expand_as(group[1:]), group[1:]).min())
    order = round(360 / least)
    polyhedral = {(12, 3): "T", (24, 4): "O", (60, 5): "I"}
    return polyhedral.get((len(group), order)) or (f"C{order}" if len(group) == order else f"D{len(group) // 2}")


def geodesic_degrees_modulo(
    a: Float[Tensor, "*b 3 3"], b: Float[Tensor, "*#b 3 3"], group: Float[Tensor, "G 3 3"]
) -> Float[Tensor, "*b"]:
    """Smallest angle in degrees between a and the mates g b of b under a symmetry group of the volume."""
    best = geodesic_degrees(a, b)
    for g in group[1:]:
        best = torch.minimum(best, geodesic_degrees(a, g.to(b) @ b))
    return best
