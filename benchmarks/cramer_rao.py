#!/usr/bin/env python3
"""The best pose errors that a particle set allows: cramer_rao.py SET-FOLDER [...] [--json OUT]

For every particle the 5x5 Fisher matrix of (rotation vector, shift) at the true pose and the true map,
F = sum h Re(conj J_a J_b) / s2 over the half-plane with Hermitian weights h, is inverted; its blocks are the smallest
covariances that an unbiased estimator can have (Cramer-Rao). Errors drawn from them give the expected medians of what
evaluate.py reports: the rotation error is the norm of a Gaussian 3-vector (degrees), the shift error that of a 2-vector
(pixels). s2, by shell, is measured: mean |image - clean image|^2 at the true poses, each image's contrast fitted.

Model: image = CTF(k) exp(-2 pi i k.t) V(R k) + noise, R = Euler(rot, tilt, psi)^T for RELION's angles, t = -origin.
A folder holds particles.star, truth.star, particles.mrcs and truth_001.mrc. Needs numpy, scipy, numba, mrcfile,
starfile; shares no code with the package.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import cast

import mrcfile
import numba
import numpy as np
import pandas as pd
import scipy.fft
import starfile
from scipy.spatial.transform import Rotation


def true_grids(volume: np.ndarray, padding: int) -> np.ndarray:
    """V and its gradient by Fourier pixel: complex64 [M, M, M/2+1, 4], the x >= 0 half, z and y centred.

    The gradient is the transform of -2 pi i x v / D: the exact derivative, not a difference of interpolated values.
    """
    D, M = volume.shape[0], padding * volume.shape[0]
    x = np.arange(D) - D // 2
    s = np.sinc(x / M) ** 2  # the trilinear kernel's window, divided out
    volume = (volume / (s[:, None, None] * s[None, :, None] * s[None, None, :])).astype(np.float32)
    low = M // 2 - D // 2
    out = np.empty((M, M, M // 2 + 1, 4), np.complex64)
    for c, factor in enumerate((None, x[None, None, :], x[None, :, None], x[:, None, None])):
        padded = np.zeros((M, M, M), np.float32)
        padded[low : low + D, low : low + D, low : low + D] = volume if factor is None else volume * factor
        transform = np.fft.fftshift(np.asarray(scipy.fft.rfftn(np.fft.ifftshift(padded))), (0, 1))
        out[..., c] = transform if factor is None else transform * np.complex64(-2j * np.pi / D)
    return out


def half_plane(D: int) -> tuple[np.ndarray, np.ndarray]:
    """Integer frequencies (x >= 0) inside Nyquist and their Hermitian weights."""
    n = (D - 1) // 2
    iy, ix = np.mgrid[-n : n + 1, 0 : n + 1]
    keep = ix**2 + iy**2 <= n**2
    index = np.stack([ix[keep], iy[keep]], 1)
    return index, np.where(index[:, 0] == 0, 1.0, 2.0)


def ctf(table: pd.DataFrame, optics: pd.DataFrame, index: np.ndarray, D: int) -> np.ndarray:
    """CTF [N, P], RELION's sign."""
    o = optics.set_index("rlnOpticsGroup").loc[table["rlnOpticsGroup"]]

    def column(name: str, source: pd.DataFrame = table) -> np.ndarray:
        return source[name].to_numpy(float)[:, None] if name in source else np.zeros((len(source), 1))

    volt = column("rlnVoltage", o) * 1e3
    wavelength = 12.2642598 / np.sqrt(volt * (1 + 0.978475598e-6 * volt))
    k = index / (D * column("rlnImagePixelSize", o)[..., None])
    k2, angle = (k**2).sum(-1), np.arctan2(k[..., 1], k[..., 0])
    u, v = column("rlnDefocusU"), column("rlnDefocusV")
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (angle - np.radians(column("rlnDefocusAngle"))))
    spherical = column("rlnSphericalAberration", o) * 1e7
    chi = np.pi * wavelength * defocus * k2 - np.pi / 2 * spherical * wavelength**3 * k2**2
    phase = np.radians(column("rlnPhaseShift")) + np.arcsin(column("rlnAmplitudeContrast", o))
    return np.exp(-column("rlnCtfBfactor") * k2 / 4) * np.sin(chi + phase)


@numba.njit(parallel=True, fastmath=True)
def slices(grids, R, index, padding, out):
    """out [N, P, 4]: V and its gradient (in the volume's frame) at R (ix, iy, 0)."""
    half = grids.shape[0] // 2
    for n in numba.prange(R.shape[0]):
        for p in range(index.shape[0]):
            a, b = padding * index[p, 0], padding * index[p, 1]
            x, y, z = R[n, 0, 0] * a + R[n, 0, 1] * b, R[n, 1, 0] * a + R[n, 1, 1] * b, R[n, 2, 0] * a + R[n, 2, 1] * b
            mate = x < 0
            if mate:
                x, y, z = -x, -y, -z
            ix, iy, iz = int(x), int(np.floor(y)), int(np.floor(z))
            fx, fy, fz = x - ix, y - iy, z - iz
            for c in range(4):
                s = 0j
                for dz in range(2):
                    for dy in range(2):
                        w = (fz if dz else 1 - fz) * (fy if dy else 1 - fy)
                        zz, yy = half + iz + dz, half + iy + dy
                        s += w * ((1 - fx) * grids[zz, yy, ix, c] + fx * grids[zz, yy, ix + 1, c])
                # conj V(-k); its gradient is minus the conjugate of the gradient at -k
                out[n, p, c] = s if not mate else (s.conjugate() if c == 0 else -s.conjugate())


def jacobian(values: np.ndarray, R: np.ndarray, index: np.ndarray, transfer: np.ndarray, D: int) -> np.ndarray:
    """[N, P, 5] with respect to (omega, t), R <- R exp[omega], t in pixels, up to the phase of the shift."""
    gradient = np.einsum("nji,npj->npi", R, values[..., 1:])  # into the image's frame
    kx, ky = index[:, 0], index[:, 1]
    gx, gy, gz = gradient[..., 0], gradient[..., 1], gradient[..., 2]
    V = values[..., 0]
    columns = [ky * gz, -kx * gz, kx * gy - ky * gx, -2j * np.pi / D * kx * V, -2j * np.pi / D * ky * V]
    return np.stack(columns, -1) * transfer[..., None]


def noise_power(images: np.ndarray, clean: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """E|n|^2 by shell [S] of the unnormalised transform, from images [N, D, D] and their clean coefficients [N, P]."""
    D = images.shape[-1]
    transform = np.asarray(scipy.fft.fft2(np.fft.ifftshift(images.astype(np.float32), axes=(1, 2))))
    observed = transform[:, index[:, 1] % D, index[:, 0] % D]
    shell = np.rint(np.hypot(index[:, 0], index[:, 1])).astype(int)
    total = np.bincount(shell, weight)
    s2 = np.full(len(total), float(D * D))
    for _ in range(3):  # the contrast's fit needs the noise, and the noise the contrast
        w = weight / s2[shell]
        information = (w * abs(clean) ** 2).sum(1)[:, None]
        contrast = (w * np.real(observed * clean.conj())).sum(1)[:, None] / information
        # the fit takes |clean|^2 / information of the noise with it
        residual = abs(observed - contrast * clean) ** 2 + abs(clean) ** 2 / information
        s2 = np.bincount(shell, weight * residual.mean(0)) / total
    return s2


def bound(folder: Path, particles: int = 5000, padding: int = 2, draws: int = 8, seed: int = 0) -> dict:
    """The expected median errors at the Cramer-Rao bound of one set; junk is left out."""
    truth = cast(dict[str, pd.DataFrame], starfile.read(folder / "truth.star", always_dict=True))
    table, optics = truth["particles"], truth["optics"]
    rows = np.flatnonzero(table["rlnClassNumber"].to_numpy() == 1)
    if len(rows) > particles:
        rows = np.sort(np.random.default_rng(seed).choice(rows, particles, replace=False))
    table = table.iloc[rows].reset_index(drop=True)
    volume = np.asarray(mrcfile.read(folder / "truth_001.mrc"), np.float64)
    D, pixel = volume.shape[0], float(optics["rlnImagePixelSize"].iloc[0])
    grids = true_grids(volume, padding)
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    R = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix()
    t = -table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float) / pixel
    index, weight = half_plane(D)

    def block(part: slice) -> tuple[np.ndarray, np.ndarray]:
        values = np.empty((len(R[part]), len(index), 4), np.complex128)
        slices(grids, R[part], index, padding, values)
        return values, ctf(table[part], optics, index, D)

    sample = slice(0, min(1000, len(rows)) if D <= 64 else min(300, len(rows)))
    values, transfer = block(sample)
    clean = values[..., 0] * transfer * np.exp(-2j * np.pi / D * t[sample] @ index.T)
    with mrcfile.mmap(folder / "particles.mrcs", permissive=True) as stack:
        images = np.asarray(stack.data)[rows[sample]]
    s2 = noise_power(images, clean, index, weight)
    w = weight / s2[np.rint(np.hypot(index[:, 0], index[:, 1])).astype(int)]
    rng = np.random.default_rng(seed)
    rotation, shift, spread = [], [], []
    for start in range(0, len(rows), 100):
        part = slice(start, min(start + 100, len(rows)))
        values, transfer = block(part)
        J = jacobian(values, R[part], index, transfer, D) * np.sqrt(w)[:, None]
        J = np.concatenate([np.real(J), np.imag(J)], 1)
        covariance = np.linalg.inv(np.einsum("npa,npb->nab", J, J))
        factor = np.linalg.cholesky(covariance)
        error = np.einsum("nab,snb->sna", factor, rng.standard_normal((draws, len(factor), 5)))
        rotation.append(np.degrees(np.linalg.norm(error[..., :3], axis=-1)).ravel())
        shift.append(np.linalg.norm(error[..., 3:], axis=-1).ravel())
        spread.append(np.degrees(np.sqrt(np.trace(covariance[:, :3, :3], axis1=1, axis2=2))))
    rotation, shift = np.concatenate(rotation), np.concatenate(shift)
    return {
        "set": folder.resolve().name,
        "particles": len(rows),
        "box": D,
        "pixel_size": pixel,
        "rotation_median_deg": float(np.median(rotation)),
        "rotation_p90_deg": float(np.percentile(rotation, 90)),
        "rotation_rms_median_deg": float(np.median(np.concatenate(spread))),
        "shift_median_px": float(np.median(shift)),
        "shift_p90_px": float(np.percentile(shift, 90)),
        "noise_over_white": [round(float(x), 4) for x in s2 / D**2],
    }


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="+", type=Path)
    p.add_argument("--particles", type=int, default=5000, help="at most so many, drawn at random")
    p.add_argument("--padding", type=int, default=2)
    p.add_argument("--json", type=Path)
    a = p.parse_args()
    found = [bound(f, a.particles, a.padding) for f in a.folders]
    for line in found:
        shown = {k: v for k, v in line.items() if k != "noise_over_white"}
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in shown.items()}))
    if a.json:
        a.json.write_text(json.dumps(found if len(found) > 1 else found[0], indent=1) + "\n")
