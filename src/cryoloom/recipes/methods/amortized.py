"""cryoAI: encoder and volume learn together from the images alone (Levy et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cryoloom.recipes.methods.method import PoseJob, PoseMethod
from cryoloom.recipes.methods.option import option

if TYPE_CHECKING:
    from cryoloom.inference.poses.start import PoseStart
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.recipes.methods.settings import MethodSettings


@dataclass(frozen=True, slots=True)
class AmortizedSettings:
    """Training of an encoder and a volume from random weights."""

    encoder: Literal["paper", "compact"] = "compact"
    """Encoder: VGG16-like as published, or a narrow one for CPUs."""

    filters: int = 5
    """Number of Gaussian low-pass filters in front of the encoder."""

    heads: int = 1
    """Number of candidate poses that the encoder gives."""

    mixed_precision: bool = False
    """Whether the encoder's layers compute in bfloat16 (for a GPU); the physics stays float32."""

    symmetrised: bool = True
    """Whether an image and its half-turn are both encoded and the better fit counts (cryoAI's symmetrised loss)."""

    volume: Literal["fouriernet", "voxel", "real"] = field(
        default="fouriernet",
        metadata=option(
            "--volume",
            help="Volume that is learnt; fouriernet: a network in Fourier space; voxel: a grid of Fourier "
            "coefficients; real: a density grid.",
        ),
    )
    """Volume: a network in Fourier space, a grid of Fourier coefficients, or densities (transformed at every step)."""

    width: int = 64
    """Width of FourierNet's layers (256 as published)."""

    hidden: int = 2
    """Number of FourierNet's hidden layers."""

    w0: float = 30.0
    """Frequency of FourierNet's sines."""

    net_reach: float = 0.33
    """Extent of the plane waves that FourierNet's first layer begins with, in particle radii. From the whole radius
    volumes are learnt more slowly (docs/methods/cryoai.md)."""

    first_level: float = 5.0
    """Radius at which frequency marching begins, in Fourier pixels of a box as large as the particle. Cold starts from
    lower levels converged more slowly (docs/methods/cryoai.md)."""

    last_level: float = 8.0
    """Radius at which frequency marching ends."""

    march: float = 1.0
    """Share of the rounds over which the radius grows."""

    rounds: int = 300
    """Number of training rounds."""

    updates: int = 50
    """Minibatches in a round."""

    batch: int = 32
    """Images in a minibatch."""

    encoder_rate: float = 1e-3
    """Learning rate of the encoder."""

    volume_rate: float = 1e-3
    """Learning rate of the volume."""

    noise_rate: float = 0.02
    """Rate at which the noise spectrum is learnt, per update; with 0 the images' whole power counts as noise."""

    polish: bool = field(
        default=False, metadata=option("--polish/--no-polish", help="Refine the poses that the encoder gives.")
    )
    """Whether the encoder's poses are refined afterwards."""


def start(job: PoseJob) -> PoseStart:
    """The learnt volume, from which both half sets start, and the encoder's poses."""
    from cryoloom.inference.poses.start import PoseStart
    from cryoloom.recipes.amortized import AmortizedRecipe

    settings: AmortizedSettings = job.settings["amortized"]
    found = job.session.run(AmortizedRecipe(job.feed, settings, job.seed))
    job.preview(found.volume)
    sigma = max(float(found.poses.best()[1].square().mean().sqrt()), job.feed.pixel_size)
    return PoseStart(
        (found.volume, found.volume),
        found.noise,
        sigma,
        poses=found.poses,
        spread=True,
        polish=settings.polish,
        encoder=found.encode,
    )


def costs(feed: ImageFeed, settings: MethodSettings) -> Mapping[str, float]:
    """Expected cost of training."""
    from cryoloom.recipes.amortized import training_costs

    return {"amortized": sum(training_costs(feed, settings["amortized"], 0))}


AMORTIZED = PoseMethod(
    "amortized",
    "an encoder and a volume, trained together from random weights (cryoAI)",
    start,
    {"amortized": AmortizedSettings},
    costs,
)
