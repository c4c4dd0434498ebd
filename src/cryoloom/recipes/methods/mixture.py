"""Settings of the search for several molecules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MixtureSettings:
    """Several molecules: maps from random starts, classes of images, refinement of each class.

    Measured on simulated mixtures of 3 to 16 molecules, of the same and of different shares, with and without junk.
    """

    levels: tuple[float, ...] = (3.75, 4.5, 6.0, 6.0, 7.5)
    """Radii of the levels, in Fourier pixels of a box as large as the particle."""

    nside: tuple[int, ...] = (3, 3, 4, 4, 4)
    """HEALPix nside of the rotation grid of each level (3 is 20 degrees, 4 is 15)."""

    steps: tuple[int, ...] = (30, 25, 15, 10, 8)
    """Number of steps of each level."""

    rate: tuple[float, ...] = (0.6, 0.5, 0.4, 0.4, 0.3)
    """Weight of the newest batch in the running statistics, by level."""

    batch: int = 130
    """Number of images in a step, for each map."""

    temperature: float = 4.0
    """The log evidence of classes is divided by this at first, and by less and less until `cooled_at`."""

    cooled_at: float = 0.5
    """Share of all steps after which the posterior over classes is the exact one."""

    even_until: float = 0.7
    """Share of all steps after which classes have the shares that their evidence gives them; they are even at first."""

    surplus: float = 0.5
    """Maps beyond the expected number of molecules, relative to it."""

    least_surplus: int = 2
    """Minimum number of such maps."""

    first_guess: int = 6
    """Number of maps with which the search begins where the number of molecules is not known."""

    most: int = 48
    """Maximum number of maps."""

    spare: float = 0.15
    """Share of the maps that must turn out to be needless for the number of maps to be large enough."""

    least_loss: tuple[float, ...] = (0.0, 0.06, 0.3, 0.0, 0.1)
    """By level: at its end, maps are dropped whose images lose less than this share of their log evidence without them;
    0 drops none. Two maps of one molecule lose 0.05 to 0.2 (more where they share its views out among them), those of
    different molecules 0.45."""

    one_left_at: float = 0.67
    """Share of the first level's steps after which all maps but one are dropped if they show one molecule."""

    one_left_loss: float = 0.08
    """That is so where all lose less than this share of their log evidence without each other: 0.02 to 0.063 for the
    maps of one molecule (four of them tried). Of two molecules (nine pairs), a map loses 0.1 to 0.38."""

    shelved_at: int = 2
    """Level at whose end maps are dropped on trial. After the next one, those without which their images still lose
    `lasting_loss` come back: the other maps have had these images by then."""

    lasting_loss: float = 0.1
    """Share of the log evidence that the images of such a map must lose without it for the map to come back."""

    judged: int = 200
    """Number of images for each map by which that is judged."""

    pruned_from: int = 2
    """Level from which on images are matched only with maps that a match at lower radius leaves."""

    window_nats: float = 20.0
    """Log evidence, at the lower radius, by which a map may lie below the best one to be left."""

    body_level: float = 6.0
    """Radius up to which an unknown body explains images, in the unit of `levels`."""

    body_loss: float = 0.15
    """Share of their log evidence, up to `body_level`, that the images of a map lose to an unknown body if it shows a
    molecule: 0.26 to 0.8 for twelve molecules, -0.15 to 0.05 for maps of junk, 0.12 for one half of which was junk."""

    junk_loss: float = 0.08
    """A search among images of no class ends early where all of its maps lose less than this."""

    coarse_level: float = 6.0
    """Radius of the coarse match of sorting on the fine grid, in the unit of `levels`."""

    fine_level: float = 12.0
    """Radius of sorting on the fine grid, once classes are refined, in the same unit."""

    least_split: int = 300
    """Minimum number of images of a class that is searched for several molecules."""

    split_loss: float = 0.05
    """Share of their log evidence that the images of a map found there must lose if they go to the class's map. Maps of
    one molecule lose 0.01 to 0.02 at refined poses, those of different molecules 0.4."""

    search_gain: float = 0.004
    """Share of their log evidence that the images of a class must gain by components around its map for the class to
    be searched: 0.014 to 0.13 for two to four molecules in one class, 0.002 to 0.003 for some of one."""

    searched_again: float = 0.1
    """Share of the images of a class that must be others than those searched for it to be searched again."""

    rounds: int = 6
    """Maximum number of rounds in which classes are refined in a few iterations and all images sorted anew."""

    round_iterations: int = 3
    """Iterations of refinement in such a round, without those in which images decide on the map of all images."""

    further_iterations: int = 2
    """The same for a class whose refinement goes on from the round before."""

    unlikely_nats: float = 40.0
    """In the next round, an image is not compared with a class whose evidence was lower than that of another by this,
    where both classes have kept their images."""

    settled: float = 0.01
    """Share of the images that go from one class to another in a round below which classes are settled."""

    settled_none: float = 0.05
    """The same for images that are left out or come back. Those near the limit of fitting often change sides: 3 % of
    real-like images of one molecule do in each round."""

    twin_loss: float = 0.05
    """Share of their log evidence that the images of a refined class must lose without it for the class to be kept."""

    beyond_start: float = 1.15
    """Multiple of the radius of its first map to which the half maps of a class must agree for it to be a molecule."""

    fewest: int = 60
    """Minimum number of images of a class."""

    usual_classes: int = 3
    """Usual number of maps that are left, for the estimate of the time."""

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.levels, self.nside, self.steps, self.rate, self.least_loss)}
        if len(lengths) > 1:
            raise ValueError(
                "levels, nside, steps, rate and least_loss: expected as many values of each, one for a level"
            )
        if min(self.rounds, self.round_iterations, self.further_iterations) < 1:
            raise ValueError("rounds, round_iterations and further_iterations: expected 1 or more")

    def with_surplus(self, expected: int) -> int:
        """Number of maps with which the search for an expected number of molecules begins."""
        return min(max(self.most, expected), expected + max(self.least_surplus, round(self.surplus * expected)))
