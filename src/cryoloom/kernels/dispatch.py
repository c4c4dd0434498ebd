"""The only entry to the kernels: tensors in, tensors out; numba for tensors on the CPU, torch for tensors on a GPU."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryoloom.kernels.arrays import (
    frequencies,
    grid_arrays,
    image_arrays,
    insertion_arrays,
    pairs,
    posterior_arrays,
    sample_arrays,
)
from cryoloom.kernels.half_grid import GUARD, Lines, fold, lines_within
from cryoloom.kernels.images import GridPosterior, Images, Samples
from cryoloom.kernels.order import bundles, view_order
from cryoloom.kernels.side_by_side import kernel_threads
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.slicing import PADDING

CELL = 4  # numbers in a cell of a grid that images are inserted into


def on_gpu(at: Tensor | Insertion | MomentsInsertion) -> bool:
    """Whether what is at hand is on a GPU and takes the kernels of `gpu`; all else takes those of `cpu`."""
    return at.device.type == "cuda"


def _check(side: int, disc: FourierDisc, padding: int) -> None:
    reach = padding * disc.radius + 1
    if reach > side // 2:
        raise ValueError(
            f"half grid of side {side} reaches {side // 2 / padding:.1f} Fourier pixels, the disc {disc.radius:.1f}: "
            "crop the disc or enlarge the volume's box"
        )


def _zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Zeros; on the CPU those of NumPy, in huge pages, which are cleared when first written to, faster than torch's."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, np.float32))
    return torch.zeros(shape, device=device)


def slices(
    grid: Complex[Tensor, "M M H"], R: Float[Tensor, "N 3 3"], disc: FourierDisc, padding: int = PADDING
) -> Complex[Tensor, "N P"]:
    """Central slices of a half grid at R k, without CTF or shift."""
    _check(grid.shape[0], disc, padding)
    if on_gpu(grid):
        from cryoloom.kernels import gpu

        return gpu.slices(grid, R, disc.index, padding)
    from cryoloom.kernels import cpu

    out = torch.empty(len(R), len(disc.index), dtype=torch.complex64)
    cpu.slices(
        **grid_arrays(grid),
        R=R.numpy(),
        frequency=frequencies(disc),
        scale=float(padding),
        threads=kernel_threads(),
        out=pairs(out),
    )
    return out


def insert(
    images: Images, samples: Samples, side: int, padding: int = PADDING
) -> tuple[Complex[Tensor, "M M H"], Float[Tensor, "M M H"]]:
    """Normal equations of the volume: half grids num = sum w C Y e^{+2 pi i k.t} and den = sum w C^2.

    w = weight * hermitian / (2 s2), so num / (den + 1 / tau^2) is the posterior mean; Friedel mates folded in.
    """
    insertion = Insertion(side, images.observed.device, padding)
    insertion.add(images, samples)
    num, den = insertion.sums()
    return num.contiguous(), den.contiguous()


class Insertion:
    """Normal equations of the volume (see `insert`), summed over batches of images."""

    def __init__(
        self,
        side: int,
        device: torch.device | str = "cpu",
        padding: int = PADDING,
        *,
        largest: int | None = None,
        room: Tensor | None = None,
    ) -> None:
        """Sums of no images on a half grid of `side`.

        Args:
            largest: side of the largest grid that the same memory will be used for (`emptied`): on the CPU it is asked
                for at once, but taken only as far as it is used.
            room: zeros to use, at least as many as `numbers_of`.
        """
        self.side, self.padding, self.device = side, padding, torch.device(device)
        if room is None:
            most = max(side, largest or 0) if self.device.type == "cpu" else side
            room = _zeros((self.numbers_of(most),), self.device)
        self._room = room
        # num and den of a cell lie side by side: real part, imaginary part, den, nothing
        self._cells = self._room[: self.numbers_of(side)].view(side, side, side // 2 + GUARD, CELL)
        self._num, self._den = torch.view_as_complex(self._cells[..., :2]), self._cells[..., 2]
        self._folded = False
        self._reach = 0.0

    @staticmethod
    def numbers_of(side: int) -> int:
        """Size of a half grid in float32 numbers."""
        return side * side * (side // 2 + GUARD) * CELL

    def has_room(self, side: int) -> bool:
        """Whether a half grid of `side` fits into the memory of this one."""
        return self._room.numel() >= self.numbers_of(side)

    def emptied(self, side: int) -> Insertion:
        """Sums of no images on a half grid of `side`, in the memory of these, which must not be used any more.

        Memory that is used again does not have to be cleared by the system, which takes longer.
        """
        if not self.has_room(side):
            return Insertion(side, self.device, self.padding)
        if on_gpu(self):
            self._cells.zero_()
        else:
            from cryoloom.kernels import cpu_records

            # a point adds to cells up to one line farther out
            lines = lines_within(self.side, math.ceil(self._reach) + 1, self.device, self.padding)
            cpu_records.clear(self._cells.numpy(), lines.points.numpy(), threads=kernel_threads())
        return Insertion(side, self.device, self.padding, room=self._room)

    def add(self, images: Images, samples: Samples) -> None:
        """Add samples of a batch of images."""
        _check(self.side, images.disc, self.padding)
        self._reach = max(self._reach, images.disc.radius)
        if self._folded:  # half to each of two mates, which will be folded again
            self._cells[:, :, 0] *= 0.5
            self._folded = False
        if on_gpu(self):
            from cryoloom.kernels import gpu

            gpu.insert(images, samples, self.side, self.padding, self._cells.reshape(-1, CELL)[:, :3])
            return
        from cryoloom.kernels import cpu

        samples = samples.rows(torch.nonzero(samples.weight)[:, 0])
        if len(samples.image) == 0:
            return
        order, bounds = bundles(samples.image, samples.R)
        ordered = samples.rows(order)
        cpu.insert(
            **insertion_arrays(images, ordered.R, float(self.padding), self.side, kernel_threads()),
            **sample_arrays(ordered),
            bundles=bounds.numpy(),
            sums=self._cells.reshape(-1).numpy(),
        )

    def sums(self) -> tuple[Complex[Tensor, "M M H"], Float[Tensor, "M M H"]]:
        """num and den so far, Friedel mates folded in: the sums themselves, not a copy, until images are added."""
        if not self._folded:
            fold(self._num)
            fold(self._den)
            self._folded = True
        return self._num, self._den

    def average(self, exchanges: Float[Tensor, "n 3 3"]) -> None:
        """Replace the sums by their mean over a group of rotations that exchange and reverse axes.

        These commute with trilinear insertion: images that are added later may be averaged together with these.
        """
        exchanges = exchanges.cpu()
        columns = exchanges.abs().argmax(2)
        signs = exchanges.gather(2, columns[..., None])[..., 0].long()
        num, den = self.sums()
        if on_gpu(self):
            from cryoloom.kernels import gpu

            gpu.average(num, columns, signs)
            gpu.average(den, columns, signs)
            return
        from cryoloom.kernels import cpu_exchanges

        reach = float(self.padding * self._reach + 2)  # a point adds to cells up to a diagonal farther out
        cpu_exchanges.average(
            self._cells.numpy(), columns.numpy(), signs.numpy(), reach=reach, threads=kernel_threads()
        )


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
    insertion = MomentsInsertion(side, images.observed.device, padding)
    insertion.add(images, R, t, first, second)
    return insertion.sums()


class MomentsInsertion:
    """Normal equations of several volumes (see `insert_moments`), summed over batches of images."""

    def __init__(self, side: int, device: torch.device | str = "cpu", padding: int = PADDING) -> None:
        """Sums of no images on a half grid of `side`."""
        self.side, self.padding, self.device = side, padding, torch.device(device)
        self._count = 0
        self._cells: Tensor | None = None

    def add(
        self,
        images: Images,
        R: Float[Tensor, "B 3 3"],
        t: Float[Tensor, "B 2"],
        first: Float[Tensor, "B Q"],
        second: Float[Tensor, "B T"],
    ) -> None:
        """Add a batch of images, with as many volumes as in those before."""
        _check(self.side, images.disc, self.padding)
        Q, T = first.shape[1], second.shape[1]
        if T != Q * (Q + 1) // 2:
            raise ValueError(f"{T} second moments for {Q} first ones: expected {Q * (Q + 1) // 2}")
        if self._cells is None:
            self._count = Q
            self._cells = _zeros((self.side, self.side, self.side // 2 + GUARD, 2 * Q + T), self.device)
        if on_gpu(self):
            from cryoloom.kernels import gpu

            gpu.insert_moments(
                images,
                R,
                t,
                first=first,
                second=second,
                side=self.side,
                padding=self.padding,
                sums=self._cells.reshape(-1, 2 * Q + T),
            )
            return
        from cryoloom.kernels import cpu

        cpu.insert_moments(
            **insertion_arrays(images, R, float(self.padding), self.side, kernel_threads()),
            R=R.numpy(),
            t=t.numpy(),
            first=first.numpy(),
            second=second.numpy(),
            sums=self._cells.reshape(-1).numpy(),
        )

    def sums(self) -> tuple[Complex[Tensor, "M M H Q"], Float[Tensor, "M M H T"]]:
        """num and den, Friedel mates folded in.

        Raises:
            ValueError: if there were no images.
        """
        if self._cells is None:
            raise ValueError("normal equations of no images")
        firsts, squares = self._cells.split((2 * self._count, self._cells.shape[-1] - 2 * self._count), -1)
        num, den = torch.view_as_complex(firsts.unflatten(-1, (-1, 2)).contiguous()), squares.contiguous()
        for both in (num, den):
            for channel in both.unbind(-1):
                fold(channel)
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
    if on_gpu(grid):
        from cryoloom.kernels import gpu

        product = gpu.normal_equations(grid, images, image, R=R, t=t, padding=padding)
    else:
        from cryoloom.kernels import cpu

        order = view_order(R)
        ordered = torch.empty(len(image), 7, 7)
        cpu.normal_equations(
            **grid_arrays(grid),
            **image_arrays(images),
            image=image[order].numpy(),
            R=R[order].numpy(),
            t=t[order].numpy(),
            scale=float(padding),
            threads=kernel_threads(),
            product=ordered.numpy(),
        )
        product = torch.empty_like(ordered)
        product[order] = ordered
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
        if on_gpu(grid):
            from cryoloom.kernels import gpu

            gpu.add_turns(grid, weight, R, index=disc.index, padding=padding, out=out)
        else:
            from cryoloom.kernels import cpu

            cpu.add_turns(
                **grid_arrays(grid),
                weight=weight.numpy(),
                R=R.numpy(),
                frequency=frequencies(disc),
                scale=float(padding),
                threads=kernel_threads(),
                out=pairs(out),
            )
    return out


def residual_power(
    grid: Complex[Tensor, "M M H"], images: Images, samples: Samples, padding: int = PADDING
) -> tuple[Float[Tensor, "G S"], Float[Tensor, "G S"]]:
    """Sums over samples of weight h |Y - X|^2 by optics group and shell, and of weight h: their ratio estimates s2."""
    _check(grid.shape[0], images.disc, padding)
    if on_gpu(grid):
        from cryoloom.kernels import gpu

        return gpu.residual_power(grid, images, samples, padding)
    from cryoloom.kernels import cpu

    threads = kernel_threads()
    shell = images.disc.shells
    shape = (threads, images.variance.shape[0], round(images.disc.radius) + 1)
    power, total = np.zeros(shape), np.zeros(shape)
    arrays = image_arrays(images) | sample_arrays(samples.rows(view_order(samples.R)))
    arrays.pop("precision")
    cpu.residual_power(
        **grid_arrays(grid),
        **arrays,
        hermitian=images.disc.weight.numpy(),
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
    if on_gpu(cross):
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
        threads=kernel_threads(),
        **posterior_arrays(found),
    )
    return found


def shell_sums(
    den: Float[Tensor, "n M H"], first: int, padding: int, reach: float, shells: int
) -> tuple[Float[Tensor, " S"], Int[Tensor, " S"]]:
    """Sums of planes of a half grid over shells of image Fourier pixels, float64, and the number of points.

    Args:
        den: planes at consecutive z, of which the first is `first`; reach: points that are farther from the centre
            (grid pixels) are left out; shells: number S of shells, which must hold all others.
    """
    if on_gpu(den):
        from cryoloom.kernels import gpu

        return gpu.shell_sums(den, first, padding, reach, shells)
    from cryoloom.kernels import cpu_planes

    total, count = np.zeros((len(den), shells)), np.zeros((len(den), shells), np.int64)
    cpu_planes.shell_sums(
        den.contiguous().numpy(),
        first,
        padding,
        np.float32(reach),
        threads=kernel_threads(den.numel()),
        total=total,
        count=count,
    )
    return torch.from_numpy(total.sum(0)), torch.from_numpy(count.sum(0))


def quotients(
    num: Complex[Tensor, "n M H"],
    den: Float[Tensor, "n M H"],
    first: int,
    padding: int,
    prior: Float[Tensor, " S"],
    reach: float,
) -> Complex[Tensor, "n M H"]:
    """num / (den + prior[shell]) of planes of a half grid, 0 beyond `reach`; see `shell_sums`.

    Shells beyond the last of `prior` take that one.

    Lines (y) are in the order of transforms, the zero frequency first.
    """
    if on_gpu(num):
        from cryoloom.kernels import gpu

        return gpu.quotients(num, den, first, padding, prior=prior, reach=reach)
    from cryoloom.kernels import cpu_planes

    out = torch.empty(num.shape, dtype=torch.complex64)
    cpu_planes.quotients(
        pairs(num.contiguous()),
        den.contiguous().numpy(),
        first,
        padding,
        prior=prior.numpy(),
        reach=np.float32(reach),
        threads=kernel_threads(den.numel()),
        out=pairs(out),
    )
    return out


def shell_products(a: Complex[Tensor, "D D H"], b: Complex[Tensor, "D D H"]) -> Float[Tensor, "S 3"]:
    """Sums over the shells 0 .. D // 2 of Re a b*, |a|^2 and |b|^2, float64.

    Args:
        a, b: transforms of real volumes as `rfftn` gives them; the mates that it leaves out count.
    """
    side = len(a)
    last = math.isqrt(3 * (side // 2) ** 2) + 1  # in the corners
    if on_gpu(a):
        from cryoloom.kernels import gpu

        return gpu.shell_products(a, b, last + 1)[: side // 2 + 1]
    from cryoloom.kernels import cpu_planes

    total = np.zeros((side, last + 1, 3))
    threads = kernel_threads(a.numel())
    cpu_planes.shell_products(pairs(a.contiguous()), pairs(b.contiguous()), threads=threads, total=total)
    return torch.from_numpy(total.sum(0)[: side // 2 + 1])


def pack(num: Complex[Tensor, "M M H"], den: Float[Tensor, "M M H"], lines: Lines) -> Float[Tensor, "n 3"]:
    """Normal equations without the corners of their grid: the first columns of each line.

    The columns of num (real, imaginary part) and den [n, 3], line by line.
    """
    if on_gpu(den):
        from cryoloom.kernels import gpu

        return gpu.pack(num, den, lines)
    from cryoloom.kernels import cpu_records

    values = torch.empty(lines.total, 3)
    threads = kernel_threads(lines.total)
    cpu_records.pack(pairs(num), den.numpy(), **_line_arrays(lines), threads=threads, values=values.numpy())
    return values


def unpack(
    values: Float[Tensor, "n 3"], lines: Lines, z: slice
) -> tuple[Complex[Tensor, "n M H"], Float[Tensor, "n M H"]]:
    """num and den of some planes of what `pack` has kept, 0 elsewhere."""
    if on_gpu(values):
        from cryoloom.kernels import gpu

        return gpu.unpack(values, lines, z)
    from cryoloom.kernels import cpu_records

    shape = (z.stop - z.start, lines.side, lines.side // 2 + GUARD)
    out = torch.empty(shape, dtype=torch.complex64), torch.empty(shape)
    cpu_records.unpack(
        values.numpy(),
        **_line_arrays(lines),
        first=z.start,
        threads=kernel_threads(out[1].numel()),
        out_num=pairs(out[0]),
        out_den=out[1].numpy(),
    )
    return out


def record(num: Complex[Tensor, "M M H"], den: Float[Tensor, "M M H"], lines: Lines) -> Float[Tensor, "n 3"]:
    """As `pack`, rounded to bfloat16."""
    if on_gpu(den):
        from cryoloom.kernels import gpu

        return gpu.record(num, den, lines)
    from cryoloom.kernels import cpu_records

    values = torch.empty(lines.total, 3, dtype=torch.bfloat16)
    cpu_records.record(
        pairs(num).view(np.uint32),
        den.numpy().view(np.uint32),
        **_line_arrays(lines),
        threads=kernel_threads(lines.total),
        values=values.view(torch.uint16).numpy(),
    )
    return values


def left_out(
    num: Complex[Tensor, "n M H"],
    den: Float[Tensor, "n M H"],
    after: Tensor | None,
    before: Tensor | None,
    lines: Lines,
    first: int,
) -> tuple[Complex[Tensor, "n M H"], Float[Tensor, "n M H"]]:
    """Planes of sums without what was added to them between two records (see `record`), 0 where there is no record.

    Args:
        num, den: planes from z = `first` on. before, after: the records; None if nothing was added before, or after.
    """
    if on_gpu(den):
        from cryoloom.kernels import gpu

        return gpu.left_out(num, den, after, before, lines, first)
    from cryoloom.kernels import cpu_records

    none = torch.empty(0, 3, dtype=torch.bfloat16)
    out = torch.empty(den.shape, dtype=torch.complex64), torch.empty(den.shape)
    cpu_records.left_out(
        pairs(num).view(np.uint32),
        den.numpy().view(np.uint32),
        **{
            name: (none if values is None else values).view(torch.uint16).numpy()
            for name, values in (("after", after), ("before", before))
        },
        **_line_arrays(lines),
        first=first,
        threads=kernel_threads(den.numel()),
        out_num=pairs(out[0]),
        out_den=out[1].numpy(),
    )
    return out


def standardised(
    images: Float[Tensor, "B DD"],
    fitted: Float[Tensor, "B DD"],
    outside: Float[Tensor, " DD"],
    slopes: Float[Tensor, "2 DD"],
) -> tuple[Float[Tensor, "B DD"], Float[Tensor, " B"]]:
    """Images on the CPU, as they are read, less the plane of a background and in units of its s.d.; and that s.d.

    Args:
        fitted: the images whose background is meant. outside, slopes: see `cpu_images.standardise`.
    """
    from cryoloom.kernels import cpu_images

    out, deviation = torch.empty(images.shape), torch.empty(len(images), dtype=torch.float64)
    cpu_images.standardise(
        images.contiguous().numpy(),
        fitted.contiguous().numpy(),
        outside=outside.numpy(),
        slopes=slopes.numpy(),
        threads=kernel_threads(),
        out=out.numpy(),
        deviation=deviation.numpy(),
    )
    return out, deviation


def _line_arrays(lines: Lines) -> dict[str, np.ndarray]:
    return {"starts": lines.starts.numpy(), "points": lines.points.numpy()}
