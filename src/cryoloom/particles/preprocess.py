"""Contrast, particle diameter and noise of a set, measured on a sample of its images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.particles.appearance import SURE, Appearance, Size
from cryoloom.particles.background import WIDEST_CIRCLE, Background, Unusable, radius_map
from cryoloom.particles.coefficients import crop_images
from cryoloom.particles.errors import BadInput
from cryoloom.particles.modulation import MOST_IMAGES, Modulation
from cryoloom.particles.noise_spectrum import WindowedSpectrum
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.noise import shell_means

SMALLEST_BOX = 16
# groups with fewer sampled images than this use the common spectrum of all groups
_ENOUGH_IMAGES = 50
_CHUNK_BYTES = 16 << 20
# images whose noise, at some frequency, has less than this share of its largest power were filtered (by a low-pass, a
# Wiener filter): real apoferritin has 0.09
FILTERED = 0.01
_FIRST_WHOLE = 4  # first shell of whose noise normalisation takes none
_MOST_GAIN = 1e3  # of amplitudes, where a filter left nothing


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images are normalised, and the noise of normalised images.

    Attributes:
        contrast_sign: +1 where particles are white already, -1 where images are inverted.
        noise: E|n|^2 by shell 0 .. box // 2 of the working box's unnormalised transform of normalised images, one row
            per optics group, [G, S] float32. For CTF-premultiplied images, that of the noise before multiplication.
        whitening: factors by optics group and shell that make the noise of filtered images white, [G, S] float32; None
            where no group was filtered. A map of filtered images has so steep a spectrum that what a mask, or an
            interpolation, carries from its low frequencies into high ones outweighs their own noise.
        box: working box, pixels; pixel_size: its pixel size, angstrom.
        particle_diameter_angstrom: diameter of the circle outside which images are normalised.
        outlier_sigma: pixels beyond this many background s.d. are clipped.
        said: findings, in words for the user.
    """

    contrast_sign: float
    noise: Float[Tensor, "G S"]
    whitening: Float[Tensor, "G S"] | None
    box: int
    pixel_size: float
    particle_diameter_angstrom: float
    outlier_sigma: float
    said: tuple[str, ...]


def measure(
    particles: ParticleSet,
    *,
    particle_diameter_angstrom: float | None,
    box: int | None,
    generator: torch.Generator,
    sample: int = 1000,
) -> Preprocessing:
    """Measure contrast, particle diameter and noise spectra on at most `sample` images, spread over optics groups.

    Args:
        particle_diameter_angstrom: diameter of the particle; estimated if None.
        box: working box, pixels; that of the images if None.
        generator: chooses the sample.

    Raises:
        BadInput: for a box or a diameter that can't be used with these images.
    """
    box = _working_box(particles, box)
    rows = sample_rows(particles, sample, generator)
    said: list[str] = []
    appearance, outlier_sigma = _look(particles, rows)
    diameter = _diameter(particles, particle_diameter_angstrom, appearance, said)
    sign = _contrast(appearance.contrast(diameter), said)
    if not particles.ctf_premultiplied and not particles.phase_flipped and particles.has_ctf:
        said += _modulation(particles, rows, diameter, outlier_sigma).findings()
    noise = _noise(particles, rows, diameter=diameter, outlier_sigma=outlier_sigma, box=box, said=said)
    # of premultiplied images, the noise before multiplication is not known where the CTF is small
    side = particles.box * particles.pixel_size
    whitening = None if particles.ctf_premultiplied else _whitening(noise, side, said)
    if whitening is not None:
        noise = noise * whitening.square()
    if box != particles.box:
        size = particles.pixel_size * particles.box / box
        said.append(f"Images of {particles.box} px are Fourier-cropped to {box} px of {size:.3f} angstrom.")
    return Preprocessing(
        contrast_sign=sign,
        noise=noise.float(),
        whitening=None if whitening is None else whitening.float(),
        box=box,
        pixel_size=particles.pixel_size * particles.box / box,
        particle_diameter_angstrom=diameter,
        outlier_sigma=outlier_sigma,
        said=tuple(said),
    )


def seen_diameter(particles: ParticleSet, generator: torch.Generator, sample: int = 1000) -> float | None:
    """Particle diameter in angstrom as at most `sample` images show it; None where no particle stands out."""
    size = _look(particles, sample_rows(particles, sample, generator))[0].size()
    return size.diameter_angstrom if size.seen else None


def _working_box(particles: ParticleSet, box: int | None) -> int:
    if box is None:
        return particles.box
    if not SMALLEST_BOX <= box <= particles.box:
        raise BadInput.report(
            "The working box can't be used.",
            found=f"{box} pixels",
            expected=f"{SMALLEST_BOX} to {particles.box} pixels, the box of the images",
        )
    return box


def sample_rows(particles: ParticleSet, sample: int, generator: torch.Generator) -> np.ndarray:
    """At most `sample` rows, int64, ascending; all optics groups get equal shares as far as they have enough images."""
    n = len(particles)
    order = torch.randperm(n, generator=generator).numpy()
    if n <= sample:
        return np.arange(n)
    group = particles.group[order]
    # the rank of each row within its group: taking the lowest ranks fills all groups evenly
    rank = np.empty(n, dtype=np.int64)
    for g in np.unique(group):
        mine = np.flatnonzero(group == g)
        rank[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(rank, kind="stable")[:sample]])


def read_normalised(
    particles: ParticleSet, rows: np.ndarray, background: Background, outlier_sigma: float
) -> Float[Tensor, "B D D"]:
    """Images of some rows, normalised by their background and clipped (`Background.normalise`).

    Raises:
        BadInput: for images that can't be normalised, with their rows in the file.
    """
    try:
        return background.normalise(torch.from_numpy(particles.read(rows)), outlier_sigma)
    except Unusable as e:
        bad = rows[e.places]
        raise BadInput.report(
            f"{len(bad)} image(s) have no background by which they could be normalised.",
            file=particles.path,
            where=particles.place(bad),
            found="the same value in all pixels around the particle, or hardly any that are not filled borders",
            expected="images with the noise around the particle, not masked",
            fix="extract them again without a mask, or take these rows out of the file",
        ) from None


def _chunks(
    particles: ParticleSet, rows: np.ndarray, background: Background, outlier_sigma: float
) -> Iterator[tuple[np.ndarray, Tensor]]:
    step = max(1, _CHUNK_BYTES // (4 * particles.box**2))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield part, read_normalised(particles, part, background, outlier_sigma)


def matched_ctf(particles: ParticleSet, rows: np.ndarray, disc: FourierDisc) -> Float[Tensor, "B P"]:
    """Factor by which images are multiplied so that their signals add up: C, |C| if phase-flipped, 1 if
    premultiplied."""
    if particles.ctf_premultiplied:
        return torch.ones(len(rows), len(disc.index))
    ctf = _ctf(particles.ctf, rows, disc)
    return ctf.abs() if particles.phase_flipped else ctf


def _ctf(ctf: CTFParameters, rows: np.ndarray, disc: FourierDisc) -> Float[Tensor, "B P"]:
    return evaluate_ctf(ctf[torch.from_numpy(rows)], disc.k.double()).float()


def _look(particles: ParticleSet, rows: np.ndarray) -> tuple[Appearance, float]:
    """Sums over the sample, and the outlier threshold, well beyond both the noise and the brightest particles."""
    appearance = Appearance(particles.box, particles.pixel_size)
    corners = Background.create(particles.box, particles.box)
    tail = []
    for part, images in _chunks(particles, rows, corners, 50.0):
        k = max(1, images[0].numel() // 1000)
        tail.append(images.abs().reshape(len(part), -1).kthvalue(images[0].numel() - k + 1, dim=-1).values)
        appearance.add(images.clamp(-20, 20), matched_ctf(particles, part, appearance.disc))
    return appearance, max(8.0, 2.5 * float(torch.cat(tail).median()))


def _diameter(particles: ParticleSet, given: float | None, appearance: Appearance, said: list[str]) -> float:
    side = particles.box * particles.pixel_size
    if given is not None:
        if not 0.05 * side <= given <= 1.5 * side:
            raise BadInput.report(
                "The particle diameter does not fit the images.",
                found=f"{given:g} angstrom",
                expected=f"{0.05 * side:.0f} to {1.5 * side:.0f} angstrom, for a box of {side:.0f} angstrom",
                fix="give it in angstrom; was the pixel size right?",
            )
        if given > WIDEST_CIRCLE * side:
            said.append(
                f"The particle ({given:.0f} angstrom) fills its box ({side:.0f} angstrom): little background is left to"
                " normalise by; larger boxes would serve better."
            )
        return float(given)
    size: Size = appearance.size()
    if size.seen:
        said.append(
            f"Particle diameter: about {size.diameter_angstrom:.0f} angstrom"
            f" ({size.diameter_angstrom / side:.2f} of the box), a generous estimate (--particle-diameter replaces it)."
        )
    else:
        said.append(
            "No particle stands out from the noise: its diameter is assumed to be"
            f" {size.diameter_angstrom:.0f} angstrom, 0.75 of the box. State it if you know it."
        )
    return size.diameter_angstrom


def _contrast(score: float, said: list[str]) -> float:
    if abs(score) < SURE:
        said.append(
            f"The contrast can't be determined ({score:+.1f} s.d.): particles are assumed to be white, as in RELION."
        )
        return 1.0
    said.append(
        f"Particles are {'white' if score > 0 else 'black: the images are inverted'} ({abs(score):.0f} s.d. from zero)."
    )
    return 1.0 if score > 0 else -1.0


def _modulation(particles: ParticleSet, rows: np.ndarray, diameter: float, outlier_sigma: float) -> Modulation:
    background = Background.create(particles.box, diameter / particles.pixel_size)
    modulation = Modulation(particles.box, particles.pixel_size, diameter)
    some = rows[:: -(-len(rows) // MOST_IMAGES)]
    for part, images in _chunks(particles, some, background, outlier_sigma):
        modulation.add(images, _ctf(particles.ctf, part, modulation.disc))
    return modulation


def _clear_radius(background: Background) -> float:
    """Radius in pixels beyond which the CTF's fringes around the particle have faded too, as far as the box allows."""
    return max(background.radius, min(1.2 * background.radius, 0.425 * background.box))


def _noise(
    particles: ParticleSet, rows: np.ndarray, diameter: float, outlier_sigma: float, box: int, said: list[str]
) -> Float[Tensor, "G S"]:
    """E|n|^2 by shell of the working box after normalisation, float64."""
    background = Background.create(particles.box, diameter / particles.pixel_size)
    # slightly larger than the working box, so that its last shells have neighbours
    seen_box = min(particles.box, box + 8)
    clear = _clear_radius(background) * seen_box / particles.box
    window = torch.sin(((radius_map(seen_box) - clear) / 3).clamp(0, 1) * torch.pi / 2) ** 2
    estimator = WindowedSpectrum.create(window)
    groups = len(particles.group_names)
    total, count = torch.zeros(groups, len(estimator.mixing), dtype=torch.float64), torch.zeros(groups)
    for part, normalised in _chunks(particles, rows, background, outlier_sigma):
        images = crop_images(normalised, seen_box)
        for g in np.unique(particles.group[part]):
            mine = torch.from_numpy(np.flatnonzero(particles.group[part] == g))
            total[g] += estimator.power(images[mine]) * len(mine)
            count[g] += len(mine)
    few = [g for g in range(groups) if count[g] < _ENOUGH_IMAGES]
    if few and groups > 1:
        said.append(f"{len(few)} optics group(s) with too few images for their own noise spectrum use that of the set.")
    total[few], count[few] = total.sum(0), count.sum()
    noise = torch.stack([estimator.unmix(total[g] / count[g], int(count[g])) for g in range(groups)])
    noise = noise[:, : box // 2 + 1] * (box / seen_box) ** 4
    return noise / _mean_square_ctf(particles, rows, box) if particles.ctf_premultiplied else noise


def _whitening(noise: Float[Tensor, "G S"], field_of_view: float, said: list[str]) -> Float[Tensor, "G S"] | None:
    """Factors that make the noise of all groups white, of one level; None if no group was filtered.

    One filtered group is enough: the signals of all groups add up in one map, so what changes them must be common.
    """
    # of the first shells, normalisation has taken some of the noise
    power = torch.cat([noise[:, _FIRST_WHOLE : _FIRST_WHOLE + 1].expand(-1, _FIRST_WHOLE), noise[:, _FIRST_WHOLE:]], 1)
    most, (least, shell) = power.amax(1), power.min(1)
    filtered = least < FILTERED * most
    if not filtered.any():
        return None
    worst = int((least / most).argmin())
    who = "The images" if bool(filtered.all()) else f"The images of {int(filtered.sum())} optics group(s)"
    said.append(
        f"{who} were filtered: at {field_of_view / max(int(shell[worst]), _FIRST_WHOLE):.1f} angstrom their noise has"
        f" {100 * float(least[worst] / most[worst]):.2g} % of its largest power. They are whitened, and maps are those"
        " of whitened images."
    )
    if not filtered.all():
        said.append("Images of the other optics groups are whitened too: maps are made of all of them.")
    return (most.max() / power.clamp(min=most[:, None] / _MOST_GAIN**2)).sqrt()


def _mean_square_ctf(particles: ParticleSet, rows: np.ndarray, box: int) -> Float[Tensor, " S"]:
    """Mean of C^2 over the sample by shell of the working box: the factor of the noise due to premultiplication."""
    disc = FourierDisc.create(box, particles.pixel_size * particles.box / box, dtype=torch.float64)
    parts = np.array_split(rows, min(10, len(rows)))
    square = torch.stack([_ctf(particles.ctf, part, disc).square().mean(0) for part in parts])
    shells = shell_means(square.mean(0).double(), disc)
    return torch.cat([shells, shells[-1:]])[: box // 2 + 1].clamp(min=1e-3)
