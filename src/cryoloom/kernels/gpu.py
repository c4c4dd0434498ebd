"""The kernels for tensors on a GPU, in plain torch: as in `cpu`, but in chunks that bound the memory of temporaries.

Nothing here requires a GPU: the same code runs, and is tested, on CPU tensors. `index_add_` sums in no fixed order on a
GPU, so results there are reproducible only up to float32 rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryoloom.kernels.half_grid import GUARD, Lines
from cryoloom.kernels.images import Images, Samples
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.half_turns import in_groups, unfolded

BUDGET_BYTES = 2**30  # largest size of the temporaries of a chunk
BLOCK = 1024  # entries per block: a draw chooses first a block, then an entry in it

# temporaries of one pose at one frequency, bytes: measured on the CPU 135, 287, 303, 142; of one entry of a grid 12.3,
# and 8 while its score is put together
SLICE_BYTES, INSERT_BYTES, NORMAL_BYTES, RESIDUAL_BYTES, ENTRY_BYTES = 140, 320, 340, 160, 22


def _budget(device: torch.device) -> int:
    """Bytes for temporaries: `BUDGET_BYTES`, or half of the free GPU memory if that is less."""
    if device.type != "cuda":
        return BUDGET_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(BUDGET_BYTES, (free + reusable) // 2)


def _in_chunks(work: Callable[[slice], None], count: int, bytes_each: int, device: torch.device) -> None:
    """Call `work` on slices that cover range(count); a slice for which memory runs out is halved and tried again.

    `work` must change nothing when it fails: it may add to sums only in its last step.

    Raises:
        torch.cuda.OutOfMemoryError: if not even one item fits.
    """
    size = max(1, _budget(device) // max(1, bytes_each))
    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            work(slice(start, stop))
        except torch.cuda.OutOfMemoryError as error:
            if stop - start == 1:
                raise torch.cuda.OutOfMemoryError(
                    f"one of {count} images or poses alone needs more than the {device} has left "
                    f"(about {bytes_each / 2**20:.0f} MiB of temporaries)"
                ) from error
            size = (stop - start) // 2
        else:
            start = stop
            continue
        # here, not in the handler, whose traceback keeps the failed call's tensors alive
        if device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells of a half grid around points [n, P]: flat index of the low corner, fractions, sign of the Friedel mate."""

    base: Tensor
    fx: Tensor
    fy: Tensor
    fz: Tensor
    sign: Tensor


def _locate(R: Float[Tensor, "n 3 3"], index: Int[Tensor, "P 2"], side: int, padding: int) -> _Cells:
    """Cells of the points padding * R (ix, iy, 0); points with x < 0 are read at their mate, with sign -1."""
    R = R.float()
    a, b = (index * padding).float().unbind(-1)
    # no matrix product: TF32, where it is switched on, would round the points to a thousandth of the radius
    points = R[:, :, 0, None] * a + R[:, :, 1, None] * b
    sign = torch.where(points[:, :1] < 0, -1.0, 1.0)
    points *= sign
    # the last grid line belongs to the last cell: the rim of an odd box lies on it when unrotated
    low = points.floor().clamp_(max=side - 2 - side // 2)
    points -= low
    x, y, z = low.long().unbind(1)
    base = ((z + side // 2) * side + (y + side // 2)) * (side // 2 + GUARD) + x
    fx, fy, fz = points.unbind(1)
    return _Cells(base, fx, fy, fz, sign[:, 0])


def _rows(grid: Complex[Tensor, "M M H"], cells: _Cells) -> list[tuple[Tensor, Tensor]]:
    """The two ends in x of each cell's four rows, at (z, y), (z, y + 1), (z + 1, y), (z + 1, y + 1)."""
    side, width = grid.shape[1], grid.shape[2]
    # an overlapping view [.., 2] of neighbours in x: one gather brings both
    pairs = grid.reshape(-1).unfold(0, 2, 1)
    ends = (pairs[cells.base + offset] for offset in (0, width, side * width, (side + 1) * width))
    return [(pair[..., 0], pair[..., 1]) for pair in ends]


def _conjugate(values: Complex[Tensor, "n P"], sign: Float[Tensor, "n P"]) -> Tensor:
    """Values with their imaginary part times `sign`, in place."""
    torch.view_as_real(values)[..., 1].mul_(sign)
    return values


def _value(grid: Complex[Tensor, "M M H"], cells: _Cells) -> Complex[Tensor, "n P"]:
    """Trilinear values."""
    c00, c01, c10, c11 = (low + cells.fx * (high - low) for low, high in _rows(grid, cells))
    e0, e1 = c00 + cells.fy * (c01 - c00), c10 + cells.fy * (c11 - c10)
    return _conjugate(e0 + cells.fz * (e1 - e0), cells.sign)


def _value_and_gradient(grid: Complex[Tensor, "M M H"], cells: _Cells) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Trilinear values and their derivatives along the volume's x, y and z in grid pixels."""
    fx, fy, fz = cells.fx, cells.fy, cells.fz
    rows = _rows(grid, cells)
    d00, d01, d10, d11 = (high - low for low, high in rows)
    c00, c01, c10, c11 = (low + fx * d for (low, _), d in zip(rows, (d00, d01, d10, d11), strict=True))
    c01, c11 = c01 - c00, c11 - c10
    e0 = c00 + fy * c01
    gz = c10 + fy * c11 - e0
    value = _conjugate(e0 + fz * gz, cells.sign)
    gy = c01 + fz * (c11 - c01)
    h0 = d00 + fy * (d01 - d00)
    gx = h0 + fz * (d10 + fy * (d11 - d10) - h0)
    # the mate is conj V(-k): its gradient carries a minus sign on the real part only
    for g in (gx, gy, gz):
        torch.view_as_real(g)[..., 0].mul_(cells.sign)
    return value, gx, gy, gz


def _moved_back(observed: Complex[Tensor, "n P"], t: Float[Tensor, "n 2"], disc: FourierDisc) -> Complex[Tensor, "n P"]:
    """Y e^{+2 pi i k.t}: the observation moved by -t, so that the model needs no ramp."""
    a, b = (disc.index * (2 * math.pi * disc.step)).float().unbind(-1)
    phase = t[:, :1].float() * a + t[:, 1:].float() * b
    return observed * torch.complex(torch.cos(phase), torch.sin(phase))


def slices(
    grid: Complex[Tensor, "M M H"], R: Float[Tensor, "N 3 3"], index: Int[Tensor, "P 2"], padding: int
) -> Complex[Tensor, "N P"]:
    """Central slices; see `dispatch.slices`."""
    out = torch.empty(len(R), len(index), dtype=torch.complex64, device=grid.device)

    def work(rows: slice) -> None:
        out[rows] = _value(grid, _locate(R[rows], index, grid.shape[0], padding))

    _in_chunks(work, len(R), SLICE_BYTES * len(index), grid.device)
    return out


def insert(images: Images, samples: Samples, side: int, padding: int, sums: Float[Tensor, "V 3"]) -> None:
    """Add to normal equations of the volume, before the mates in the plane x = 0 are folded in; see `dispatch.insert`.

    sums: real part, imaginary part and den of each cell of the half grid, flat.
    """
    disc, width = images.disc, side // 2 + GUARD
    device = images.observed.device
    kept = samples.weight.nonzero()[:, 0]  # samples of weight 0 may hold anything, even NaN
    precision = 0.5 * disc.weight / images.variance
    corner = torch.arange(2, device=device)
    offset = ((corner[:, None, None] * side + corner[:, None]) * width + corner).reshape(-1)

    def work(rows: slice) -> None:
        c = kept[rows]
        b = samples.image[c]
        ctf = images.ctf[b]
        wc = samples.weight[c, None].float() * precision[images.group[b]] * ctf
        value = wc * _moved_back(images.observed[b], samples.t[c], disc)
        cells = _locate(samples.R[c], disc.index, side, padding)
        columns = torch.stack([value.real, value.imag * cells.sign, wc * ctf], -1)
        x, y, z = (torch.stack([1 - f, f], -1) for f in (cells.fx, cells.fy, cells.fz))
        spread = (z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]).flatten(-3)
        source = columns[..., None, :] * spread[..., None]
        # all corners at once: a failure before this line has added nothing
        sums.index_add_(0, (cells.base[..., None] + offset).reshape(-1), source.reshape(-1, 3))

    _in_chunks(work, len(kept), INSERT_BYTES * len(disc.index), device)


def insert_moments(
    images: Images,
    R: Float[Tensor, "B 3 3"],
    t: Float[Tensor, "B 2"],
    first: Float[Tensor, "B Q"],
    second: Float[Tensor, "B T"],
    side: int,
    padding: int,
    sums: Float[Tensor, "V W"],
) -> None:
    """Add to normal equations of several volumes, before the mates are folded in; see `dispatch.insert_moments`.

    sums: the W = 2 Q + T numbers of each cell of the half grid, flat, as in `cpu.insert_moments`.
    """
    disc, width = images.disc, side // 2 + GUARD
    device = images.observed.device
    Q, T = first.shape[1], second.shape[1]
    precision = 0.5 * disc.weight / images.variance
    corners = [((dz * side + dy) * width + dx, dz, dy, dx) for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]

    def work(rows: slice) -> None:
        ctf = images.ctf[rows]
        wc = precision[images.group[rows]] * ctf
        value = wc * _moved_back(images.observed[rows], t[rows], disc)
        cells = _locate(R[rows], disc.index, side, padding)
        value = torch.stack([value.real, value.imag * cells.sign], -1)
        pair = (first[rows, None, :, None] * value[:, :, None, :]).flatten(-2)
        columns = torch.cat([pair, second[rows, None] * (wc * ctf)[..., None]], -1)
        parts = []
        for offset, *ends in corners:
            z, y, x = (f if end else 1 - f for f, end in zip((cells.fz, cells.fy, cells.fx), ends, strict=True))
            parts.append((cells.base + offset, columns * (x * y * z)[..., None]))
        index, source = (torch.cat([p[i].flatten(0, 1) for p in parts]) for i in (0, 1))
        sums.index_add_(0, index, source)

    _in_chunks(work, len(R), (INSERT_BYTES + 72 * (2 * Q + T)) * len(disc.index), device)


def normal_equations(
    grid: Complex[Tensor, "M M H"],
    images: Images,
    image: Int[Tensor, " C"],
    R: Float[Tensor, "C 3 3"],
    t: Float[Tensor, "C 2"],
    padding: int,
) -> Float[Tensor, "C 7 7"]:
    """Weighted products of the derivatives, the residual and the model of poses; see `cpu.normal_equations`.

    The whitened five columns of the Jacobian, the residual and the model make up one matrix A [2P, 7] for each pose;
    A^T A holds all products.
    """
    disc, device = images.disc, grid.device
    a, b = (disc.index * padding).float().unbind(-1)
    ka, kb = (disc.index * (2 * math.pi * disc.step)).float().unbind(-1)
    root = (disc.weight / images.variance).sqrt()
    product = torch.empty(len(image), 7, 7, device=device)

    def work(rows: slice) -> None:
        i = image[rows]
        r = R[rows, :, :, None].float()
        v, *gradient = _value_and_gradient(grid, _locate(R[rows], disc.index, grid.shape[0], padding))
        # in the image's frame: R^T grad V
        ax, ay, az = (sum(r[:, k, j] * gradient[k] for k in range(3)) for j in range(3))
        w = root[images.group[i]]
        wc = w * images.ctf[i]
        A = torch.empty(*v.shape[:1], 7, v.shape[1], dtype=torch.complex64, device=device)
        model = wc * v
        # d/d omega = k x R^T grad V with k = (a, b, 0); d/dt = -2 pi i k V
        A[:, 0], A[:, 1], A[:, 2] = wc * b * az, -wc * a * az, wc * (a * ay - b * ax)
        A[:, 3], A[:, 4] = -1j * ka * model, -1j * kb * model
        A[:, 5] = w * _moved_back(images.observed[i], t[rows], disc) - model
        A[:, 6] = model
        real = torch.view_as_real(A).flatten(-2)
        product[rows] = real @ real.mT

    _in_chunks(work, len(image), NORMAL_BYTES * len(disc.index), device)
    return product


def add_turns(
    grid: Complex[Tensor, "M M H"],
    weight: Float[Tensor, " N"],
    R: Float[Tensor, "N 3 3"],
    index: Int[Tensor, "P 2"],
    padding: int,
    out: Complex[Tensor, "N 3 P"],
) -> None:
    """Add the contribution of one volume to the derivatives with respect to rotation; see `dispatch.turns`."""
    a, b = (index * padding).float().unbind(-1)

    def work(rows: slice) -> None:
        r = R[rows, :, :, None].float()
        gradient = _value_and_gradient(grid, _locate(R[rows], index, grid.shape[0], padding))[1:]
        ax, ay, az = (sum(r[:, k, j] * gradient[k] for k in range(3)) for j in range(3))
        part = torch.stack([b * az, -a * az, a * ay - b * ax], 1)
        out[rows] += weight[rows, None, None] * part

    _in_chunks(work, len(R), NORMAL_BYTES * len(index), grid.device)


def residual_power(
    grid: Complex[Tensor, "M M H"], images: Images, samples: Samples, padding: int
) -> tuple[Float[Tensor, "G S"], Float[Tensor, "G S"]]:
    """Residual power and weight by optics group and shell; see `dispatch.residual_power`."""
    disc, device = images.disc, grid.device
    groups, shells = torch.arange(images.variance.shape[0], device=device), disc.shells
    kept = samples.weight.nonzero()[:, 0]
    power = torch.zeros(len(groups), len(disc.index), dtype=torch.float64, device=device)
    weight = torch.zeros(len(groups), dtype=torch.float64, device=device)

    def work(rows: slice) -> None:
        c = kept[rows]
        b = samples.image[c]
        v = _value(grid, _locate(samples.R[c], disc.index, grid.shape[0], padding))
        residual = _moved_back(images.observed[b], samples.t[c], disc) - images.ctf[b] * v
        squared = torch.view_as_real(residual).square().sum(-1)
        member = (images.group[b] == groups[:, None]) * samples.weight[c].float()
        sums = (member @ squared).double(), member.sum(1, dtype=torch.float64)
        power.add_(sums[0])
        weight.add_(sums[1])

    _in_chunks(work, len(kept), RESIDUAL_BYTES * len(disc.index), device)
    out = power.new_zeros(2, len(groups), round(disc.radius) + 1)
    out[0].index_add_(1, shells, power * disc.weight)
    out[1].index_add_(1, shells, weight[:, None] * disc.weight)
    return out[0].float(), out[1].float()


def grid_posterior(
    cross: Float[Tensor, "4 B T m"],
    norm: Float[Tensor, "2 B m"],
    prior: Float[Tensor, "B T"],
    uniform: Float[Tensor, " B"],
    draws: int,
    best: int,
    window: float = 15.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws, best keys, best scores and log evidence; see `dispatch.GridPosterior`.

    Draws invert the cumulative distribution in float64, first over blocks of entries, then within the chosen block.
    """
    _, B, T, m = cross.shape
    M = 4 * m
    n, device = T * M, cross.device
    blocks, top_k = -(-n // BLOCK), min(best, n)
    picks = torch.empty(B, draws, dtype=torch.int64, device=device)
    keys = torch.full((B, best), -1, dtype=torch.int64, device=device)
    scores = torch.full((B, best), -math.inf, device=device)
    evidence = torch.empty(B, device=device)

    def work(rows: slice) -> None:
        size = rows.stop - rows.start
        mass = cross.new_full((size, blocks * BLOCK), -math.inf)
        score = mass[:, :n].view(size, T, M)
        torch.add(unfolded(cross[:, rows]), in_groups(norm[:, rows])[:, None], out=score)
        score += prior[rows, :, None]
        high, key = mass.topk(top_k)
        top = high[:, :1]
        within = high > top - window
        keys[rows, :top_k] = torch.where(within, key, -1)
        scores[rows, :top_k] = torch.where(within, high, -math.inf)
        mass -= top
        mass.masked_fill_(mass <= -window, -math.inf).exp_()
        picks[rows], total = _systematic(mass.view(size, blocks, BLOCK), uniform[rows], draws)
        evidence[rows] = (top[:, 0] + total.log()).float()

    _in_chunks(work, B, (ENTRY_BYTES * blocks + 24 * draws) * BLOCK, device)
    return picks, keys, scores, evidence


def _systematic(
    mass: Float[Tensor, "B n b"], uniform: Float[Tensor, " B"], draws: int
) -> tuple[Int[Tensor, "B S"], Float[Tensor, " B"]]:
    """Systematic draws from unnormalised masses, as positions in a row of n b entries, and each row's total mass."""
    cumulative = mass.sum(-1, dtype=torch.float64).cumsum(1)
    total = cumulative[:, -1]
    quantile = (torch.arange(draws, device=mass.device) + uniform[:, None].double()) / draws
    target = quantile * total[:, None]
    block = torch.searchsorted(cumulative, target, right=True).clamp_(max=mass.shape[1] - 1)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    row = torch.arange(len(mass), device=mass.device)[:, None]
    inner = mass[row, block].double().cumsum(-1)
    # below the block's sum, however both were rounded: the search then ends at an entry that has mass
    limit = torch.nextafter(inner[..., -1:], torch.zeros_like(inner[..., -1:]))
    rest = (target - before)[..., None].minimum(limit)
    place = torch.searchsorted(inner, rest, right=True)[..., 0].clamp_(max=mass.shape[2] - 1)
    return block * mass.shape[2] + place, total


def average(half: Tensor, columns: Int[Tensor, "n 3"], signs: Int[Tensor, "n 3"]) -> None:
    """The mean of a half grid over exchanges of its axes; see `cpu_exchanges.average`."""
    side = half.shape[0]
    n = (side - 1) // 2
    low, high = side // 2 - n, side // 2 + n + 1
    kept = half[low:high, low:high, : n + 1]
    whole = torch.cat([kept[..., 1:].flip((0, 1, 2)).conj(), kept], 2)  # an odd cube [z, y, x] about its centre
    total = torch.zeros_like(kept)
    for c, s in zip(columns.tolist(), signs.tolist(), strict=True):
        # axis i of the result is axis c_i of the cube; array axes are in reverse order
        moved = whole.permute(2 - c[2], 2 - c[1], 2 - c[0])
        part = moved[..., : n + 1] if s[0] < 0 else moved[..., n:]
        total += part.flip([2 - i for i in range(3) if s[i] < 0])
    kept.copy_(total.div_(len(columns)))


def shell_sums(
    den: Float[Tensor, "n M H"], first: int, padding: int, reach: float, shells: int
) -> tuple[Float[Tensor, " S"], Int[Tensor, " S"]]:
    """Sums of den over shells, float64, and the number of points: see `cpu_planes.shell_sums`."""
    distance = _distances(den, first)
    shell = torch.where(distance <= reach, (distance / padding).round(), float(shells)).long().reshape(-1)
    total = torch.bincount(shell, den.double().reshape(-1), minlength=shells + 1)
    return total[:shells], torch.bincount(shell, minlength=shells + 1)[:shells]


def quotients(
    num: Complex[Tensor, "n M H"], den: Float[Tensor, "n M H"], first: int, padding: int, prior: Tensor, reach: float
) -> Complex[Tensor, "n M H"]:
    """num / (den + prior[shell]) within `reach`, lines in the order of transforms: see `cpu_planes.quotients`."""
    distance = _distances(den, first)
    shell = (distance / padding).round().long().clamp(max=len(prior) - 1)
    return torch.fft.ifftshift(torch.where(distance <= reach, num / (den + prior[shell]), 0), dim=1)


def _distances(planes: Tensor, first: int) -> Tensor:
    """Distance of each point of planes from the centre, grid pixels, float32."""
    n, side, width = planes.shape
    z, y, x = (torch.arange(size, device=planes.device, dtype=torch.float32) for size in (n, side, width))
    z, y = z + first - side // 2, y - side // 2
    return torch.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)


def shell_products(a: Complex[Tensor, "D D H"], b: Complex[Tensor, "D D H"], shells: int) -> Float[Tensor, "S 3"]:
    """Sums over shells of Re a b*, |a|^2 and |b|^2, float64: see `cpu_planes.shell_products`."""
    side = a.shape[0]
    f = torch.fft.fftfreq(side, 1 / side, device=a.device, dtype=torch.float64)
    x = torch.arange(side // 2 + 1, device=a.device, dtype=torch.float64)
    shell = (f[:, None, None] ** 2 + f[:, None] ** 2 + x**2).sqrt().round().long().reshape(-1)
    weight = torch.where((x == 0) | (2 * x == side), 1.0, 2.0)
    products = ((a * b.conj()).real, a.abs().square(), b.abs().square())
    return torch.stack([torch.bincount(shell, (p.double() * weight).reshape(-1), shells) for p in products], 1)


def pack(num: Complex[Tensor, "M M H"], den: Float[Tensor, "M M H"], lines: Lines) -> Tensor:
    """The first columns of each line, [n, 3]: see `cpu_records.pack`."""
    kept = torch.arange(den.shape[2], device=den.device) < lines.points[..., None]
    return torch.cat([torch.view_as_real(num[kept]), den[kept][:, None]], 1)


def unpack(
    values: Float[Tensor, "n 3"], lines: Lines, z: slice
) -> tuple[Complex[Tensor, "n M H"], Float[Tensor, "n M H"]]:
    """Planes of what `pack` has kept: see `cpu_records.unpack`."""
    kept = torch.arange(lines.side // 2 + GUARD, device=values.device) < lines.points[z, :, None]
    start = int(lines.starts[z.start, 0])
    part = values[start : start + int(kept.sum())]
    num = torch.zeros(kept.shape, dtype=torch.complex64, device=values.device)
    den = torch.zeros(kept.shape, device=values.device)
    num[kept], den[kept] = torch.view_as_complex(part[:, :2].contiguous()), part[:, 2]
    return num, den


def record(num: Complex[Tensor, "M M H"], den: Float[Tensor, "M M H"], lines: Lines) -> Tensor:
    """The first columns of each line as bfloat16, [n, 3]: see `cpu_records.record`."""
    return pack(num, den, lines).to(torch.bfloat16)


def left_out(
    num: Complex[Tensor, "n M H"],
    den: Float[Tensor, "n M H"],
    after: Tensor | None,
    before: Tensor | None,
    lines: Lines,
    first: int,
) -> tuple[Complex[Tensor, "n M H"], Float[Tensor, "n M H"]]:
    """Sums less a record plus another: see `cpu_records.left_out`."""
    kept = torch.arange(den.shape[2], device=den.device) < lines.points[first : first + len(den), :, None]
    start = int(lines.starts[first, 0])
    part = slice(start, start + int(kept.sum()))
    values = torch.zeros(part.stop - part.start, 3, device=den.device)
    if after is not None:
        values = torch.cat([torch.view_as_real(num[kept]), den[kept][:, None]], 1).to(torch.bfloat16).float()
        values = values - after[part].float()
    if before is not None:
        values = values + before[part].float()
    out_num, out_den = torch.zeros_like(num), torch.zeros_like(den)
    out_num[kept] = torch.view_as_complex(values[:, :2].contiguous())
    out_den[kept] = values[:, 2].clamp(min=0)
    return out_num, out_den
