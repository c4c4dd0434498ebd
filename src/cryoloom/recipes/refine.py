"""Refinement: global searches and Levenberg-Marquardt on every pose, with separate half sets throughout.

Each iteration processes every image once. Its candidate poses, found by a global search where they are missing or
doubtful, are refined against the map of the image's own half set; the optima are weighted by their Laplace evidence,
and the image is inserted at the weighted poses into the next map of that half. The radius follows the FSC of the half
maps. At the end, images in doubt between modes are compared with the map of all images (`refine_pass`).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.folds import FOLDS, folds_of, own_noise_gain
from cryoloom.inference.poses.map_noise import MapNoise, map_noise
from cryoloom.inference.poses.modes import WIDEST_MODE_DEGREES, certain_share, mode_weight, smallest_turns
from cryoloom.inference.poses.moves import to_go
from cryoloom.inference.poses.posed import PosedImages, in_batches
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import misfit_sigmas, refine_poses
from cryoloom.inference.poses.shared_doubt import SharedDoubt, shared_doubt, shared_turns
from cryoloom.inference.poses.start import PoseStart
from cryoloom.kernels.dispatch import Insertion
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.backprojection import (
    NormalEquations,
    Packed,
    Together,
    half_map_fsc,
    molecule_mask,
    solve,
    ssnr_of_half,
    ssnr_of_sum,
    within,
)
from cryoloom.maps.band import Band
from cryoloom.maps.fsc import (
    HalfMaps,
    crossing,
    resolution_angstrom,
    resolved_shell,
)
from cryoloom.maps.left_out import Record, without_each
from cryoloom.maps.symmetric_sums import SymmetricSums
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox, stretched
from cryoloom.physics.noise import ResidualPower
from cryoloom.physics.rotations import geodesic_degrees, is_polyhedral, symmetry_group
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.recipes.refine_pass import BATCH, PassImages, Radii, RefinePass, in_doubt, shift_doubt
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import numpy_generator, torch_generator

KEPT_AS = torch.bfloat16  # maps that wait for their images; rounded to 0.17 % (r.m.s.), far below their noise
# an image is searched again if another mode than its best has more than exp(-DOUBT_NATS) of the posterior, or if its
# best score is this many standard deviations below that of a correct pose
MISFIT = 3.0
# a misfit that gains at least this share of what a correct pose would is a particle at a wrong pose, sought once more
# than images in doubt; all else that fits nowhere is no particle. Junk gains up to a quarter, wrong poses a third to
# the whole (C3 set with C3 imposed: 1.8 % are wrong without these searches, 0.7 % with them)
PARTICLE_SHARE = 1 / 3
TIGHT = 1.45  # the molecule is masked once the halves agree beyond this multiple of the starting radius (noise: to 1.4)
# the same for a start that is no map of noise: independent starts led to nearly the same one, or images are likelier
# with a given map by `SEEN_NATS` and what they gain from their own noise (best of a million poses on noise: 14 nats)
TIGHT_CONFIRMED = 1.2
SEEN_NATS = 25.0
FEW_DOUBTFUL = 0.005  # share of doubtful images below which no search is made
# images are compared to so many shells beyond the resolved one, and references reach beyond those before by at most so
# many shells, or this share of their radius: folds are told apart in the sums as far as that
BEYOND_SHELLS, NEXT_SHELLS, NEXT_SHARE = 3, 12, 0.15
LOST, GAINED = -1.0, 0.3  # change of the resolved shell within which a map is settled
STILL = 0.25  # poses are settled if they have less than this share of their uncertainty still to go, r.m.s.
MANY_DOUBTFUL = 0.25  # share of doubtful images from which on all images are searched again
# expected costs (`runs.loop.Recipe.expected_costs`), CPU-seconds: of a search, an image and squared Fourier pixel; of
# what is done with an image whatever the radius; of its climb and insertion, a cubed Fourier pixel (beyond 64 px the
# grid is read from memory, so that this grows faster than the number of coefficients); of the maps. Measured on a
# ribosome, an antibody and adenylate kinase in boxes of 64 to 256 px
SEARCH_COST, IMAGE_COST, VOXEL_COST, MAPS_COST = 8e-6, 1.2e-4, 7e-9, 1.5e-5
USUAL_ANGSTROM = 4.0  # usual limit of the resolution, where the box allows more
USUAL_GROWTH, AT_LIMIT = 1.5, 2  # of the radius in an iteration; iterations at the largest radius
SEARCHED_SHARES = (1.0, 0.2)  # shares of the images that usual first and second searches take
# refinement does not get anywhere if, after so many iterations, the halves agree hardly beyond their common start, and
# no farther than an iteration before: in shells of the start's radius, and in shells gained
STALLED_AFTER, HARDLY_BEYOND, NO_GAIN = 3, 1.15, 0.5
CROSS_STEPS = 3  # of refinement of candidates on the map of the other half set
MEASURED = 300  # images by which the errors that come from the map are measured
# iterations with the map of all images go on while this share of the images changes its mode and the share of certain
# poses rises by so much, at most so often. On real apoferritin the correlation with the model rises from 0.43 to 0.49
# and 0.55 after one and three of them, and is 0.57 after twelve, where 6 % of the images still change their mode
JUMPED, SURER, MOST_JOINED = 0.02, 0.02, 12
ALL_SEARCHED = 2  # number of first searches to which MANY_DOUBTFUL applies; later, certain poses are correct

REFINE = "refine"  # usual name of the stage


@dataclass(frozen=True)
class RefineState:
    """State carried from iteration to iteration.

    Attributes:
        iteration: iterations done so far; radius: radius of the last comparison, Fourier pixels.
        poses: PosePosterior of all N images on the CPU (covariance of the best candidate apart).
        covariance: [N, 5, 5], of the best candidate; score, power: [N], of the best candidate (see `Refined`).
        half: [N] of 0 and 1.
        references: the two maps [m, m, m] that images are compared with next, one per half set; without: where a half
            set has folds, its map without one fold after the other, first those of half set 0, as bfloat16; else empty.
        joint: the map of all images, once the half sets agree and refinement has settled; where half sets have folds,
            that map without one fold after the other; else empty; as bfloat16. joined: iterations done with it.
        moved: [N, 3], rotation vectors of the poses' moves in the last iteration, radians; empty where they had none
            before.
        noise: [G, S]; sigma_angstrom: s.d. of shifts.
        fsc: FSC of the last half maps, by shell; shell: its 0.143 crossing.
        searches: global searches done so far; None where the first iteration refines given poses.
        settled: whether the last iteration brought no improvement; stalled: whether there is no hope of any.
        spread: whether images are inserted over the width of their posterior, not only at its candidates.
    """

    iteration: int
    radius: int
    poses: PosePosterior
    covariance: Tensor
    score: Tensor
    power: Tensor
    half: np.ndarray
    references: tuple[Tensor, Tensor]
    without: tuple[Tensor, ...]
    joint: tuple[Tensor, ...]
    joined: int
    moved: Tensor
    noise: Tensor
    sigma_angstrom: float
    fsc: Tensor
    shell: float
    searches: int | None
    settled: bool
    stalled: bool
    spread: bool

    def reference(self, half: int, fold: int) -> Tensor:
        """The map with which the images of a fold of a half set are compared."""
        return self.without[half * FOLDS + fold].float() if self.without else self.references[half]

    def joint_reference(self, half: int, fold: int) -> Tensor | None:
        """The map of all images by which those of a fold of a half set decide between candidates, if there is one."""
        if not self.joint:
            return None
        return self.joint[half * FOLDS + fold if len(self.joint) > 1 else 0].float()

    @property
    def posterior(self) -> PosePosterior:
        """Poses for insertion; with `spread`, all candidates of an image have the covariance of its best one."""
        if not self.spread:
            return self.poses
        N, K = self.poses.log_weight.shape
        covariance = self.covariance[:, None].expand(N, K, 5, 5)
        return PosePosterior(self.poses.R, self.poses.t, self.poses.log_weight, covariance=covariance)

    @property
    def misfit(self) -> Tensor:
        """Standard deviations by which each best score lies below that expected of a correct pose, [N]."""
        return misfit_sigmas(self.score, self.power)

    def mode_weight(self, group: Tensor) -> Tensor:
        """Share of each posterior in the mode of its best pose, modulo symmetry, [N]; see `inference.poses.modes`."""
        return mode_weight(self.poses, self.covariance, group)


@dataclass(frozen=True)
class RefineResult:
    """Result of refinement.

    Attributes:
        posed: all images with their poses, half sets and noise.
        covariance: [N, 5, 5], of the best pose of each image (rotation vector in radian, shift in angstrom), the map
            taken as exact.
        score, power: [N], log p(image | pose) - log p(image | no particle) of the best pose in nats, and the power of
            its prediction (see `inference.poses.refine.Refined`).
        settled: whether refinement ended because it brought no further improvement.
        searched: whether each image had several poses to choose from, by a search or from the start.
        joined: number of iterations in which images chose between their poses on the map of all images.
        doubt: the rotation by which images are in doubt, and share of all images in any doubt; None where no rotation
            is shared, or a symmetry was stated.
        map_noise: what the noise of the map adds to the covariances; None where poses were not refined.
        elsewhere: the candidates on the map of the other half set, [N, K]; None where they were not weighed there.
    """

    posed: PosedImages
    covariance: Tensor
    score: Tensor
    power: Tensor
    settled: bool
    searched: bool
    joined: int
    doubt: tuple[SharedDoubt, float] | None
    map_noise: MapNoise | None
    elsewhere: PosePosterior | None = None

    @property
    def full_covariance(self) -> Tensor:
        """`covariance` with what the noise of the map adds, as far as that was measured."""
        return self.covariance if self.map_noise is None else self.map_noise.added_to(self.covariance)

    @property
    def misfit(self) -> Tensor:
        """Standard deviations by which each best score lies below that expected of a correct pose, [N]."""
        return misfit_sigmas(self.score, self.power)

    def mode_weight(self, group: Tensor) -> Tensor:
        """Share of each posterior in the mode of its best pose, modulo symmetry, [N]; see `inference.poses.modes`."""
        return mode_weight(self.posed.poses, self.covariance, group)

    def stated_weight(self, group: Tensor) -> Tensor:
        """As `mode_weight`, but on the map of the other half set where that was measured, [N].

        The map of an image's own half set holds its noise, at the pose where the image was inserted: of images with
        0.8 of the posterior in one mode, half had the right pose; by the other map, 0.7 to 0.8 of them.
        """
        if self.elsewhere is None:
            return self.mode_weight(group)
        return mode_weight(self.elsewhere, self.full_covariance, group, self.posed.poses.R[:, 0])


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Half maps compared.

    Attributes:
        mask: of the next references; fsc: within it.
        resolution_angstrom: what is said meanwhile: that of the gold standard within the sphere of the particle or
            within the mask, whichever is coarser, so that no line claims more than the verdict will.
    """

    mask: Tensor
    fsc: Tensor
    resolution_angstrom: float | None


@dataclass(frozen=True, slots=True)
class _Moves:
    """How the poses moved in an iteration.

    Attributes:
        moved: rotation vectors, [N, 3], radians; empty where there were no poses before.
        to_go: what is still to go, in uncertainties (`inference.poses.moves.to_go`); infinite where it is not known.
        jumped: share of the images that changed their mode; said: what the log has of all this.
    """

    moved: Tensor
    to_go: float
    jumped: float
    said: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class _HalfSums:
    """Normal equations of the map of a half set, and as they were between its folds."""

    total: NormalEquations
    records: list[Record]

    def without_each(self) -> Sequence[NormalEquations]:
        """The normal equations without each fold; none where there is only one."""
        return without_each(self.total, self.records) if self.records else []


class RefineRecipe:
    """The stage `refine`: from a map (and perhaps poses) to two half maps and a posterior for every image."""

    state_type = RefineState

    def __init__(
        self,
        feed: ImageFeed,
        settings: RefineSettings,
        seed: int,
        start: PoseStart,
        symmetry: str = "C1",
        name: str = REFINE,
        begun: RefineState | None = None,
    ) -> None:
        """Refine all images of `feed` from a start's maps; given poses are refined first, without a search.

        Args:
            name: of the stage, where a run has several.
            begun: a state to go on from; images that it has no pose of are searched first. Half sets must be the same.
                The maximum number of iterations counts from there.
        """
        self.feed, self.settings, self.seed, self.name, self.begun = feed, settings, seed, name, begun
        self.start = start
        self.group, self.polyhedral = symmetry_group(symmetry).float(), is_polyhedral(symmetry)
        self.symmetric = SymmetricSums.of(self.group)
        self.spread = start.poses is None if start.spread is None else start.spread
        self.limit = _limit(feed, settings)
        self.first_radius = min(start.radius, self.limit)
        self._inserted: Insertion | None = None  # the largest array of an iteration, whose memory is used again

    def _beyond_start(self, score: Tensor) -> float:
        """Shell from which on half maps agree well beyond their common start; `score`: of the images' best poses."""
        if not self.start.shared_shell:  # maps of given poses reach as far as half maps can
            return self.first_radius - 1
        agreement, given = self.start.agreement, self.start.encoder is None
        if agreement is not None:
            confirmed = agreement.reproduced
        else:
            own = own_noise_gain(len(self.feed) // 2, len(self.group), self.start.radius)
            confirmed = given and float(score.mean()) >= SEEN_NATS + own
        return (TIGHT_CONFIRMED if confirmed else TIGHT) * self.first_radius

    def init(self) -> RefineState:
        """State with the poses of the start, if any; half sets are drawn if the start has none."""
        if self.begun is not None:
            return self.begun
        N, K, given = len(self.feed), self.settings.candidates, self.start.poses
        half = self.start.half
        if half is None:
            half = numpy_generator(self.seed, self.name, "half sets").permutation(np.arange(N) % 2)
        unknown = PosePosterior(
            torch.eye(3).expand(N, K, 3, 3).clone(), torch.zeros(N, K, 2), torch.full((N, K), -torch.inf)
        )
        return RefineState(
            iteration=0,
            radius=self.first_radius,
            poses=unknown if given is None else _padded(given, K),
            covariance=torch.zeros(N, 5, 5),
            score=torch.zeros(N),
            power=torch.zeros(N),
            half=half,
            references=self.start.maps,
            without=(),
            joint=(),
            joined=0,
            moved=torch.zeros(0, 3),
            noise=self.start.noise,
            sigma_angstrom=self.start.sigma_angstrom,
            fsc=torch.ones(1),
            shell=float(self.first_radius),
            searches=0 if given is None else None,
            settled=False,
            stalled=False,
            spread=self.spread,
        )

    def finished(self, state: RefineState) -> bool:
        """Whether refinement has converged, or the maximum number of iterations is reached."""
        s = self.settings
        done, joined = self._done(state)
        # the map of all images was made to be used; and a state to go on from may lack poses
        if state.joint or (done == 0 and self.begun is not None):
            return False
        ended = state.settled or state.stalled or joined == MOST_JOINED
        return done - joined >= s.most_iterations or (ended and state.iteration >= s.least_iterations)

    def _done(self, state: RefineState) -> tuple[int, int]:
        """Iterations done in this stage, and those of them with the map of all images."""
        if self.begun is None:
            return state.iteration, state.joined
        return state.iteration - self.begun.iteration, state.joined - self.begun.joined

    def end_early(self, state: RefineState) -> RefineState:
        """The state after the last whole iteration is a result as it is."""
        return state

    def expected_costs(self, state: RefineState) -> Sequence[float]:
        """Expected cost of the iterations ahead; their number is that of a usual run."""
        return refinement_costs(self.feed, self.settings, state)

    def result(self, state: RefineState) -> RefineResult:
        """Images with refined poses, and how well they fit."""
        self._inserted = None
        posed = PosedImages(self.feed, state.posterior, state.half, state.noise, state.sigma_angstrom)
        given = self.start.poses
        searched = bool(state.searches) or (given is not None and given.R.shape[1] > 1)
        return RefineResult(
            posed,
            state.covariance,
            state.score,
            power=state.power,
            settled=state.settled,
            searched=searched,
            joined=state.joined,
            doubt=self._doubt(state),
            map_noise=self._map_noise(state, posed) if self.settings.climb_steps else None,
            elsewhere=self._elsewhere(state, posed) if self.settings.climb_steps and searched else None,
        )

    def _elsewhere(self, state: RefineState, posed: PosedImages) -> PosePosterior:
        """The candidates of all images, those of images with several of them refined and weighed on the map of the half
        set that they do not belong to."""
        radius = self._climb_radius(state)
        grids = [volume_to_half(rebox(volume, Band(radius).box)) for volume in state.references]
        several = torch.isfinite(state.poses.log_weight).sum(1).numpy() > 1
        R, t, log_weight = state.poses.R.clone(), state.poses.t.clone(), state.poses.log_weight.clone()
        for half in (0, 1):
            rows = posed.half_set(half)
            for batch in in_batches(rows[several[rows]], self.feed.at_once(radius, BATCH)):
                index = torch.from_numpy(batch)
                known, images = state.poses.rows(index).to(self.feed.device).bare(), posed.images(batch, radius)
                found = refine_poses(
                    grids[1 - half], images, known, state.sigma_angstrom, CROSS_STEPS, group=self.group
                ).posterior
                R[index], t[index], log_weight[index] = found.R.cpu(), found.t.cpu(), found.log_weight.cpu()
        return PosePosterior(R, t, log_weight)

    def _doubt(self, state: RefineState) -> tuple[SharedDoubt, float] | None:
        unsure = self._unsure(state)
        shared = self._shared_doubt(state, unsure)
        return None if shared is None else (shared, float(unsure.float().mean()))

    def _map_noise(self, state: RefineState, posed: PosedImages) -> MapNoise:
        """What the noise of the last half maps adds to the errors of poses, measured on some of the images."""
        order = numpy_generator(self.seed, self.name, "map noise").permutation(len(posed))
        radius = self._climb_radius(state)
        if state.without:  # images that are in neither of two maps
            order = order[self._folds(state, radius)[order] == 0]
        rows = np.sort(order[:MEASURED])
        grids = [volume_to_half(rebox(state.reference(h, 0), Band(radius).box)) for h in (0, 1)]
        return map_noise(
            (grids[0], grids[1]),
            posed.images(rows, radius),
            state.poses.rows(torch.from_numpy(rows)).to(self.feed.device),
            half=torch.from_numpy(state.half[rows]),
            sigma_angstrom=state.sigma_angstrom,
        )

    def step(self, state: RefineState) -> tuple[RefineState, StepInfo]:
        """One pass over all images."""
        doubtful = self._doubtful(state)
        climb = self._climb_radius(state)
        radii = Radii(self._search_radius(state), climb, self._insertion_radius(climb))
        fold = self._folds(state, radii.insertion)
        folds = int(fold.max()) + 1
        about = shift_doubt(state.poses) if state.joint else math.inf
        refine = RefinePass(self.feed, self.settings, self.group, self.seed, radii, state.spread, about)
        posed = PosedImages(self.feed, state.poses, state.half, state.noise, state.sigma_angstrom)
        passes, sums = [], []
        for half in (0, 1):
            inserted, records = self._insertion(Band(radii.insertion).side), []
            for f in range(folds):
                if f:
                    records.append(Record.of(self.symmetric.imposed(inserted), _reach(radii)))
                rows = posed.half_set(half)
                rows = rows[fold[rows] == f]
                own, joint = state.reference(half, f), state.joint_reference(half, f)
                names = (self.name, f"half set {half + 1}", *([f"fold {f}"] if f else []), state.iteration)
                passes.append(refine.over(posed, PassImages(rows, doubtful[rows], own, joint, names), inserted))
            total = self.symmetric.imposed(inserted)
            if half == 0:  # the last sums may stay in their grid
                total = Packed.of(total, radii.insertion)
            sums.append(_HalfSums(total, records))
        del refine, total, inserted
        # rows back in the order of the feed
        order = torch.argsort(torch.from_numpy(np.concatenate([p.rows for p in passes])))
        found = replace(
            state,
            poses=PosePosterior.joined([p.poses for p in passes]).rows(order),
            covariance=torch.cat([p.covariance for p in passes])[order],
            score=torch.cat([p.score for p in passes])[order],
            power=torch.cat([p.power for p in passes])[order],
        )
        residuals = functools.reduce(operator.add, (p.residuals for p in passes))
        return self._after(state, found, sums, residuals, radii, doubtful)

    def _insertion(self, side: int) -> Insertion:
        """Sums of no images."""
        if self._inserted is not None and not self._inserted.has_room(side):
            self._inserted = None
        if self._inserted is None:
            self._inserted = Insertion(side, self.feed.device, largest=Band(self.limit).side)
        else:
            self._inserted = self._inserted.emptied(side)
        return self._inserted

    def _folds(self, state: RefineState, radius: int) -> np.ndarray:
        """Fold of each image in its half set, [N], for maps of a radius; those that the references have are kept."""
        fold = np.zeros(len(state.half), int)
        sets = [np.flatnonzero(state.half == h) for h in (0, 1)]
        fewest = min(len(rows) for rows in sets)
        needed = bool(state.without) or (fewest >= FOLDS and folds_of(fewest, len(self.group), radius) > 1)
        if not needed:
            return fold
        for h, rows in enumerate(sets):
            order = numpy_generator(self.seed, self.name, f"folds of half set {h + 1}").permutation(len(rows))
            fold[rows] = order % FOLDS
        return fold

    def _after(
        self,
        before: RefineState,
        found: RefineState,
        sums: Sequence[_HalfSums],
        residuals: ResidualPower,
        radii: Radii,
        doubtful: np.ndarray,
    ) -> tuple[RefineState, StepInfo]:
        """New references, noise and radius from the sums of the passes."""
        halves = (sums[0].total, sums[1].total)
        compared = self._compare(halves, radii.insertion, before.iteration, found.score)
        fsc = compared.fsc
        ssnr = ssnr_of_half(fsc)
        without = [s.without_each() for s in sums]
        shell = resolved_shell(fsc)
        reach = min(_reach(radii), self._radius_beyond(shell, radii.climb))
        mask = stretched(compared.mask, Band(reach).box)

        def reference(equations: NormalEquations, ssnr: Tensor) -> Tensor:
            return solve(within(equations, reach), ssnr, min(reach + 1, _reach(radii))) * mask

        one, two = (reference(h, ssnr) for h in halves)
        errors = rms_rotation_degrees(found.covariance)
        moves = self._moves(before, found, errors)
        searched = float(doubtful.mean())
        gained = shell - before.shell if before.iteration > 0 else 1.0
        at_rim = radii.climb >= min(self.limit, int(shell) + 1)
        still = LOST < gained < GAINED and moves.to_go < STILL
        settled = still and at_rim and searched < MANY_DOUBTFUL
        following = replace(
            found,
            iteration=before.iteration + 1,
            radius=radii.climb,
            references=(one, two),
            without=tuple(reference(s, ssnr).to(KEPT_AS) for half in without for s in half),
            joint=(),
            joined=before.joined + bool(before.joint),
            moved=moves.moved,
            noise=residuals.learnt(before.noise),
            sigma_angstrom=float(found.poses.t[:, 0].square().mean().sqrt().clamp(min=0.25 * self.feed.pixel_size)),
            fsc=fsc,
            shell=shell,
            searches=0 if before.searches is None else before.searches + self._counts(before, doubtful),
            settled=settled,
            stalled=before.iteration + 1 >= STALLED_AFTER
            and searched >= MANY_DOUBTFUL
            and gained < NO_GAIN
            and shell < HARDLY_BEYOND * self.first_radius,
        )
        going_on = settled
        if before.joint:
            going_on = self._decides_more(before, following, moves.jumped)
            following = replace(following, settled=not going_on or self._done(following)[1] < MOST_JOINED)
        if self._joins(following, going_on):
            others = [Together((s, halves[1 - h])) for h in (0, 1) for s in without[h]] or [Together(halves)]
            following = replace(following, joint=tuple(reference(x, ssnr_of_sum(fsc)).to(KEPT_AS) for x in others))
        said = (("searched", searched), *moves.said)
        return following, self._info(following, compared.resolution_angstrom, said, float(errors.median()))

    def _moves(self, before: RefineState, found: RefineState, errors_degrees: Tensor) -> _Moves:
        """How the poses moved in an iteration."""
        if before.iteration == 0 and before.searches is not None:  # there were none before
            return _Moves(torch.zeros(0, 3), to_go=math.inf, jumped=1.0, said=())
        moved = smallest_turns(before.poses.R[:, 0], found.poses.R[:, 0], self.group)
        turned = torch.rad2deg(moved.norm(dim=1))
        jumped = float(((turned > WIDEST_MODE_DEGREES) & (found.misfit <= MISFIT)).float().mean())
        way = math.inf
        if len(before.moved):
            unit = torch.deg2rad(errors_degrees)[:, None]
            way = to_go(moved / unit, before.moved / unit)
        said = (("moved_degrees", float(turned.median())), ("to_go", way), ("jumped", jumped))
        return _Moves(moved, way, jumped, said)

    def _decides_more(self, before: RefineState, after: RefineState, jumped: float) -> bool:
        """Whether the map of all images still makes poses certain."""
        # at first new candidates make them less certain
        surer = before.joined == 0 or self._certain(after) - self._certain(before) >= SURER
        return jumped >= JUMPED and surer

    def _joins(self, state: RefineState, going_on: bool) -> bool:
        """Whether doubtful images are compared with the map of all images next; `going_on`: if that may be of use.

        Not before the half sets agree on their own beyond their common start: after that their agreement proves less.
        """
        able = self.settings.climb_steps > 0 and state.searches is not None and self._done(state)[1] < MOST_JOINED
        if not (going_on and able and state.shell >= self._beyond_start(state.score)):
            return False
        unsure = self._unsure(state)
        # mates of a symmetry that was not stated are all right, and the map of all images tells none from another
        return float(unsure.float().mean()) >= FEW_DOUBTFUL and self._shared_doubt(state, unsure) is None

    def _certain(self, state: RefineState) -> float:
        """Share of the images whose pose is certain."""
        return certain_share(state.mode_weight(self.group))

    def _shared_doubt(self, state: RefineState, unsure: Tensor) -> SharedDoubt | None:
        """The rotation by which images are in doubt; None without one, or with a stated symmetry."""
        if len(self.group) > 1:
            return None
        generator = numpy_generator(self.seed, self.name, "shared doubt", state.iteration)
        return shared_doubt(state.poses, unsure, generator)

    def _info(
        self, state: RefineState, resolution: float | None, said: tuple[tuple[str, float], ...], uncertain: float
    ) -> StepInfo:
        metrics = (
            ("radius", float(state.radius)),
            ("shell", state.shell),
            *said,
            ("certain", self._certain(state)),
            ("angular_error_degrees", uncertain),
            ("shift_sigma_angstrom", state.sigma_angstrom),
            ("score", float(state.score.mean())),
        )
        return StepInfo(self.name, self._done(state)[0], resolution, metrics)

    def _search_radius(self, state: RefineState) -> int:
        """Radius of the next global search: as far as the maps can be trusted.

        Where the particle is a shell at low resolution, low levels tell no poses apart.
        """
        levels = self.settings.fine_levels
        done = len(levels) if self.polyhedral else state.searches or 0
        level = self.feed.radius_of(levels[min(done, len(levels) - 1)])
        trusted = state.radius if state.iteration == 0 else max(5, int(crossing(state.fsc, 0.3)))
        return min(level, trusted)

    def _climb_radius(self, state: RefineState) -> int:
        """Radius of the comparison."""
        if state.iteration == 0:
            return state.radius
        known = Band.of_box(len(state.references[0])).radius
        return min(known + BEYOND_SHELLS, self._radius_beyond(state.shell, state.radius))

    def _radius_beyond(self, shell: float, radius: int) -> int:
        """A few shells beyond the FSC's 0.143 crossing, at most 1.5 times the last radius."""
        return min(self.limit, round(shell) + BEYOND_SHELLS, round(1.5 * radius))

    def _insertion_radius(self, radius: int) -> int:
        if self.settings.climb_steps == 0:  # poses that are not refined do not improve
            return self.limit
        return insertion_radius(radius, self.limit)

    def _doubtful(self, state: RefineState) -> np.ndarray:
        """Images to be searched globally, bool [N]."""
        N = len(self.feed)
        if state.searches is None:
            return np.zeros(N, bool)
        if state.iteration == 0:
            return np.ones(N, bool)
        if state.joint:
            return self._undecided(state)
        return self._in_doubt(state) | self._new(state)

    def _counts(self, state: RefineState, searched: np.ndarray) -> bool:
        """Whether a search was one of all images that needed it; later, one of images that have just joined is not."""
        return bool((searched if state.iteration == 0 else searched & ~self._new(state)).any())

    def _new(self, state: RefineState) -> np.ndarray:
        """Images without a pose, bool [N]."""
        return ~np.isfinite(state.poses.log_weight[:, 0].numpy())

    def _in_doubt(self, state: RefineState) -> np.ndarray:
        """Images whose pose may be another one, as far as another search may help them, bool [N]."""
        N, searches, usual = len(self.feed), state.searches or 0, len(self.settings.fine_levels)
        doubt = in_doubt(state.mode_weight(self.group))
        misfit = state.misfit > MISFIT
        fitting = ~misfit
        if searches >= usual:  # what fits nowhere after as many searches is no particle, and another does not help it
            particle = fitting | (state.score > PARTICLE_SHARE * 0.5 * state.power)
            misfit, doubt = misfit & particle, doubt & particle
        if searches > usual:
            doubt[:] = False
        if searches < ALL_SEARCHED and (doubt | misfit).float().mean() > MANY_DOUBTFUL:
            return np.ones(N, bool)
        if searches >= ALL_SEARCHED and len(self.group) == 1 and doubt.any():
            doubt = self._unrelated(state, doubt, doubt & fitting)
        found = (doubt | misfit).numpy()
        if searches >= usual + 2 or found.mean() < FEW_DOUBTFUL:
            return np.zeros(N, bool)
        return found

    def _unrelated(self, state: RefineState, doubt: Tensor, fitting: Tensor) -> Tensor:
        """The images in doubt, without those of which all mates by a shared rotation are among the candidates.

        Mates of a symmetry that was not stated are all right, and where it is a pseudosymmetry, the finer map decides
        between them: another search finds nothing new.
        """
        generator = numpy_generator(self.seed, self.name, "turns", state.iteration)
        R, known = state.poses.R.double(), torch.isfinite(state.poses.log_weight)
        turns = shared_turns(state.poses, fitting, generator, R.shape[1])
        all_there = torch.ones(len(R), dtype=torch.bool)
        for turn in turns:
            mate = geodesic_degrees(R[:, :1].expand_as(R), turn @ R) < WIDEST_MODE_DEGREES
            all_there &= (mate & known).any(1)
        return torch.where(all_there, in_doubt(state.mode_weight(turns.float())), doubt)

    def _undecided(self, state: RefineState) -> np.ndarray:
        """Images to be searched on the map of all images, bool [N]; what fits nowhere by now is no particle."""
        N = len(self.feed)
        undecided = self._unsure(state).numpy()
        if undecided.mean() < FEW_DOUBTFUL:
            return np.zeros(N, bool)
        return np.ones(N, bool) if undecided.mean() > MANY_DOUBTFUL else undecided

    def _unsure(self, state: RefineState) -> Tensor:
        """Images of which another mode than the best may be right, bool [N]."""
        return in_doubt(state.mode_weight(self.group)) & (state.misfit <= MISFIT)

    def _compare(
        self, halves: tuple[NormalEquations, NormalEquations], insertion: int, iteration: int, score: Tensor
    ) -> _Comparison:
        """Compare the half maps within the mask of the next references.

        The mask is the sphere of the particle at first, the molecule's own once the halves agree well beyond their
        common start. Noise around the molecule costs accuracy: on adenylate kinase (5,000 images, SNR 0.1) the median
        error of the poses falls from 2.2 to 1.9 degrees.
        """
        mask = self.feed.mask(Band(insertion).box)
        maps = HalfMaps.of(*(solve(h, None, insertion) for h in halves))
        pixel_size = self.feed.field_of_view / len(mask)
        phases = torch_generator(self.seed, self.name, "phases", iteration)
        gold = [maps.gold_standard(mask, pixel_size, phases, mates=len(self.group), draws=1)]
        shell = resolved_shell(gold[0].masked[: insertion + 1])
        if shell >= self._beyond_start(score):
            mask = mask * molecule_mask(
                halves,
                gold[0].masked[: insertion + 1],
                box=len(mask),
                field_of_view=self.feed.field_of_view,
                diameter_angstrom=self.feed.source.preprocessing.particle_diameter_angstrom,
                resolution_angstrom=self.feed.field_of_view / shell,
            )
            gold.append(maps.gold_standard(mask, pixel_size, phases, mates=len(self.group), draws=1))
        # the maps end at the radius of insertion
        stated = min(
            resolved_shell(g.corrected[: insertion + 1]) if g.resolution_angstrom is not None else 0.0 for g in gold
        )
        return _Comparison(mask, gold[-1].masked[: insertion + 1], resolution_angstrom(stated, len(mask), pixel_size))


def _limit(feed: ImageFeed, settings: RefineSettings) -> int:
    """Largest radius in which images can be, or are to be, compared."""
    nyquist = (feed.box - 1) // 2
    return nyquist if settings.largest_radius is None else min(nyquist, settings.largest_radius)


def insertion_radius(radius: int, limit: int) -> int:
    """Radius to which images are inserted that are compared up to another one: so far may the resolution rise."""
    return min(limit, max(radius + 4, round(1.3 * radius)))


def _reach(radii: Radii) -> int:
    """Largest radius of the next references."""
    return min(radii.insertion, radii.climb + max(NEXT_SHELLS, round(NEXT_SHARE * radii.climb)))


def refinement_costs(feed: ImageFeed, settings: RefineSettings, state: RefineState | None = None) -> list[float]:
    """Expected costs of the remaining iterations of a usual refinement (see `runs.loop.Recipe`).

    Args:
        state: current state of refinement; None before it has begun.
    """
    limit = min(_limit(feed, settings), int(feed.field_of_view / USUAL_ANGSTROM))
    done = 0 if state is None else state.iteration
    radius = feed.radius_of(settings.fine_levels[0]) if state is None else state.radius
    searches = 0 if state is None else state.searches or 0
    costs, at_limit = [], 0
    while not costs or (at_limit < AT_LIMIT and done + len(costs) < settings.most_iterations):
        if done + len(costs) > 0:
            radius = max(radius, min(limit, round(USUAL_GROWTH * radius)))
        fine = feed.radius_of(settings.fine_levels[min(searches, len(settings.fine_levels) - 1)])
        share = SEARCHED_SHARES[searches] if searches < len(SEARCHED_SHARES) else 0.0
        image = share * SEARCH_COST * fine**2 + IMAGE_COST + VOXEL_COST * radius**3
        costs.append(len(feed) * image + MAPS_COST * radius**3)
        searches += 1
        at_limit += radius >= limit
    return costs


def reference_maps(posed: PosedImages, symmetry: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half maps of posed images, each Wiener-filtered by their FSC and masked, band-limited to its 0.143 crossing."""
    feed = posed.feed
    radius = (feed.box - 1) // 2
    halves = posed.sums(radius, symmetry_group(symmetry).float().to(feed.device), generator)
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


def rms_rotation_degrees(covariance: Tensor) -> Tensor:
    """Root of the trace of the rotational covariance, degrees: r.m.s. rotation error of each pose within its mode."""
    return torch.rad2deg(torch.diagonal(covariance[:, :3, :3], dim1=1, dim2=2).sum(1).clamp(min=0).sqrt())
