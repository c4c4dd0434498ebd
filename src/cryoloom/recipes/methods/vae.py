"""cryoDRGN: conformations by a variational autoencoder in Fourier space (Zhong et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cryoloom.recipes.methods import pca
from cryoloom.recipes.methods.method import ConformationJob, ConformationMethod, Conformations
from cryoloom.recipes.methods.option import option

if TYPE_CHECKING:
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.recipes.methods.settings import MethodSettings

# minimum reliability of a direction that a network uses: 0.94 and more on adenylate kinase's path; where images do not
# differ (a ribosome, coordinates that are not in use) 0.004 and less
SEEN = 0.05


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Networks for conformations: a decoder in Fourier space, and an encoder or a table of latents."""

    latent: int = field(
        default=8, metadata=option("--latent", help="Number of latent coordinates, Z.", minimum=1, maximum=64)
    )
    """Number of latent coordinates, Z."""

    encoder: Literal["mlp", "cnn"] = field(
        default="mlp",
        metadata=option(
            "--encoder", help="Network that maps an image to its latent; mlp: fully connected; cnn: convolutional."
        ),
    )
    """Encoder of images to latents (vae)."""

    encoder_width: int = 256
    """Width of the encoder's layers (1024 in `paper`)."""

    encoder_layers: int = 3
    """Number of the encoder's layers."""

    encoder_level: float = 8.0
    """Radius to which the encoder reads images, in Fourier pixels of a box as large as the particle."""

    decoder_width: int = 128
    """Width of the decoder's residual layers (1024 in `paper`)."""

    decoder_layers: int = 3
    """Number of the decoder's residual layers."""

    frequencies: Literal["gaussian", "geometric"] = "gaussian"
    """Frequencies of the positional encoding: random, normally distributed; or those of cryoDRGN's equation."""

    reach: float = 0.25
    """Standard deviation of the random Fourier features, in particle radii; with larger ones (0.4, 0.7) conformations
    are learnt more slowly. cryoDRGN uses a quarter of the box."""

    level: float = 16.0
    """Radius to which images are compared, in Fourier pixels of a box as large as the particle. Conformations are
    distinguished from 10 on; beyond this radius their maps have the details of the mean."""

    coefficients: int = 300
    """Number of Fourier coefficients sampled per image and update, more often where the mean is strong (all of them
    where there are fewer)."""

    epochs: int = field(default=20, metadata=option("--epochs", help="Passes over the images.", minimum=1))
    """Passes over the images."""

    batch: int = 32
    """Images in an update."""

    rate: float = 2e-3
    """Learning rate of Adam (1e-4 in `paper`), which falls over the second half of the updates."""

    table_rate: float = 0.3
    """Learning rate of the latents of single images (autodecoder); it falls over time as `rate` does."""

    pose_rate: float = 0.05
    """Learning rate of poses where they are learnt too, in pixels at the particle's rim."""

    noise_rate: float = 0.1
    """Rate at which the noise spectrum is learnt from the residuals of 2000 images at a time; 0: it stays as given."""

    beta: float = 1.0
    """Weight of the divergence from the prior; 1 is the evidence lower bound."""

    warm_up: float = 0.1
    """Share of the epochs over which beta grows from 0."""

    refine_poses: bool = field(
        default=False,
        metadata=option(
            "--refine-poses/--keep-poses",
            help="Refine the poses of the images too while the networks are trained; particles.star keeps those given.",
        ),
    )
    """Whether poses are learnt too, image by image, for the sake of the latents; particles.star keeps those given."""


def find(job: ConformationJob) -> Conformations:
    """Train an encoder and a decoder on the posed images."""
    if job.searched:
        # poses were found along with a linear family, which held-out images must confirm first
        _, state = pca.fitted(job, job.settings["pca"])
        if not state.components:
            return pca.nothing(VAE.name)
    return trained(job, "vae")


def trained(job: ConformationJob, kind: Literal["vae", "autodecoder"]) -> Conformations:
    """Train networks and measure how reliably their latents distinguish images."""
    from cryoloom.inference.conformations.evidence import ConformationEvidence
    from cryoloom.recipes.vae import VariationalRecipe

    recipe = VariationalRecipe(job.posed, job.settings["vae"], job.seed, job.mean, kind)
    state = job.session.state(recipe)
    with job.session.timing("latents"):
        found = recipe.result(state)
    reliability = found.latents.rows(found.latents.contrast > 0).told_apart()[0]
    used = int((reliability > SEEN).sum())
    evidence = ConformationEvidence(kind, used, len(reliability), reliability=float(reliability[0]))
    return Conformations(found if used else None, evidence)


def costs(feed: ImageFeed, settings: MethodSettings) -> Mapping[str, float]:
    """Expected cost of training."""
    from cryoloom.recipes.vae import training_cost

    return {"vae": training_cost(feed, settings["vae"])}


VAE = ConformationMethod(
    "vae",
    "a variational autoencoder in Fourier space (cryoDRGN)",
    find,
    {"vae": NetworkSettings, "pca": pca.PCASettings},
    costs,
)
