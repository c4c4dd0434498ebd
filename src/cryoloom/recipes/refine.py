"""Refinement: global searches and Levenberg-Marquardt on every pose, half sets apart from the first insertion on.

Each iteration takes every image once: candidates (found anew by a global search where they are missing or doubtful)
climb against the map of the image's own half, the optima are weighed by their Laplace evidence, and the weighted poses
are inserted into the next map of that half. The radius follows the FSC of the halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.global_search import References, candidates_of, references_of, search
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import Refined, refine_poses
from cryoloom.inference.poses.samples import posterior_samples
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.backprojection import (
    Statistics,
    accumulate,
    half_map_fsc,
    solve,
    ssnr_of_half,
    ssnr_of_sum,
    symmetric_samples,
)
from cryoloom.maps.band import Band
from cryoloom.maps.fsc import crossing, resolved_shell
from cryoloom.maps.mask import automatic_mask
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.noise import ResidualPower
from cryoloom.physics.rotations import geodesic_degrees_modulo, symmetry_group
from cryoloom.runs.loop import numpy_generator, torch_generator
from cryoloom.runs.progress import StepInfo

STAGE_INDEX = 1
BATCH = 500  # images at once
DOUBT_NATS = 5.0  # an image is searched again if its second candidate is closer than that
MISFIT = 3.0  # ... or its best score so many s.d. below what its pose would give if it were right
TIGHT = 1.5  # times the common radius that the halves must agree to before the molecule is masked
FEW_DOUBTFUL = 0.005  # below this share a search is not worth its slices
LOW_STEPS = 4  # of a climb at low radius, where there are more candidates than are kept
STILL = 0.3  # poses that move by less than this share of their uncertainty stand still
MANY_DOUBTFUL = 0.25  # from this share on all images are searched again,
ALL_SEARCHED = 2  # ... in the first so many searches; what is certain at the second's radius is right


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """Refinement by Levenberg-Marquardt on every candidate, half sets apart."""

    candidates: int = 4
    """Starts kept for each image."""

    coarse_level: float = 6.0
    """Radius of the first, coarse match in Fourier pixels of a box as large as the particle."""

    fine_levels: tuple[float, ...] = (7.5, 9.75, 12.0)
    """Radius of the fine match of each global search (the first, the second, all later ones), likewise, as far as the
    map's resolution allows."""

    climb_steps: int = 5
    """Of every candidate in an iteration; 0 weighs the poses that there are and leaves them in place."""

    most_iterations: int = 10
    """Iterations after which refinement ends in any case."""

    least_iterations: int = 3
    """Iterations before it may end."""


@dataclass(frozen=True)
class RefineState:
    """Carried from iteration to iteration.

    Attributes:
        iteration: done so far; radius: of the last comparison, Fourier pixels.
        poses: PosePosterior of all N images on the CPU (covariance of the best candidate apart).
        covariance: [N, 5, 5] of the best candidate; score, power: [N] of the best candidate (see `Refined`).
        half: [N] of 0 and 1.
        references: the two maps [m, m, m] that images are compared with next, one a half.
        noise: [G, S]; sigma_angstrom: s.d. of shifts.
        fsc: of the last half maps, by shell; shell: its 0.143 crossing; searches: global searches done so far.
        statistics: of the two halves at full radius.
        settled: no gain in the last iteration.
        spread: images are inserted over the width of their posterior, not at its candidates alone.
    """

    iteration: int
    radius: int
    poses: PosePosterior
    covariance: Tensor
    score: Tensor
    power: Tensor
    half: np.ndarray
    references: tuple[Tensor, Tensor]
    noise: Tensor
    sigma_angstrom: float
    fsc: Tensor
    shell: float
    searches: int
    statistics: tuple[Statistics, Statistics] | None
    settled: bool
    spread: bool

    @property
    def posterior(self) -> PosePosterior:
        """What is inserted: poses, where they spread with the covariance of an image's best candidate for all of it."""
        if not self.spread:
            return self.poses
        N, K = self.poses.log_weight.shape
        covariance = self.covariance[:, None].expand(N, K, 5, 5)
        return PosePosterior(self.poses.R, self.poses.t, self.poses.log_weight, covariance=covariance)

    @property
    def misfit(self) -> Tensor:
        """How many standard deviations each best score lies below what a right pose would give, [N]."""
        return (0.5 * self.power - self.score) / self.power.clamp(min=1.0).sqrt()


class RefineRecipe:
    """The stage `refine`: from a map (and perhaps poses) to two half maps and a posterior for every image."""

    name = "refine"

    def __init__(
        self,
        feed: ImageFeed,
        settings: RefineSettings,
        seed: int,
        start: Tensor | tuple[Tensor, Tensor],
        noise: Tensor,
        sigma_angstrom: float,
        symmetry: str = "C1",
        poses: PosePosterior | None = None,
        half: np.ndarray | None = None,
        spread: bool | None = None,
    ) -> None:
        """Start from a map (or one a half) [m, m, m] with the field of view of the working box, band-limited by its box
        m = 2 (radius + 2); `poses` given means that the first iteration climbs from them instead of searching.

        `spread`: see `RefineState`. Left out, given poses are inserted as they are: they may come from more than these
        images tell (tilt series, neighbours), and the width of what the images tell would blur them.
        """
        self.feed, self.settings, self.seed = feed, settings, seed
        self.start = start if isinstance(start, tuple) else (start, start)
        self.noise, self.sigma = noise, sigma_angstrom
        self.group = symmetry_group(symmetry).float()
        self.poses = poses
        self.half = half
        self.spread = poses is None if spread is None else spread
        self.limit = (feed.box - 1) // 2

    def init(self) -> RefineState:
        """No poses yet (or the given ones), half sets drawn."""
        N, K = len(self.feed), self.settings.candidates
        half = self.half
        if half is None:
            rng = numpy_generator(self.seed, STAGE_INDEX, 0)
            half = rng.permutation(np.arange(N) % 2)
        empty = PosePosterior(
            torch.eye(3).expand(N, K, 3, 3).clone(), torch.zeros(N, K, 2), torch.full((N, K), -torch.inf)
        )
        poses = empty
        if self.poses is not None:
            poses = _padded(self.poses, K)
        radius = Band.of_box(self.start[0].shape[-1]).radius
        return RefineState(
            iteration=0,
            radius=radius,
            poses=poses,
            covariance=torch.zeros(N, 5, 5),
            score=torch.zeros(N),
            power=torch.zeros(N),
            half=half,
            references=self.start,
            noise=self.noise,
            sigma_angstrom=self.sigma,
            fsc=torch.ones(1),
            shell=float(radius),
            searches=0 if self.poses is None else -1,
            statistics=None,
            settled=False,
            spread=self.spread,
        )

    def finished(self, state: RefineState) -> bool:
        """Whether nothing is gained any more."""
        s = self.settings
        return state.iteration >= s.most_iterations or (state.settled and state.iteration >= s.least_iterations)

    def end_early(self, state: RefineState) -> RefineState:
        """The state after the last whole iteration is a result as it is."""
        return state

    def step(self, state: RefineState) -> tuple[RefineState, StepInfo]:
        """One pass over all images."""
        search_radius = self._search_radius(state)
        doubtful = self._doubtful(state)
        radius = self._climb_radius(state)
        insertion = self._insertion_radius(radius)
        N, K = state.poses.log_weight.shape
        R, t = state.poses.R.clone(), state.poses.t.clone()
        weight = torch.full((N, K), -torch.inf)
        covariance, score, power = torch.zeros(N, 5, 5), torch.zeros(N), torch.zeros(N)
        side = Band(insertion).side
        halves = []
        residuals = None
        for h in (0, 1):
            grid = volume_to_half(rebox(state.references[h], Band(radius).box))
            references = None  # the other half's slices go before these come
            if doubtful[state.half == h].any():
                references = references_of(self.feed, state.references[h], self.settings.coarse_level, search_radius)
            statistics = None
            mine = np.flatnonzero(state.half == h)
            for start in range(0, len(mine), BATCH):
                rows = mine[start : start + BATCH]
                index = torch.from_numpy(rows)
                images = self.feed.images(rows, insertion, state.noise)
                candidates = self._candidates(state, images, rows, doubtful[rows], references)
                refined = self._climb(grid, images, candidates, state.sigma_angstrom, radius)
                best = refined.posterior.top(K)
                R[index], t[index], weight[index] = best.R.cpu(), best.t.cpu(), best.log_weight.cpu()
                assert best.covariance is not None
                covariance[index] = best.covariance[:, 0].cpu()
                score[index], power[index] = refined.score.cpu(), refined.power.cpu()
                generator = torch_generator(self.seed, STAGE_INDEX, _draw(state.iteration, h, start))
                samples = posterior_samples(best if state.spread else best.bare(), generator, len(self.group))
                newest = accumulate(images, symmetric_samples(samples, self.group), side)
                statistics = newest if statistics is None else statistics + newest
                residual = ResidualPower(*dispatch.residual_power(grid, images.prefix(radius), _first_only(best)))
                residuals = residual if residuals is None else residuals + residual
            assert statistics is not None
            halves.append(statistics)
        assert residuals is not None
        poses = PosePosterior(R, t, weight)
        return self._after(
            state,
            poses,
            covariance=covariance,
            score=score,
            power=power,
            halves=(halves[0], halves[1]),
            residuals=residuals,
            radius=radius,
            insertion=insertion,
            doubtful=doubtful,
        )

    def _after(
        self,
        state: RefineState,
        poses: PosePosterior,
        covariance: Tensor,
        score: Tensor,
        power: Tensor,
        halves: tuple[Statistics, Statistics],
        residuals: ResidualPower,
        radius: int,
        insertion: int,
        doubtful: np.ndarray,
    ) -> tuple[RefineState, StepInfo]:
        """New references, noise and radius from the pass's sums."""
        mask, fsc = self._mask_and_fsc(halves, insertion)
        references = tuple(solve(h, ssnr_of_half(fsc), insertion) * mask for h in halves)
        shell = resolved_shell(fsc)
        noise = residuals.learnt(state.noise)
        best_t = poses.t[:, 0]
        sigma = float(best_t.square().mean().sqrt().clamp(min=0.25 * self.feed.pixel_size))
        moved = geodesic_degrees_modulo(poses.R[:, 0], state.poses.R[:, 0], self.group)
        median = float(moved.median())
        searched = bool(doubtful.any())
        gained = shell - state.shell if state.iteration > 0 else 1.0
        at_rim = radius >= min(self.limit, int(shell) + 1)
        uncertain = float(angular_error_degrees(covariance).median())
        still = median < max(0.5, STILL * uncertain)
        settled = gained < 0.3 and at_rim and still and (not searched or float(doubtful.mean()) < MANY_DOUBTFUL)
        following = RefineState(
            iteration=state.iteration + 1,
            radius=radius,
            poses=poses,
            covariance=covariance,
            score=score,
            power=power,
            half=state.half,
            references=(references[0], references[1]),
            noise=noise,
            sigma_angstrom=sigma,
            fsc=fsc,
            shell=shell,
            searches=state.searches + 1 if searched or state.searches < 0 else state.searches,
            statistics=halves,
            settled=settled,
            spread=state.spread,
        )
        side = self.feed.box * self.feed.pixel_size
        info = StepInfo(
            self.name,
            state.iteration + 1,
            None,
            side / shell if shell > 0 else None,
            (
                ("radius", float(radius)),
                ("shell", shell),
                ("searched", float(doubtful.mean())),
                ("moved_degrees", median),
                ("certain", float((poses.log_weight[:, 0] > np.log(0.9)).float().mean())),
                ("angular_error_degrees", uncertain),
                ("shift_sigma_angstrom", sigma),
                ("score", float(score.mean())),
            ),
        )
        return following, info

    def _search_radius(self, state: RefineState) -> int:
        """Of the next global search: as far as the maps are worth it."""
        levels = self.settings.fine_levels
        level = self.feed.radius_of(levels[min(max(state.searches, 0), len(levels) - 1)])
        trusted = state.radius if state.iteration == 0 else max(5, int(crossing(state.fsc, 0.3)))
        return min(level, trusted)

    def _climb_radius(self, state: RefineState) -> int:
        """Of the comparison: the FSC's 0.143 shell and a few more, never more than half again the last radius."""
        if state.iteration == 0:
            return state.radius
        return min(self.limit, round(state.shell) + 3, round(1.5 * state.radius))

    def _insertion_radius(self, radius: int) -> int:
        if self.settings.climb_steps == 0:  # poses that stay are as good as they will be
            return self.limit
        return min(self.limit, max(radius + 4, round(1.3 * radius)))

    def _doubtful(self, state: RefineState) -> np.ndarray:
        """Images to be searched globally, bool [N]."""
        N = len(self.feed)
        if state.searches < 0:
            return np.zeros(N, bool)
        if state.iteration == 0:
            return np.ones(N, bool)
        second = state.poses.log_weight[:, 1] if state.poses.log_weight.shape[1] > 1 else None
        doubt = state.misfit > MISFIT
        if second is not None:
            doubt |= second > -DOUBT_NATS
        doubt = doubt.numpy()
        if state.searches < ALL_SEARCHED and doubt.mean() > MANY_DOUBTFUL:
            return np.ones(N, bool)
        if state.searches >= len(self.settings.fine_levels) + 1 or doubt.mean() < FEW_DOUBTFUL:
            return np.zeros(N, bool)
        return doubt

    def _mask_and_fsc(self, halves: tuple[Statistics, Statistics], insertion: int) -> tuple[Tensor, Tensor]:
        """Mask of the next references, and the FSC of the halves within it.

        The sphere of the particle at first; the molecule's own mask once the halves agree well beyond their common
        start. Noise around the molecule costs accuracy: on adenylate kinase (5,000 images, SNR 0.1) the median error of
        the poses falls from 2.2 to 1.9 degrees.
        """
        mask = self.feed.mask(Band(insertion).box)
        fsc = half_map_fsc(*halves, insertion, mask)
        shell = resolved_shell(fsc)
        if shell < TIGHT * Band.of_box(self.start[0].shape[-1]).radius:
            return mask, fsc
        side = self.feed.box * self.feed.pixel_size
        joint = solve(halves[0] + halves[1], ssnr_of_sum(fsc), insertion) * mask
        diameter = self.feed.source.preprocessing.particle_diameter_angstrom
        mask = mask * automatic_mask(joint, side / joint.shape[-1], diameter, side / shell)
        return mask, half_map_fsc(*halves, insertion, mask)

    def _candidates(
        self,
        state: RefineState,
        images: Images,
        rows: np.ndarray,
        doubtful: np.ndarray,
        references: References | None,
    ) -> PosePosterior:
        """The images' present candidates, and for doubtful ones those of a new search."""
        index = torch.from_numpy(rows)
        device = self.feed.device
        known = PosePosterior(
            state.poses.R[index].to(device), state.poses.t[index].to(device), state.poses.log_weight[index].to(device)
        )
        if references is None or not doubtful.any():
            return known
        which = torch.from_numpy(np.flatnonzero(doubtful)).to(device)
        some = Images(images.observed[which], images.ctf[which], images.variance, images.group[which], images.disc)
        sigma = state.sigma_angstrom
        posterior = search(self.feed, some, references, sigma)
        radius = references[1].disc.radius
        found = candidates_of(
            self.feed,
            [posterior],
            radius=radius,
            sigma_angstrom=sigma,
            count=self.settings.candidates,
            group=self.group,
        )
        K = known.log_weight.shape[1]
        B = len(known)
        R = torch.cat([known.R, known.R.clone()], 1)
        t = torch.cat([known.t, known.t.clone()], 1)
        weight = torch.cat([known.log_weight, torch.full((B, K), -torch.inf, device=device)], 1)
        # both lists are candidates on a par: the climb decides; of the known ones only the likely are worth one
        weight[which] = torch.where(weight[which] > -DOUBT_NATS, 0.0, -torch.inf)
        R[which, K:], t[which, K:], weight[which, K:] = found.R, found.t, found.log_weight
        return PosePosterior(R, t, weight)

    def _climb(self, grid: Tensor, images: Images, candidates: PosePosterior, sigma: float, radius: int) -> Refined:
        """From coarse to full radius, candidates that fall behind dropped on the way."""
        start = candidates
        low = self.feed.radius_of(self.settings.fine_levels[0])
        if start.log_weight.shape[1] > self.settings.candidates and radius > 1.3 * low:
            start = refine_poses(grid, images.prefix(low), start, sigma, LOW_STEPS, group=self.group).posterior
            start = start.top(self.settings.candidates)
        steps = self.settings.climb_steps
        return refine_poses(grid, images.prefix(radius), start, sigma, steps, group=self.group)

    def to_arrays(self, state: RefineState) -> Mapping[str, np.ndarray | Tensor]:
        """Flat arrays."""
        s = state
        arrays: dict[str, np.ndarray | Tensor] = {
            "R": s.poses.R,
            "t": s.poses.t,
            "log_weight": s.poses.log_weight,
            "covariance": s.covariance,
            "score": s.score,
            "power": s.power,
            "half": s.half,
            "noise": s.noise,
            "fsc": s.fsc,
            "reference1": s.references[0].cpu(),
            "reference2": s.references[1].cpu(),
            "numbers": np.array(
                [s.iteration, s.radius, s.sigma_angstrom, s.shell, s.searches, s.settled, s.spread], dtype=np.float64
            ),
        }
        for i, h in enumerate(s.statistics or ()):
            arrays[f"num{i + 1}"], arrays[f"den{i + 1}"] = h.num.cpu(), h.den.cpu()
        return arrays

    def from_arrays(self, arrays: Mapping[str, np.ndarray | Tensor]) -> RefineState:
        """The inverse of `to_arrays`."""

        def tensor(name: str) -> Tensor:
            return torch.as_tensor(arrays[name])

        device = self.feed.device
        n = [float(x) for x in np.asarray(arrays["numbers"])]
        statistics = None
        if "num1" in arrays:
            one, two = (Statistics(tensor(f"num{i}").to(device), tensor(f"den{i}").to(device)) for i in (1, 2))
            statistics = (one, two)
        return RefineState(
            iteration=int(n[0]),
            radius=int(n[1]),
            poses=PosePosterior(tensor("R"), tensor("t"), tensor("log_weight")),
            covariance=tensor("covariance"),
            score=tensor("score"),
            power=tensor("power"),
            half=np.asarray(arrays["half"]),
            references=(tensor("reference1").to(device), tensor("reference2").to(device)),
            noise=tensor("noise"),
            sigma_angstrom=n[2],
            fsc=tensor("fsc"),
            shell=n[3],
            searches=int(n[4]),
            statistics=statistics,
            settled=bool(n[5]),
            spread=bool(n[6]),
        )


def _draw(iteration: int, half: int, start: int) -> int:
    """Number of a batch of a half of an iteration, for its random generator."""
    return 1 + (2 * iteration + half) * 1_000_000_000 + start


def half_statistics(
    feed: ImageFeed,
    poses: PosePosterior,
    half: np.ndarray,
    noise: Tensor,
    group: Tensor,
    radius: int,
    generator: torch.Generator,
) -> tuple[Statistics, Statistics]:
    """Both halves inserted at `radius`, over the width of the posteriors where it is known.

    Raises:
        ValueError: if a half has no particles.
    """
    halves = []
    for h in (0, 1):
        total = None
        mine = np.flatnonzero(half == h)
        for start in range(0, len(mine), BATCH):
            rows = mine[start : start + BATCH]
            mine_now = poses.rows(torch.from_numpy(rows)).to(feed.device)
            samples = posterior_samples(mine_now, generator, len(group))
            newest = accumulate(feed.images(rows, radius, noise), symmetric_samples(samples, group), Band(radius).side)
            total = newest if total is None else total + newest
        if total is None:
            raise ValueError(f"half set {h + 1} has no particles; expected both halves to be filled")
        halves.append(total)
    return halves[0], halves[1]


def maps_of_poses(
    feed: ImageFeed, poses: PosePosterior, half: np.ndarray, noise: Tensor, symmetry: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Half maps of given poses, each Wiener-filtered by their FSC and masked, band-limited to its 0.143 crossing."""
    radius = (feed.box - 1) // 2
    halves = half_statistics(
        feed,
        poses,
        half=half,
        noise=noise,
        group=symmetry_group(symmetry).float().to(feed.device),
        radius=radius,
        generator=generator,
    )
    mask = feed.mask(Band(radius).box)
    fsc = half_map_fsc(halves[0], halves[1], radius, mask)
    last = min(radius, max(4, int(resolved_shell(fsc))))
    small = Band(last).box
    maps = [solve(x, ssnr_of_half(fsc), radius) * mask for x in halves]
    one, two = (rebox(v, small).contiguous() for v in maps)
    return one, two


def _padded(poses: PosePosterior, count: int) -> PosePosterior:
    """Known poses in the first slot, the others unused."""
    B, K = poses.log_weight.shape
    if count <= K:
        return poses.top(count)
    R = torch.cat([poses.R, poses.R[:, :1].expand(-1, count - K, 3, 3)], 1).float()
    t = torch.cat([poses.t, poses.t[:, :1].expand(-1, count - K, 2)], 1).float()
    return PosePosterior(R, t, torch.cat([poses.log_weight.float(), torch.full((B, count - K), -torch.inf)], 1))


def _first_only(poses: PosePosterior) -> Samples:
    B = len(poses)
    image = torch.arange(B, device=poses.R.device)
    return Samples(image, poses.R[:, 0].contiguous(), poses.t[:, 0].contiguous(), torch.ones_like(poses.t[:, 0, 0]))


def angular_error_degrees(covariance: Tensor) -> Tensor:
    """Root of the trace of the rotational covariance, degrees: the expected r.m.s. angular error of each pose."""
    return torch.rad2deg(torch.diagonal(covariance[:, :3, :3], dim1=1, dim2=2).sum(1).clamp(min=0).sqrt())


def shift_error_angstrom(covariance: Tensor) -> Tensor:
    """Root of the trace of the shifts' covariance, angstrom."""
    return torch.diagonal(covariance[:, 3:, 3:], dim1=1, dim2=2).sum(1).clamp(min=0).sqrt()
