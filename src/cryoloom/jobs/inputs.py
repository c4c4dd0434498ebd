"""Opens the particles of a run and prepares their images."""

from __future__ import annotations

import torch

from cryoloom.jobs.settings import Common, InputSettings
from cryoloom.particles.feed import ImageFeed, normalised_feed
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.preprocess import Preprocessing, measure
from cryoloom.runs.seeds import torch_generator


def open_input(settings: InputSettings) -> ParticleSet:
    """The particles of a run.

    Raises:
        BadInput: see `open_particles`.
    """
    return open_particles(settings.particles, settings.stated)


def prepare(particles: ParticleSet, settings: Common) -> Preprocessing:
    """Contrast, diameter and noise of the set, measured on a sample of its images."""
    return measure(
        particles,
        particle_diameter_angstrom=settings.particle_diameter_angstrom,
        box=settings.box,
        generator=torch_generator(settings.seed, "preprocessing"),
    )


def make_feed(particles: ParticleSet, preprocessing: Preprocessing, settings: Common) -> ImageFeed:
    """The images as the kernels take them, on the device of the run."""
    return normalised_feed(particles, preprocessing, settings.cache_bytes, torch.device(settings.device))
