"""A pass of refinement over the images of one map: candidates, local refinement, weights, insertion.

Where a map of all images is given beside that of the images' own half set, it decides between candidates, since it has
half the noise; the pose itself, within the candidate's mode, is refined on the map of the half set alone. Poses that
followed the noise of a common map would carry it into both half maps, and their FSC would show it as signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryoloom.inference.poses.global_search import References, candidates_of, references_of, search
from cryoloom.inference.poses.moves import beyond
from cryoloom.inference.poses.posed import PosedImages, in_batches
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import Refined, refine_poses
from cryoloom.inference.poses.samples import posterior_samples
from cryoloom.kernels import dispatch
from cryoloom.kernels.dispatch import Insertion
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.band import Band
from cryoloom.maps.symmetric_sums import SymmetricSums
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.noise import ResidualPower
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.runs.seeds import torch_generator

BATCH = 500  # images at once
DOUBT_NATS = 5.0  # a candidate counts if it has more than exp(-5) of the posterior
LOW_STEPS = 4  # steps at low radius, where there are more candidates than are kept


@dataclass(frozen=True, slots=True)
class Radii:
    """Radii of an iteration, in Fourier pixels, for searches, local refinement and insertion."""

    search: int
    climb: int
    insertion: int


@dataclass(frozen=True, slots=True)
class PassImages:
    """The images of a pass and the maps that they are compared with.

    Attributes:
        rows: the images, [n], of one fold of a half set; doubtful: [n] bool, those that are searched globally.
        own: map [m, m, m] of their half set; joint: map of all images, None while the half sets are kept apart.
        seed_names: of the random generator, with the number of the batch.
    """

    rows: np.ndarray
    doubtful: np.ndarray
    own: Tensor
    joint: Tensor | None
    seed_names: tuple[str | int, ...]


@dataclass(frozen=True)
class PassResult:
    """Result of a pass.

    Attributes:
        rows: the images, [n]; poses: [n, K]; covariance [n, 5, 5], score and power [n]: those of the best pose.
        residuals: power of the residuals by optics group and shell.
    """

    rows: np.ndarray
    poses: PosePosterior
    covariance: Tensor
    score: Tensor
    power: Tensor
    residuals: ResidualPower


@dataclass(frozen=True, slots=True)
class RefinePass:
    """Carries out passes over images of a feed.

    Attributes:
        group: [G, 3, 3], symmetry; seed: of the run; radii: of the iteration.
        spread: whether images are inserted over the width of their posterior, not only at its candidates.
        shift_doubt: s.d. per axis, angstrom, by which the shift of a wrong mode is off (see the function of that name):
            searches on the map of all images look no farther about the present shift.
        grids: half grids of earlier passes, whose memory is used again.
    """

    feed: ImageFeed
    settings: RefineSettings
    group: Tensor
    seed: int
    radii: Radii
    spread: bool
    shift_doubt: float
    grids: dict[str, Tensor] = field(default_factory=dict)

    def over(self, posed: PosedImages, images: PassImages, inserted: Insertion) -> PassResult:
        """Refine and weight images whose present candidates are those of `posed`, and insert them.

        Args:
            inserted: sums to which the images are added, at the mates of `SymmetricSums`.
        """
        K, radii, symmetric = posed.poses.log_weight.shape[1], self.radii, SymmetricSums.of(self.group)
        deciding = images.own if images.joint is None else images.joint
        own = self._grid(images.own, "own")
        joint = None if images.joint is None else self._grid(images.joint, "joint")
        references = None  # frees the slices of the pass before first
        if images.doubtful.any():
            references = references_of(self.feed, deciding, self.settings.coarse_level, radii.search, self.group)
        residuals, parts = None, []
        ordered = posed.by_view(images.rows)
        searched = np.isin(ordered, images.rows[images.doubtful])
        size = self.feed.at_once(radii.insertion, BATCH)
        batches = zip(in_batches(ordered, size), in_batches(searched, size), strict=True)
        for number, (rows, doubtful) in enumerate(batches):
            batch = posed.images(rows, radii.insertion)
            known = posed.poses.rows(torch.from_numpy(rows)).to(self.feed.device).bare()
            some, sigma = torch.from_numpy(np.flatnonzero(doubtful)).to(self.feed.device), posed.sigma_angstrom
            if joint is None:
                refined = self._climb(own, batch, self._searched(known, batch, some, references, sigma), sigma)
            else:
                candidates = self._decided(known, batch, some, references, joint, sigma)
                refined = self._climb(own, batch, candidates, sigma, keep_weights=True)
            best = refined.posterior.top(K)
            assert best.covariance is not None
            kept = (best.bare().to(torch.device("cpu")), best.covariance[:, 0].cpu())
            parts.append((*kept, refined.score.cpu(), refined.power.cpu()))
            generator = torch_generator(self.seed, *images.seed_names, number)
            onward = beyond(best, known, self.group)
            onward = onward if self.spread else onward.bare()
            samples = posterior_samples(onward, generator, radii.insertion, len(symmetric.mates))
            inserted.add(batch, symmetric.at_mates(samples))
            power = ResidualPower(*dispatch.residual_power(own, batch.prefix(radii.climb), _first_only(best)))
            residuals = power if residuals is None else residuals + power
        assert residuals is not None
        poses, covariances, scores, powers = zip(*parts, strict=True)
        by_row = np.argsort(ordered)
        back = torch.from_numpy(by_row[np.searchsorted(ordered, images.rows, sorter=by_row)])
        return PassResult(
            images.rows,
            PosePosterior.joined(poses).rows(back),
            torch.cat(covariances)[back],
            score=torch.cat(scores)[back],
            power=torch.cat(powers)[back],
            residuals=residuals,
        )

    def _grid(self, volume: Tensor, name: str) -> Tensor:
        half = volume_to_half(rebox(volume, Band(self.radii.climb).box), into=self.grids.get(name))
        self.grids[name] = half
        return half

    def _found(
        self, images: Images, references: References, sigma: float, about: Tensor | None = None
    ) -> PosePosterior:
        """Candidates of a new search, of shifts about zero or about those given, [B, 2]."""
        if about is not None:
            images = images.prefix(references[1].disc.radius).moved(-about)
        found = candidates_of(
            self.feed,
            [search(self.feed, images, references, sigma)],
            radius=references[1].disc.radius,
            sigma_angstrom=sigma,
            count=self.settings.candidates,
            group=self.group,
        )
        return found if about is None else replace(found, t=found.t + about[:, None])

    def _searched(
        self, known: PosePosterior, images: Images, doubtful: Tensor, references: References | None, sigma: float
    ) -> PosePosterior:
        """The images' current candidates, and for doubtful images those of a new search, [B, 2 K]."""
        if references is None or len(doubtful) == 0:
            return known
        found = self._found(images.rows(doubtful), references, sigma)
        B, K = known.log_weight.shape
        R, t = torch.cat([known.R, known.R], 1), torch.cat([known.t, known.t], 1)
        weight = torch.cat([known.log_weight, torch.full((B, K), -torch.inf, device=R.device)], 1)
        both = _either(known.rows(doubtful), found)
        R[doubtful], t[doubtful], weight[doubtful] = both.R, both.t, both.log_weight
        return PosePosterior(R, t, weight)

    def _decided(
        self,
        known: PosePosterior,
        images: Images,
        doubtful: Tensor,
        references: References | None,
        joint: Tensor,
        sigma: float,
    ) -> PosePosterior:
        """The images' candidates, [B, K]: those of doubtful images as found and weighed on the map of all images.

        The others keep theirs, and their weights: the map of the half set, which is noisier, does not decide anew.
        """
        if references is None or len(doubtful) == 0:
            return known
        some, before = images.rows(doubtful), known.rows(doubtful)
        found = self._found(some, references, min(sigma, self.shift_doubt), before.t[:, 0])
        best = self._climb(joint, some, _either(before, found), sigma).posterior.top(known.log_weight.shape[1])
        R, t, weight = known.R.clone(), known.t.clone(), known.log_weight.clone()
        R[doubtful], t[doubtful], weight[doubtful] = best.R, best.t, best.log_weight
        return PosePosterior(R, t, weight)

    def _climb(
        self, grid: Tensor, images: Images, candidates: PosePosterior, sigma: float, keep_weights: bool = False
    ) -> Refined:
        """Refine from coarse to full radius, dropping the less likely candidates in between."""
        start, radius = candidates, self.radii.climb
        low = self.feed.radius_of(self.settings.fine_levels[0])
        if start.log_weight.shape[1] > self.settings.candidates and radius > 1.3 * low:
            start = refine_poses(grid, images.prefix(low), start, sigma, LOW_STEPS, group=self.group).posterior
            start = start.top(self.settings.candidates)
        steps = self.settings.climb_steps
        return refine_poses(
            grid, images.prefix(radius), start, sigma, steps, group=self.group, keep_weights=keep_weights
        )


def in_doubt(mode_weight: Float[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Images of which another mode than the best one counts."""
    return 1 - mode_weight > math.exp(-DOUBT_NATS)


def shift_doubt(poses: PosePosterior) -> float:
    """S.d. per axis of the differences between the shift of the best candidate and of others, by their weights.

    Angstrom; where the posterior is in doubt between modes, this is how far off a wrong one puts the shift.
    """
    weight = poses.log_weight[:, 1:].exp()
    squared = (poses.t[:, 1:] - poses.t[:, :1]).square().mean(2)
    return float((torch.where(weight > 0, weight * squared, 0.0).sum() / weight.sum()).sqrt())


def _either(known: PosePosterior, found: PosePosterior) -> PosePosterior:
    """Candidates of both lists with equal weight, so that refinement decides; unlikely known ones are dropped."""
    weight = torch.where(known.log_weight > -DOUBT_NATS, 0.0, -torch.inf)
    parts = ((known.R, found.R), (known.t, found.t), (weight, found.log_weight))
    return PosePosterior(*(torch.cat(part, 1) for part in parts))


def _first_only(poses: PosePosterior) -> Samples:
    B = len(poses)
    image = torch.arange(B, device=poses.R.device)
    return Samples(image, poses.R[:, 0].contiguous(), poses.t[:, 0].contiguous(), torch.ones_like(poses.t[:, 0, 0]))
