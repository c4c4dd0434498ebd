"""States of a simulation: models, trajectories and maps on a common box, pixel size and frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoloom.maps.io import DensityMap, read_map
from cryoloom.physics.fourier import pad_real, resize_real
from cryoloom.simulation.structure import AtomicModel, assemble, electron_density, is_model, read_models

DEFAULT_BOX = 64
FILLING = 0.7  # diameter of the molecule over the side of the box if no pixel size is given
PIXEL_TOLERANCE = 2e-4  # relative error of the pixel size allowed when a map is padded, by up to an eighth of its side


@dataclass(frozen=True, slots=True)
class StateSource:
    """Source of one state.

    Attributes:
        path: atomic model, trajectory or map.
        frame: index of a frame of a trajectory; None for other files.
    """

    path: Path
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class StateGeometry:
    """Placement of the states in a box.

    Attributes:
        box: side in pixels; None takes 64 for models and the side of the first map for maps.
        pixel_size: angstrom; None lets the molecule fill 0.7 of the box, or takes that of the first map.
        b_factor_angstrom2: B-factor of all atoms of the models.
        symmetry: point group of an assembly of copies of each model; "C1" makes no copies.
        radius_angstrom: distance of the centre of the first copy from the axis.
        map_pixel_size: voxel size of maps in angstrom, in place of that in their headers.
        centre_angstrom: point (x, y, z) in the frame of the model files that is put at the centre of the box; None
            takes the mean position of the atoms of the first model. All states share the centre and so stay in the
            common frame of their files.
    """

    box: int | None = None
    pixel_size: float | None = None
    b_factor_angstrom2: float = 100.0
    symmetry: str = "C1"
    radius_angstrom: float = 40.0
    map_pixel_size: float | None = None
    centre_angstrom: tuple[float, float, float] | None = None


def load_states(sources: list[StateSource], geometry: StateGeometry) -> tuple[DensityMap, ...]:
    """Maps of one box and one pixel size, in the order of the sources.

    Raises:
        ValueError: if a source can't be read or does not fit into the box, or if models and maps are mixed.
    """
    if not sources:
        raise ValueError("no model or map given: name at least one")
    for source in sources:
        if not source.path.is_file():
            raise ValueError(f"{source.path}: no such file; expected an atomic model or a map")
    models = [is_model(source.path) for source in sources]
    if all(models):
        return _states_of_models(_read_sources(sources), geometry)
    if any(models):
        names = ", ".join(str(s.path) for s in sources)
        raise ValueError(f"models and maps are mixed ({names}): their densities have no common scale; give one kind")
    if geometry.symmetry.upper() != "C1":
        raise ValueError(f"symmetry {geometry.symmetry} with a map: assemblies are made from atomic models only")
    return _states_of_maps([source.path for source in sources], geometry)


def _read_sources(sources: list[StateSource]) -> list[AtomicModel]:
    return [read_models(s.path, None if s.frame is None else [s.frame])[0] for s in sources]


def _states_of_models(models: list[AtomicModel], geometry: StateGeometry) -> tuple[DensityMap, ...]:
    centre = models[0].xyz.mean(0) if geometry.centre_angstrom is None else np.array(geometry.centre_angstrom)
    placed = [model.moved(-centre) for model in models]
    if geometry.symmetry.upper() != "C1":
        placed = [assemble(model, geometry.symmetry, geometry.radius_angstrom) for model in placed]
    box = geometry.box or DEFAULT_BOX
    pixel_size = geometry.pixel_size
    if pixel_size is None:
        reach = max(model.reach_angstrom for model in placed)
        pixel_size = math.ceil(20 * reach / (FILLING * box)) / 10
    return tuple(
        DensityMap(electron_density(model, box, pixel_size, geometry.b_factor_angstrom2), pixel_size, (0.0, 0.0, 0.0))
        for model in placed
    )


def model_state(model: AtomicModel, geometry: StateGeometry) -> DensityMap:
    """Map of an atomic model in memory."""
    return _states_of_models([model], geometry)[0]


def _states_of_maps(paths: list[Path], geometry: StateGeometry) -> tuple[DensityMap, ...]:
    maps = [_read_map(path, geometry.map_pixel_size) for path in paths]
    pixel_size = geometry.pixel_size or maps[0].pixel_size
    box = geometry.box or round(max(maps[0].data.shape) * maps[0].pixel_size / pixel_size)
    states = tuple(resample_map(density, box, pixel_size) for density in maps)
    sizes = {round(state.pixel_size, 3) for state in states}
    if len(sizes) > 1:
        raise ValueError(f"the maps get pixel sizes {sorted(sizes)} A; expected one: resample them to equal grids")
    return states


def _read_map(path: Path, pixel_size: float | None) -> DensityMap:
    try:
        return read_map(path, pixel_size=pixel_size, cubic=False)
    except ValueError as error:
        # in a simulation --pixel-size is that of the images
        raise ValueError(str(error).replace("--pixel-size", "--map-pixel-size")) from None


def resample_map(density: DensityMap, box: int, pixel_size: float) -> DensityMap:
    """Resamples a map to `box` and nearly the given pixel size, by Fourier cropping or padding about its centre.

    The map is padded by up to an eighth of its side so that the new pixel size is within 2e-4 of the given one where
    possible; the result holds the pixel size that was reached.
    """
    side = max(density.data.shape)
    cube = torch.zeros(side, side, side, dtype=torch.float32)
    corner = [side // 2 - n // 2 for n in density.data.shape]
    z, y, x = (slice(c, c + n) for c, n in zip(corner, density.data.shape, strict=True))
    cube[z, y, x] = density.data.float()
    if abs(pixel_size / density.pixel_size - 1) > PIXEL_TOLERANCE:
        ratio = density.pixel_size / pixel_size
        sides = range(side, side + side // 8 + 2)
        mismatch = [abs(n * ratio / round(n * ratio) - 1) if round(n * ratio) >= 1 else math.inf for n in sides]
        good = [n for n, m in zip(sides, mismatch, strict=True) if m <= PIXEL_TOLERANCE]
        padded = good[0] if good else sides[mismatch.index(min(mismatch))]
        new = max(1, round(padded * ratio))
        cube = resize_real(pad_real(cube, padded, 3), new, 3)
        pixel_size = density.pixel_size * padded / new
    else:
        pixel_size = density.pixel_size
    return DensityMap(pad_real(cube, box, 3).contiguous(), pixel_size, (0.0, 0.0, 0.0))


def sources_of(paths: list[Path], frames: str) -> list[StateSource]:
    """States of the paths in order; a .npz gives one state for every frame in `frames`, such as ``"0,10:98:20"``.

    Raises:
        ValueError: if `frames` is not a list of numbers and START:STOP:STEP ranges.
    """
    chosen = _parse_frames(frames)
    return [
        StateSource(path, frame) for path in paths for frame in (chosen if path.suffix.lower() == ".npz" else (None,))
    ]


def _parse_frames(text: str) -> tuple[int, ...]:
    frames: list[int] = []
    try:
        for part in text.split(","):
            ends = [int(p) for p in part.split(":")]
            if not 1 <= len(ends) <= 3:
                raise ValueError
            frames += ends if len(ends) == 1 else range(*ends)
    except ValueError:
        raise ValueError(f"frames {text!r}; expected numbers or START:STOP:STEP joined by commas, as 0:98:5") from None
    if not frames or min(frames) < 0:
        raise ValueError(f"frames {text!r}; expected at least one frame and no negative ones, e.g. 0:98:5")
    return tuple(frames)
