"""The image model written a second time, in plain NumPy and scalar loops, sharing no code with the package.

A mistake in the package can only hide here if it was made twice, so everything is spelt out: matrices element by
element, the CTF point by point with atan2, transforms as explicit sums. Vectors are (x, y, z), arrays [z, y, x],
lengths in angstrom, the origin of real and Fourier space at index D // 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PLANCK_TIMES_C = 12398.419843320026  # eV angstrom, exact in the SI since 2019
ELECTRON_REST_ENERGY = 510998.95  # eV, CODATA 2018


def relion_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's Euler matrix A in degrees, element by element (Heymann et al., J. Struct. Biol. 151 (2005) 196)."""
    a, b, g = math.radians(rot), math.radians(tilt), math.radians(psi)
    ca, sa, cb, sb, cg, sg = math.cos(a), math.sin(a), math.cos(b), math.sin(b), math.cos(g), math.sin(g)
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def pose_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """R = A^T: takes vectors of the image's frame to the volume's."""
    return relion_matrix(rot, tilt, psi).T


def random_angles(count: int, seed: int) -> np.ndarray:
    """Euler angles [count, 3] in degrees of uniform rotations."""
    rng = np.random.default_rng(seed)
    tilt = np.degrees(np.arccos(rng.uniform(-1, 1, count)))
    return np.stack([rng.uniform(-180, 180, count), tilt, rng.uniform(-180, 180, count)], 1)


@dataclass(frozen=True)
class Cloud:
    """Gaussians: centres [G, 3] and widths (s.d.) [G] in angstrom, masses [G]."""

    centres: np.ndarray
    widths: np.ndarray
    masses: np.ndarray


# Chiral, off-centre, no two coordinates alike: each swap, mirror or transposition moves it
CLOUD = Cloud(
    centres=np.array(
        [
            [21.0, 3.0, -6.0],
            [-9.0, 17.0, 4.0],
            [5.0, -12.0, 20.0],
            [-15.0, -7.0, -16.0],
            [8.0, 11.0, 13.0],
            [-3.0, 19.0, -11.0],
        ]
    ),
    widths=np.array([5.0, 5.5, 6.0, 5.0, 5.5, 6.0]),
    masses=np.array([1.0, 1.4, 0.8, 1.7, 0.6, 1.2]),
)


def cloud_transform(cloud: Cloud, k: np.ndarray) -> np.ndarray:
    """Exact Fourier transform, integral of density times exp(-2 pi i k.x), at k [..., 3] in 1/angstrom."""
    out = np.zeros(k.shape[:-1], complex)
    for centre, width, mass in zip(cloud.centres, cloud.widths, cloud.masses, strict=True):
        k_dot_c = k[..., 0] * centre[0] + k[..., 1] * centre[1] + k[..., 2] * centre[2]
        k_squared = k[..., 0] ** 2 + k[..., 1] ** 2 + k[..., 2] ** 2
        out += mass * np.exp(-2 * np.pi**2 * width**2 * k_squared) * np.exp(-2j * np.pi * k_dot_c)
    return out


def cloud_slice(cloud: Cloud, R: np.ndarray, t: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Transform of the projection at pose (R, t) at image frequencies k [P, 2]: V(R (kx, ky, 0)) exp(-2 pi i k.t)."""
    in_volume = np.array([[R[i, 0] * kx + R[i, 1] * ky for i in range(3)] for kx, ky in k])
    return cloud_transform(cloud, in_volume) * shift_ramp(k, t)


def shift_ramp(k: np.ndarray, t: np.ndarray) -> np.ndarray:
    """exp(-2 pi i (kx tx + ky ty)) for k [P, 2] and one shift t (x, y)."""
    return np.array([complex(math.cos(p), -math.sin(p)) for p in 2 * math.pi * (k[:, 0] * t[0] + k[:, 1] * t[1])])


def cloud_volume(cloud: Cloud, box: int, pixel_size: float) -> np.ndarray:
    """Density [z, y, x] sampled at the voxels, mass per voxel."""
    out = np.zeros((box, box, box))
    for centre, width, mass in zip(cloud.centres, cloud.widths, cloud.masses, strict=True):
        profiles = [np.array([_gauss((i - box // 2) * pixel_size - c, width) for i in range(box)]) for c in centre]
        out += mass * pixel_size**3 * np.einsum("x,y,z->zyx", *profiles)
    return out


def cloud_projection(cloud: Cloud, R: np.ndarray, t: np.ndarray, box: int, pixel_size: float) -> np.ndarray:
    """Image [y, x] of the cloud turned into the image's frame, summed along z and moved by t; mass per pixel."""
    image = np.zeros((box, box))
    for centre, width, mass in zip(cloud.centres, cloud.widths, cloud.masses, strict=True):
        x, y, _ = R.T @ centre
        along_x = [_gauss((i - box // 2) * pixel_size - x - t[0], width) for i in range(box)]
        along_y = [_gauss((i - box // 2) * pixel_size - y - t[1], width) for i in range(box)]
        image += mass * pixel_size**2 * np.outer(along_y, along_x)
    return image


def _gauss(distance: float, width: float) -> float:
    return math.exp(-0.5 * (distance / width) ** 2) / (width * math.sqrt(2 * math.pi))


def centred_dft(array: np.ndarray) -> np.ndarray:
    """Discrete transform by its definition over every axis of a cube or square; both origins at D // 2."""
    out = array.astype(complex)
    for axis in range(array.ndim):
        n = array.shape[axis]
        place = np.arange(n) - n // 2
        out = np.moveaxis(np.tensordot(np.exp(-2j * np.pi * np.outer(place, place) / n), out, (1, axis)), 0, axis)
    return out


def wavelength(voltage_kv: float) -> float:
    """De Broglie wavelength in angstrom from the constants of nature: h c / sqrt(E (2 m c^2 + E))."""
    energy = 1000.0 * voltage_kv
    return PLANCK_TIMES_C / math.sqrt(energy * (2 * ELECTRON_REST_ENERGY + energy))


def ctf(
    kx: float,
    ky: float,
    defocus_u: float,
    defocus_v: float,
    angle_degree: float,
    phase_shift_degree: float,
    b_factor: float,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
) -> float:
    """One value of the CTF (Rohou & Grigorieff, J. Struct. Biol. 192 (2015) 216, eqs. 3 and 4), sign as in RELION.

    The sign makes a white particle white: at the origin it is +amplitude_contrast without a phase plate.
    """
    length = wavelength(voltage_kv)
    squared = kx * kx + ky * ky
    azimuth = math.atan2(ky, kx) - math.radians(angle_degree)
    defocus = 0.5 * (defocus_u + defocus_v + (defocus_u - defocus_v) * math.cos(2 * azimuth))
    chi = math.pi * length * squared * (defocus - 0.5 * length**2 * squared * cs_mm * 1e7)
    amplitude_phase = math.atan(amplitude_contrast / math.sqrt(1 - amplitude_contrast**2))
    return math.exp(-b_factor * squared / 4) * math.sin(chi + math.radians(phase_shift_degree) + amplitude_phase)


def half_plane(box: int, pixel_size: float, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Integer frequencies [P, 2] of the disc with kx >= 0, and k in 1/angstrom, in no particular order."""
    index = [(x, y) for y in range(-radius, radius + 1) for x in range(radius + 1) if x * x + y * y <= radius * radius]
    return np.array(index), np.array(index, float) / (box * pixel_size)
