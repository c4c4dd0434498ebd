"""Fourier shell correlation, gold-standard resolution with phase randomisation, and directional FSC.

Shell s holds the Fourier voxels whose integer radius rounds to s; shells 0 .. S-1 with S = D // 2 + 1. Sums run over
the half-space of the real transform with the weight of the missing mates, in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import slabs

# Chen et al. randomise beyond the shell where the FSC before masking falls below this
RANDOMISE_BELOW = 0.8
# Number of sets of random phases to average: a single set scatters the corrected curve as much as the noise of the maps
RANDOM_DRAWS = 4
# Ratio of masked to unmasked power above which the content of a shell counts as leaked in from other shells
LEAK = 3.0
# Joint significance (in standard deviations of noise) below which no resolution is given
SIGNIFICANCE = 5.0


@dataclass(frozen=True, slots=True, repr=False)
class GoldStandard:
    """Gold-standard FSC of two half maps; curves are float64 [S].

    Attributes:
        unmasked, masked: FSC of the half maps before and after masking.
        randomised: masked FSC after randomising the phases beyond `randomised_from` in both halves (mean of draws).
        corrected: (masked - randomised) / (1 - randomised) from two shells beyond `randomised_from`, the masked FSC
            below; 0 in shells whose only power leaked in from other shells through the mask (`leaked_shells`).
        randomised_from: first shell with random phases.
        shell, shell_half: shells at which `corrected` falls below 0.143 and 0.5 (see `crossing`).
        resolution_angstrom, resolution_half_angstrom: resolutions of these shells; None where the half maps do not
            correlate.
        significance: significance of the correlation up to `shell`, in standard deviations of independent noise.
        pixel_size: angstrom.
    """

    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    randomised_from: int
    shell: float
    shell_half: float
    resolution_angstrom: float | None
    resolution_half_angstrom: float | None
    significance: float
    pixel_size: float

    def __repr__(self) -> str:
        if self.resolution_angstrom is None:
            found = "the half maps do not correlate"
        else:
            found = f"{self.resolution_angstrom:.2f} Å at FSC 0.143"
            if self.resolution_half_angstrom is not None:
                found += f", {self.resolution_half_angstrom:.2f} Å at 0.5"
        return f"GoldStandard({found}; {len(self.corrected)} shells, {self.pixel_size:.4g} Å/voxel)"


@dataclass(frozen=True, slots=True)
class DirectionalFSC:
    """Conical FSC: curves [V, S] and the 0.143 crossing of each, as shell [V] and resolution [V] in angstrom.

    A resolution is infinite where the cone does not correlate at all. `area` is that under each curve up to its
    crossing, in shells, [V].
    """

    directions: Tensor
    fsc: Tensor
    shell: Tensor
    resolution_angstrom: Tensor
    area: Tensor

    @property
    def cfar(self) -> float | None:
        """Conical FSC area ratio, as in cryoSPARC: the smallest area over the largest; None where no cone correlates.

        1 for a map that is equally good in all directions; below 0.5, views are missing or wrong.
        """
        most = float(self.area.max())
        return float(self.area.min()) / most if most > 0 else None


@lru_cache(maxsize=2)
def half_space(box: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Shell (int32) and weight (float64: 2 where the mate is left out, else 1) of the voxels of rfftn, [D, D, D//2+1].

    Callers must not write to the returned tensors, which are cached.
    """
    f = torch.fft.fftfreq(box, 1 / box, device=device, dtype=torch.float64)
    h = torch.arange(box // 2 + 1, device=device, dtype=torch.float64)
    shell = (f[:, None, None] ** 2 + f[None, :, None] ** 2 + h**2).sqrt().round().int()
    alone = (h == 0) | (h == box / 2)
    return shell, torch.where(alone, 1.0, 2.0).to(torch.float64).expand(box, box, -1)


def shell_sums(values: Float[Tensor, "D D H"], box: int) -> Float[Tensor, " S"]:
    """Full-space sums over shells of a real function on the half-space of rfftn, float64."""
    shell, weight = half_space(box, values.device)
    total = torch.bincount(shell.reshape(-1), (values.to(torch.float64) * weight).reshape(-1))
    return total[: box // 2 + 1]


def shell_counts(box: int, device: torch.device) -> Float[Tensor, " S"]:
    """Number of voxels of each shell, float64."""
    return shell_sums(torch.ones(box, box, box // 2 + 1, device=device), box)


def _correlation(products: Float[Tensor, "S 3"]) -> Float[Tensor, " S"]:
    cross, one, two = products.unbind(1)
    return cross / (one * two + 1e-30).sqrt()


def _check_pair(a: Tensor, b: Tensor) -> int:
    if a.ndim != 3 or len(set(a.shape)) != 1 or a.shape != b.shape:
        raise ValueError(f"FSC needs two cubes of one side; found {tuple(a.shape)} and {tuple(b.shape)}")
    return a.shape[0]


def fourier_shell_correlation(a: Float[Tensor, "D D D"], b: Float[Tensor, "D D D"]) -> Float[Tensor, " S"]:
    """FSC of two volumes by shell, S = D // 2 + 1, float64; 0 where a shell is empty of power.

    Source: Harauz & van Heel, Optik 73 (1986) 146.

    Raises:
        ValueError: for volumes that are not cubes of one side.
    """
    _check_pair(a, b)
    return _correlation(dispatch.shell_products(torch.fft.rfftn(a), torch.fft.rfftn(b)))


def crossing(fsc: Float[Tensor, " S"], threshold: float) -> float:
    """Shell at which a curve falls below a threshold, interpolated linearly: the one definition of a resolution.

    The curve is read through a running median of three shells: a dip of one shell is no crossing, one shell above the
    threshold beyond the crossing is no return, and a falling curve is read as it is. Shells 1 and S - 1 are read as
    they are. 0 if shell 1 is already below, S - 1 if no shell is. Shell 0 is ignored.
    """
    raw = fsc.tolist()
    f = [sorted(raw[i - 1 : i + 2])[1] if 1 < i < len(raw) - 1 else raw[i] for i in range(len(raw))]
    for i in range(1, len(f)):
        if f[i] < threshold:
            return 0.0 if i == 1 else i - 1 + (f[i - 1] - threshold) / (f[i - 1] - f[i])
    return float(len(f) - 1)


def resolved_shell(fsc: Float[Tensor, " S"], threshold: float = 0.143) -> float:
    """Shell at which a curve that ends at a band limit falls below a threshold, as in `crossing`.

    The curve is taken to be 0 beyond its last shell: a curve that never falls below the threshold crosses it between
    its last shell and the next one.
    """
    return crossing(torch.cat([fsc, fsc.new_zeros(1)]), threshold)


def resolution_angstrom(shell: float, box: int, pixel_size: float) -> float | None:
    """Resolution in angstrom of a (fractional) shell; None for shell 0."""
    return box * pixel_size / shell if shell > 0 else None


def with_random_phases(
    ft: Complex[Tensor, "D D H"], shell: float, generator: torch.Generator
) -> Float[Tensor, "D D D"]:
    """The real volume of a transform with the phases of all shells >= `shell` replaced by random ones.

    Amplitudes are kept. Phases are drawn uniformly, those of mates with opposite sign; a frequency that is its own mate
    has none.
    """
    box = ft.shape[0]
    shells, _ = half_space(box, ft.device)
    # drawn on the generator's device: the same seed gives the same phases on CPU and GPU
    phase = torch.rand(ft.shape, generator=generator, dtype=ft.real.dtype, device=generator.device).to(ft.device)
    phase.mul_(2 * math.pi)
    for x in {0, box // 2} if box % 2 == 0 else {0}:  # both members of a pair are in these planes
        plane = phase[..., x].clone()
        phase[..., x] -= plane.flip((0, 1)).roll((1, 1), (0, 1))
    out = torch.empty_like(ft)
    for z in slabs(box, ft[0].numel(), ft.device):
        out[z] = torch.where(shells[z] >= shell, torch.polar(ft[z].abs(), phase[z]), ft[z])
    return torch.fft.irfftn(out, s=(box,) * 3)


def leaked_shells(
    half1: Float[Tensor, "D D D"], half2: Float[Tensor, "D D D"], mask: Float[Tensor, "D D D"]
) -> Bool[Tensor, " S"]:
    """Shells, beyond those in which the half maps agree without it, in which a mask more than triples their power.

    A mask within [0, 1] can't amplify a shell's own content: it leaked in from other shells. Without this check
    low-passed half maps would seem to agree up to Nyquist: the edge of the mask carries the low frequencies that they
    share into the empty shells. Where a high-pass filter has weakened low shells, what the mask brings there is signal.
    """
    before = [torch.fft.rfftn(half) for half in (half1, half2)]
    after = [torch.fft.rfftn(half * mask) for half in (half1, half2)]
    return _leaked(dispatch.shell_products(before[0], before[1]), dispatch.shell_products(after[0], after[1]))


def _leaked(before: Float[Tensor, "S 3"], after: Float[Tensor, "S 3"]) -> Bool[Tensor, " S"]:
    """See `leaked_shells`; from the products of the half maps before and after masking."""
    found = (after[:, 1:] > LEAK * before[:, 1:]).any(1)
    found[: _randomised_from(_correlation(before))] = False
    return found


def _randomised_from(unmasked: Float[Tensor, " S"]) -> int:
    """Shell beyond the last one in which unmasked halves agree well: from there on the mask's share is measured.

    A weak shell before it (a high-pass filter, a zero that all CTFs share) is no end.
    """
    agree = torch.nonzero(unmasked[1:] >= RANDOMISE_BELOW).flatten()
    return int(agree[-1]) + 2 if len(agree) else 1


def gold_standard(
    half1: Float[Tensor, "D D D"],
    half2: Float[Tensor, "D D D"],
    mask: Float[Tensor, "D D D"],
    pixel_size: float,
    generator: torch.Generator,
    mates: int = 1,
    draws: int = RANDOM_DRAWS,
) -> GoldStandard:
    """Gold-standard FSC corrected for the mask by phase randomisation.

    Source: Chen et al., Ultramicroscopy 135 (2013) 24. A resolution is given only if the correlation up to the
    crossing is `SIGNIFICANCE` standard deviations beyond that of independent noise, whose FSC has variance
    mates / (voxels of the shell x share of the box in the mask); so halves of pure noise have none.

    Args:
        half1, half2: independent half maps.
        mask: soft mask within [0, 1], in the frame of the half maps.
        pixel_size: angstrom.
        generator: source of the random phases.
        mates: order of the symmetry that was imposed on both: their voxels are alike in so many places.
        draws: number of sets of random phases.

    Raises:
        ValueError: for volumes that are not cubes of one side, or an empty mask.
    """
    return HalfMaps.of(half1, half2).gold_standard(mask, pixel_size, generator, mates, draws)


@dataclass(frozen=True, slots=True)
class HalfMaps:
    """Two independent half maps, compared within several masks.

    Attributes:
        halves: [D, D, D]; transforms: theirs; products: see `kernels.dispatch.shell_products`.
    """

    halves: tuple[Tensor, Tensor]
    transforms: tuple[Tensor, Tensor]
    products: Tensor

    @staticmethod
    def of(half1: Float[Tensor, "D D D"], half2: Float[Tensor, "D D D"]) -> HalfMaps:
        """Transform both.

        Raises:
            ValueError: for volumes that are not cubes of one side.
        """
        _check_pair(half1, half2)
        transforms = torch.fft.rfftn(half1), torch.fft.rfftn(half2)
        return HalfMaps((half1, half2), transforms, dispatch.shell_products(*transforms))

    def gold_standard(
        self,
        mask: Float[Tensor, "D D D"],
        pixel_size: float,
        generator: torch.Generator,
        mates: int = 1,
        draws: int = RANDOM_DRAWS,
    ) -> GoldStandard:
        """See the function of that name."""
        box, shape = len(self.halves[0]), tuple(self.halves[0].shape)
        if tuple(mask.shape) != shape:
            raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected that of the halves, {shape}")
        if float(mask.max()) <= 0:
            raise ValueError("the mask of the FSC is empty (its largest value is 0); expected values up to 1")
        # plane by plane, without a copy in float64
        second, fourth = (float(torch.stack([plane.double().pow(n).sum() for plane in mask]).sum()) for n in (2, 4))
        share = second**2 / (fourth * mask.numel())
        after = dispatch.shell_products(*(torch.fft.rfftn(half * mask) for half in self.halves))
        unmasked, masked = _correlation(self.products), _correlation(after)
        start = _randomised_from(unmasked)
        randomised = masked
        if start < len(unmasked):
            found = []
            for _ in range(draws):
                volumes = (with_random_phases(ft, start, generator).mul_(mask) for ft in self.transforms)
                found.append(_correlation(dispatch.shell_products(*map(torch.fft.rfftn, volumes))))
            randomised = torch.stack(found).mean(0)
        corrected = _corrected(masked, randomised, start)
        corrected = torch.where(_leaked(self.products, after), 0.0, corrected)
        shell, half = crossing(corrected, 0.143), crossing(corrected, 0.5)
        z = _significance(corrected, shell, box, share / mates)
        sure = z > SIGNIFICANCE
        return GoldStandard(
            unmasked=unmasked,
            masked=masked,
            randomised=randomised,
            corrected=corrected,
            randomised_from=start,
            shell=shell,
            shell_half=half,
            resolution_angstrom=resolution_angstrom(shell, box, pixel_size) if sure else None,
            resolution_half_angstrom=resolution_angstrom(half, box, pixel_size) if sure else None,
            significance=z,
            pixel_size=float(pixel_size),
        )


def _corrected(masked: Float[Tensor, "*V S"], randomised: Float[Tensor, " S"], start: int) -> Float[Tensor, "*V S"]:
    """Masked FSC without what the mask adds, as it shows where phases are random, from shell `start` on."""
    # just beyond `start` the mask mixes kept phases into random ones: the correction would be too strong there
    shells = torch.arange(len(randomised), device=randomised.device)
    full = (masked - randomised) / (1 - randomised).clamp(min=1e-6)
    return torch.where(shells < start + 2, masked, full.clamp(-1, 1))


def _significance(fsc: Tensor, shell: float, box: int, share: float) -> float:
    """Joint z-score of shells 1 .. `shell`, each weighted by its number of independent voxels."""
    last = int(shell)
    if last < 1:
        return 0.0
    count = shell_counts(box, fsc.device)[1 : last + 1] * share
    return float((count * fsc[1 : last + 1]).sum() / count.sum().sqrt())


def directional_fsc(
    half1: Float[Tensor, "D D D"],
    half2: Float[Tensor, "D D D"],
    mask: Float[Tensor, "D D D"],
    gold: GoldStandard,
    directions: Float[Tensor, "V 3"],
    half_angle_degrees: float = 20.0,
    fewest: int = 12,
) -> DirectionalFSC:
    """FSC within double cones about directions, and the resolution along each, measured as the gold standard's is.

    Source: Tan et al., Nat. Methods 14 (2017) 793 (3DFSC). The curves are corrected for the mask by the randomised FSC
    of the whole shells, which has less scatter than that of cones. Where a cone holds fewer than `fewest` half-space
    voxels of a shell, it takes the FSC of the whole shell.

    Args:
        half1, half2, mask: as for `gold_standard`.
        gold: their gold-standard FSC.
        directions: unit vectors (x, y, z) in the frame of the map; d and -d are one direction.
        half_angle_degrees: half the opening angle of the cones.
    """
    box = _check_pair(half1, half2)
    last = box // 2
    k, terms, ends = _sorted_terms(torch.fft.rfftn(half1 * mask), torch.fft.rfftn(half2 * mask), box)
    curves = torch.ones(len(directions), last + 1, dtype=torch.float64, device=half1.device)
    cosine = math.cos(math.radians(half_angle_degrees))
    d = directions.to(k)
    for s in range(1, last + 1):
        rows = slice(ends[s - 1], ends[s])
        inside = ((d @ k[rows].T).abs() >= cosine).to(k.dtype)
        sums = (inside @ terms[rows]).to(torch.float64)
        whole = terms[rows].to(torch.float64).sum(0)
        sums = torch.where(sums[:, 3:] < 2 * fewest, whole, sums)
        curves[:, s] = sums[:, 0] / (sums[:, 1] * sums[:, 2] + 1e-30).sqrt()
    curves = _corrected(curves, gold.randomised, gold.randomised_from)
    curves = torch.where(leaked_shells(half1, half2, mask), 0.0, curves)
    found = [crossing(c, 0.143) for c in curves]
    shell = torch.tensor(found, dtype=torch.float64, device=half1.device)
    area = torch.stack([c[1 : math.floor(at) + 1].sum() for c, at in zip(curves, found, strict=True)])
    return DirectionalFSC(directions, curves, shell, box * gold.pixel_size / shell, area)


def _sorted_terms(fa: Tensor, fb: Tensor, box: int) -> tuple[Tensor, Tensor, list[int]]:
    """Voxels of shells 1 .. D // 2, by shell: unit vectors [n, 3]; weight times (Re a b*, |a|^2, |b|^2, 1), [n, 4]; and
    the number of voxels up to each shell."""
    shells, weight = half_space(box, fa.device)
    f = torch.fft.fftfreq(box, 1 / box, device=fa.device)
    h = torch.arange(box // 2 + 1, device=fa.device, dtype=f.dtype)
    kz, ky, kx = torch.meshgrid(f, f, h, indexing="ij")
    keep = torch.nonzero(((shells >= 1) & (shells <= box // 2)).reshape(-1)).flatten()
    keep = keep[torch.argsort(shells.reshape(-1)[keep], stable=True)]
    k = torch.stack([kx, ky, kz], -1).reshape(-1, 3)[keep]
    a, b = fa.reshape(-1)[keep], fb.reshape(-1)[keep]
    terms = torch.stack([(a * b.conj()).real, a.abs().square(), b.abs().square(), torch.ones_like(a.real)], -1)
    ends = torch.bincount(shells.reshape(-1)[keep], minlength=box // 2 + 1).cumsum(0).tolist()
    return k / k.norm(dim=-1, keepdim=True), terms.to(f.dtype) * weight.reshape(-1)[keep, None].to(f.dtype), ends
