"""Poses by search: ab initio from random starts, then refinement from its map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cryoloom.recipes.methods.method import PoseJob, PoseMethod
from cryoloom.recipes.methods.option import option

if TYPE_CHECKING:
    from torch import Tensor

    from cryoloom.inference.poses.start import PoseStart
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.recipes.methods.settings import MethodSettings

# gain of held-out images over no particle up to which a map shows nothing of them, nats per image: maps of pure noise
# gain -0.07 to 0.02, maps of particles too noisy to be solved 1 to 11
UNSEEN = 0.2


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a random start proceeds from level to level.

    Attributes:
        levels: radii, in Fourier pixels of a box as large as the particle: resolution = diameter / level.
        final: radius of one more level for a start that is carried on, None without it.
        nside: HEALPix nside of the rotation grid of each level (3 is 20 degrees, 4 is 15).
        batch: number of images in a step, by level.
        rate: weight of the newest batch in the running statistics, by level.
        least_steps, most_steps: minimum and maximum number of steps of each level.
        check_every: steps between evaluations of the held-out images.
        patience: number of evaluations in a row without a gain after which a level ends.
        rise: by level, gain of the held-out images over their lowest evidence without which it goes on to its maximum
            number of steps, nats per image; 0 where a level does not wait for it.
        compared: share of the radius up to which maps of two starts are compared.
    """

    levels: tuple[float, ...]
    final: float | None
    nside: tuple[int, ...]
    batch: tuple[int, ...]
    rate: tuple[float, ...]
    least_steps: tuple[int, ...]
    most_steps: tuple[int, ...]
    check_every: int
    patience: int
    rise: tuple[float, ...]
    compared: float

    @property
    def radii(self) -> tuple[float, ...]:
        """Radii of all levels, the final one included."""
        return self.levels if self.final is None else (*self.levels, self.final)


@dataclass(frozen=True, slots=True)
class AbInitSettings:
    """Ab initio by online EM with frequency marching."""

    restarts: int = field(
        default=5,
        metadata=option(
            "--restarts",
            help="Maximum number of random starts of ab initio; two that agree are enough.",
            minimum=1,
            maximum=50,
        ),
    )
    """Maximum number of independent random starts; no more are made once two agree."""

    further_starts: int = field(
        default=5,
        metadata=option(
            "--further-starts",
            help="Maximum number of further random starts after refinement, made if the disagreement of the first ones "
            "is the only failed check; one that agrees with the refined map is enough.",
            minimum=0,
            maximum=50,
        ),
    )
    """Maximum number of further random starts after refinement, made if the disagreement of the first ones is the only
    failed check; no more are made once one agrees with the refined map."""

    further_steps: int = 100
    """Maximum number of steps in large batches with which those end that are alike in part to the refined map; they go
    on as long as they become more alike."""

    coarse_starts: int = 2
    """Number of starts that march from low resolution; if they disagree, the other starts begin at `fine_level`."""

    alike_in_part: float = 0.5
    """Similarity of two of these from which on one more of them is made first; similarity to the refined map from which
    on a further start ends in large batches."""

    considered: int = 50_000
    """Number of images, drawn at random, of which the most informative ones are used."""

    share: float = 0.3
    """Share of them that is used: those with most signal at low resolution, by their CTF. On a 70S ribosome at SNR
    0.05, starts on all images rarely succeeded and starts on these 30 % always did."""

    least_used: int = 1500
    """Minimum number of images that are used."""

    levels: tuple[float, ...] = (3.75, 4.5, 6.0)
    """Radii of the scouting levels, in Fourier pixels of a box as large as the particle: resolution = diameter / level.
    On a 70S ribosome of 0.75 box sides these are r = 5, 6, 8 of the box."""

    final_level: float = 7.5
    """Radius to which the best start is carried on where no two starts agree."""

    nside: tuple[int, ...] = (3, 3, 4, 4)
    """HEALPix nside of the rotation grid of each level (3 is 20 degrees, 4 is 15)."""

    batch: tuple[int, ...] = (200, 200, 300, 400)
    """Number of images in a step, by level."""

    rate: tuple[float, ...] = (0.6, 0.5, 0.4, 0.25)
    """Weight of the newest batch in the running statistics, by level."""

    least_steps: tuple[int, ...] = (20, 25, 15, 10)
    """Minimum number of steps of each level; the lowest ones are cheap, and shape is decided there."""

    most_steps: int = 40
    """Maximum number of steps of a level."""

    fine_level: float = 7.8
    """Radius at which starts begin, and end, after coarse ones have disagreed."""

    fine_nside: int = 3
    """HEALPix nside of their rotation grid, which is turned at random in every step; with 4, starts take shape no
    sooner, at 2.7 times the cost."""

    fine_batch: int = 80
    """Number of images in their steps. In large batches a map that shows no more than the particle's envelope is hardly
    disturbed, and stays what it is: on a 70S ribosome whose envelope drowns in coloured noise (SNR 0.05), starts in
    batches of 400 never left it in 150 steps; in batches of 80, three of three did after 160 to 200 steps."""

    fine_rate: float = 0.5
    """Weight of the newest batch in their running statistics."""

    fine_least_steps: int = 100
    """Minimum number of their steps."""

    fine_most_steps: int = 280
    """Maximum number of their steps."""

    fine_rise: float = 1.5
    """Gain of the held-out images, in nats per image, that tells a map that has taken shape: until then the evidence is
    flat, and its standing still says nothing."""

    finish_nside: int = 4
    """HEALPix nside of the rotation grid on which a fine start ends, at the same radius."""

    finish_batch: int = 120
    """Number of images in a step of this end."""

    finish_rate: float = 0.35
    """Weight of the newest batch in its running statistics."""

    finish_steps: int = 40
    """Number of its steps."""

    polyhedral_level: float = 12.0
    """Radius at which starts begin, and end, where a polyhedral symmetry is imposed: at lower resolution, real
    apoferritin is a shell."""

    polyhedral_nside: int = 6
    """HEALPix nside of their rotation grid (10 degrees), of which only the asymmetric unit is searched."""

    polyhedral_finish_nside: int = 8
    """The same at their end (7.5 degrees). On real apoferritin the correlation of their map with the model rises from
    0.10 to 0.21 in these steps, two seeds of three; without them refinement of one seed never left its start."""

    held_out: int = 300
    """Number of held-out images, by which starts are judged (fewer where the set is small)."""

    agreement: float = 0.75
    """Correlation of two aligned maps, weighted by shells, above which two starts agree."""

    polyhedral_agreement: float = 0.9
    """The same where a polyhedral symmetry is imposed, by which maps are alike: of real apoferritin, pairs at 0.75 to
    0.8 correlated with the model by 0.10 to 0.12, pairs above 0.9 by 0.18 to 0.22."""

    def coarse(self) -> Schedule:
        """Frequency marching from low resolution."""
        return Schedule(
            levels=self.levels,
            final=self.final_level,
            nside=self.nside,
            batch=self.batch,
            rate=self.rate,
            least_steps=self.least_steps,
            most_steps=(self.most_steps,) * len(self.nside),
            check_every=5,
            patience=2,
            rise=(0.0,) * len(self.nside),
            compared=1.0,
        )

    def fine(self, polyhedral: bool = False) -> Schedule:
        """Small batches and many steps at one radius, and an end on a finer grid in larger batches."""
        coarse, fine = (self.fine_nside, self.finish_nside)
        if polyhedral:
            coarse, fine = self.polyhedral_nside, self.polyhedral_finish_nside
        return Schedule(
            levels=(self.polyhedral_level if polyhedral else self.fine_level,) * 2,
            final=None,
            nside=(coarse, fine),
            batch=(self.fine_batch, self.finish_batch),
            rate=(self.fine_rate, self.finish_rate),
            least_steps=(self.fine_least_steps, self.finish_steps),
            most_steps=(self.fine_most_steps, self.finish_steps),
            check_every=20,
            patience=3,
            rise=(self.fine_rise, 0.0),
            compared=0.75,  # beyond, the running map of a small batch is noise
        )

    def further(self, polyhedral: bool = False) -> Schedule:
        """That of fine starts, with one more level of large batches, in which a map loses most of its noise."""
        fine = self.fine(polyhedral)
        finish = max(self.finish_steps, fine.check_every)  # maps are compared by poses of an evaluation
        last = min(fine.check_every, self.further_steps)
        return replace(
            fine,
            final=fine.levels[-1],
            nside=(*fine.nside, fine.nside[-1]),
            batch=(*fine.batch, self.batch[-1]),
            rate=(*fine.rate, self.rate[-1]),
            least_steps=(fine.least_steps[0], finish, last),
            most_steps=(fine.most_steps[0], finish, self.further_steps),
            rise=(*fine.rise, 0.0),
        )


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """Refinement of every candidate pose by Levenberg-Marquardt, with separate half sets."""

    candidates: int = 4
    """Number of candidate poses kept for each image."""

    coarse_level: float = 6.0
    """Radius of the first, coarse match, in Fourier pixels of a box as large as the particle."""

    fine_levels: tuple[float, ...] = (7.5, 9.75, 12.0)
    """Radius of the fine match of each global search (the first, the second, all later ones), in the same unit, as far
    as the map's resolution allows."""

    climb_steps: int = 5
    """Refinement steps of every candidate in an iteration; with 0, given poses are weighted but not moved."""

    most_iterations: int = 15
    """Maximum number of iterations; those with the map of all images are not counted."""

    least_iterations: int = 3
    """Minimum number of iterations."""

    largest_radius: int | None = None
    """Largest radius to which images are compared, in Fourier pixels of the working box; None: as far as they go."""


def start(job: PoseJob) -> PoseStart:
    """The ab initio map, aligned with the axes of its symmetry."""
    from cryoloom.inference.poses.start import PoseStart, StartAgreement
    from cryoloom.maps.symmetry import on_axes
    from cryoloom.recipes.abinit import AbInitRecipe

    feed = job.feed
    recipe = AbInitRecipe(feed, job.settings["abinit"], job.seed, job.preview, job.symmetry)
    found = job.session.run(recipe)
    volume, score = found.volume, None
    if not recipe.imposed:
        pixel_size = feed.field_of_view / found.volume.shape[-1]
        volume, score = on_axes(found.volume, pixel_size, job.symmetry, found.radius)
        job.preview(volume)
    agreement = StartAgreement(found.starts, found.agreeing, found.likeness, found.strength)
    return PoseStart((volume, volume), found.noise, found.sigma_angstrom, agreement=agreement, symmetry_score=score)


def confirm(job: PoseJob, volume: Tensor, R: Tensor) -> tuple[float, ...]:
    """Similarity of further random starts to the refined map (`recipes.confirm`).

    None are made where a polyhedral symmetry is imposed: all of them may lead to the same wrong map.
    """
    from cryoloom.recipes.abinit import AbInitRecipe
    from cryoloom.recipes.confirm import ConfirmRecipe

    abinit = AbInitRecipe(job.feed, job.settings["abinit"], job.seed, symmetry=job.symmetry)
    most = abinit.settings.further_starts
    if abinit.imposed or not most:
        return ()
    job.session.say(
        "The refined map passes all other checks, but the random starts disagree: it is compared with further ones, at "
        f"most {most}, until one agrees."
    )
    return job.session.run(ConfirmRecipe(abinit, volume, R))


def costs(feed: ImageFeed, settings: MethodSettings) -> Mapping[str, float]:
    """Expected cost of ab initio."""
    from cryoloom.recipes.abinit import AbInitRecipe

    recipe = AbInitRecipe(feed, settings["abinit"], 0)
    return {recipe.name: sum(recipe.expected_costs(recipe.init()))}


SEARCH = PoseMethod(
    "search",
    "a global search of all images against the map of ab initio",
    start,
    {"abinit": AbInitSettings},
    costs,
    on_axes=True,
    confirm=confirm,
)
