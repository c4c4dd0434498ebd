"""The only entry to the kernels: tensors in, tensors out; numba for tensors on the CPU, torch for tensors on a GPU."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryoloom.kernels.arrays import image_arrays, posterior_arrays, sample_arrays
from cryoloom.kernels.half_grid import GUARD, fold
from cryoloom.kernels.images import GridPosterior, Images, Samples
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.slicing import PADDING


def _threads() -> int:
    return torch.get_num_threads()


def _check(side: int, disc: FourierDisc, padding: int) -> None:
    reach = padding * float(disc.radii[-1]) + 1
    if reach > side // 2:
        raise ValueError(
            f"half grid of side {side} reaches {side // 2 / padding:.1f} Fourier pixels, the disc {disc.radius:.1f}: "
            "crop the disc or enlarge the volume's box"
        )


def slices(
    grid: Complex[Tensor, "M M H"], R: Float[Tensor, "N 3 3"], disc: FourierDisc, padding: int = PADDING
) -> Complex[Tensor, "N P"]:
    """Central slices of a half grid at R k, without CTF or shift."""
    _check(grid.shape[0], disc, padding)
    if grid.is_cuda:
        from cryoloom.kernels import gpu

        return gpu.slices(grid, R, disc.index, padding)
    from cryoloom.kernels import cpu

    out = torch.empty(len(R), len(disc.index), dtype=torch.complex64)
    cpu.slices(
        grid.numpy(),
        R.numpy(),
        index=disc.index.numpy(),
        scale=float(padding),
        threads=_threads(),
        out=out.numpy(),
    )
    return out


def insert(
    images: Images, samples: Samples, side: int, padding: int = PADDING
) -> tuple[Complex[Tensor, "M M H"], Float[Tensor, "M M H"]]:
    """Normal equations of the volume: half grids num = sum w C Y e^{+2 pi i k.t} and den = sum w C^2.

    w = weight * hermitian / (2 s2), so num / (den + 1 / tau^2) is the posterior mean; Friedel mates folded in.
    """
    _check(side, images.disc, padding)
    if images.observed.is_cuda:
        from cryoloom.kernels import gpu

        num, den = gpu.insert(images, samples, side, padding)
    else:
        from cryoloom.kernels import cpu

        threads = _threads()
        shape = (threads, side, side, side // 2 + GUARD)
        nums, dens = np.zeros(shape, np.complex64), np.zeros(shape, np.float32)
        arrays = image_arrays(images) | sample_arrays(samples)
        cpu.insert(**arrays, scale=float(padding), threads=threads, num=nums, den=dens)
        for i in range(1, threads):
            nums[0] += nums[i]
            dens[0] += dens[i]
        num, den = torch.from_numpy(nums[0]), torch.from_numpy(dens[0])
    return fold(num), fold(den)


def insert_moments(
    images: Images,
    R: Float[Tensor, "B 3 3"],
    t: Float[Tensor, "B 2"],
    first: Float[Tensor, "B Q"],
    second: Float[Tensor, "B T"],
    side: int,
    padding: int = PADDING,
) -> tuple[Complex[Tensor, "M M H Q"], Float[Tensor, "M M H T"]]:
    """Normal equations of Q volumes, where each image shows its own mixture of them.

    With E[a] = first and E[a a^T] = second (upper triangle, row by row: T = Q (Q + 1) / 2) of an image's mixture a:
    num = sum w C Y e^{+2 pi i k.t} E[a], den = sum w C^2 E[a a^T], w as in `insert`; Friedel mates folded in. All
    images are inserted, once each, at their poses.
    """
    _check(side, images.disc, padding)
    Q, T = first.shape[1], second.shape[1]
    if T != Q * (Q + 1) // 2:
        raise ValueError(f"{T} second moments for {Q} first ones: expected {Q * (Q + 1) // 2}")
    if images.observed.is_cuda:
        from cryoloom.kernels import gpu

        num, den = gpu.insert_moments(images, R, t, first=first, second=second, side=side, padding=padding)
    else:
        from cryoloom.kernels import cpu

        threads = _threads()
        sums = np.zeros((threads, side, side, side // 2 + GUARD, 2 * Q + T), np.float32)
        cpu.insert_moments(
            **image_arrays(images),
            R=R.numpy(),
            t=t.numpy(),
            first=first.numpy(),
            second=second.numpy(),
            scale=float(padding),
            threads=threads,
            sums=sums,
        )
        for i in range(1, threads):
            sums[0] += sums[i]
        pairs, squares = torch.from_numpy(sums[0]).split((2 * Q, T), -1)
        num, den = torch.view_as_complex(pairs.unflatten(-1, (Q, 2)).contiguous()), squares.contiguous()
    for q in range(Q):
        fold(num[..., q])
    for q in range(T):
        fold(den[..., q])
    return num, den


def normal_equations(
    grid: Complex[Tensor, "M M H"],
    images: Images,
    image: Int[Tensor, " C"],
    R: Float[Tensor, "C 3 3"],
    t: Float[Tensor, "C 2"],
    padding: int = PADDING,
) -> tuple[Float[Tensor, " C"], Float[Tensor, "C 5"], Float[Tensor, "C 5 5"], Float[Tensor, " C"]]:
    """Score, gradient and Gauss-Newton matrix of poses, R <- R exp[omega], t <- t + dt (radians, angstrom).

    The score is sum w (Re Y conj X - |X|^2 / 2), w = hermitian / s2: the log-likelihood up to a constant of the image.
    The last output is the power, sum w |X|^2: a correct pose and map give a score of power / 2 +- sqrt(power).
    """
    _check(grid.shape[0], images.disc, padding)
    if grid.is_cuda:
        from cryoloom.kernels import gpu

        product = gpu.normal_equations(grid, images, image, R=R, t=t, padding=padding)
    else:
        from cryoloom.kernels import cpu

        product = torch.empty(len(image), 7, 7)
        cpu.normal_equations(
            grid.numpy(),
            **image_arrays(images),
            image=image.numpy(),
            R=R.numpy(),
            t=t.numpy(),
            scale=float(padding),
            threads=_threads(),
            product=product.numpy(),
        )
    return unpacked(product)


def unpacked(product: Float[Tensor, "C 7 7"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Score, gradient, Gauss-Newton matrix and power from the products of the derivatives, residual and model."""
    power = product[:, 6, 6].clone()
    return product[:, 5, 6] + 0.5 * power, product[:, :5, 5].clone(), product[:, :5, :5].clone(), power


def turns(
    grids: list[Complex[Tensor, "M M H"]],
    mixture: Float[Tensor, "N Q"],
    R: Float[Tensor, "N 3 3"],
    disc: FourierDisc,
    padding: int = PADDING,
) -> Complex[Tensor, "N 3 P"]:
    """Derivatives of slices with respect to a rotation omega, R <- R exp[omega] (radians).

    Slice n is taken from its own mixture of the Q volumes, sum_q mixture[n, q] V_q.
    """
    _check(grids[0].shape[0], disc, padding)
    out = torch.zeros(len(R), 3, len(disc.index), dtype=torch.complex64, device=R.device)
    for q, grid in enumerate(grids):  # one at a time: the cache holds one volume, but not all of them
        weight = mixture[:, q].contiguous()
        if grid.is_cuda:
            from cryoloom.kernels import gpu

            gpu.add_turns(grid, weight, R, index=disc.index, padding=padding, out=out)
        else:
            from cryoloom.kernels import cpu

            cpu.add_turns(
                grid.numpy(),
                weight.numpy(),
                R=R.numpy(),
                index=disc.index.numpy(),
                scale=float(padding),
                threads=_threads(),
                out=out.numpy(),
            )
    return out


def residual_power(
    grid: Complex[Tensor, "M M H"], images: Images, samples: Samples, padding: int = PADDING
) -> tuple[Float[Tensor, "G S"], Float[Tensor, "G S"]]:
    """Sums over samples of weight h |Y - X|^2 by optics group and shell, and of weight h: their ratio estimates s2."""
    _check(grid.shape[0], images.disc, padding)
    if grid.is_cuda:
        from cryoloom.kernels import gpu

        return gpu.residual_power(grid, images, samples, padding)
    from cryoloom.kernels import cpu

    threads = _threads()
    shell = images.disc.shells
    shape = (threads, images.variance.shape[0], int(shell.max()) + 1)
    power, total = np.zeros(shape), np.zeros(shape)
    arrays = image_arrays(images) | sample_arrays(samples)
    arrays.pop("variance")
    cpu.residual_power(
        grid.numpy(),
        **arrays,
        shell=shell.numpy(),
        scale=float(padding),
        threads=threads,
        power=power,
        total=total,
    )
    return torch.from_numpy(power.sum(0)).float(), torch.from_numpy(total.sum(0)).float()


def grid_posterior(
    cross: Float[Tensor, "4 B T m"],
    norm: Float[Tensor, "2 B m"],
    prior: Float[Tensor, "B T"],
    uniform: Float[Tensor, " B"],
    draws: int,
    best: int,
    window: float = 15.0,
) -> GridPosterior:
    """Turn scores cross + norm + prior over T shifts and M = 4 m rotations into draws, best entries and log evidence.

    Cross and norm are combined as by `unfolded` and `in_groups` of `physics.half_turns`; see `GridPosterior`.
    """
    if cross.is_cuda:
        from cryoloom.kernels import gpu

        return GridPosterior(
            *gpu.grid_posterior(cross, norm, prior=prior, uniform=uniform, draws=draws, best=best, window=window)
        )
    from cryoloom.kernels import cpu_posterior

    found = GridPosterior.empty(len(prior), draws, best)
    cpu_posterior.grid_posterior(
        cross.numpy(),
        norm.numpy(),
        prior=prior.numpy(),
        window=window,
        uniform=uniform.numpy(),
        threads=_threads(),
        **posterior_arrays(found),
    )
    return found
