"""A run folder, opened: record, verdict, particles, maps and latents, each read when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.jobs.class_table import ClassRow, read_class_table
from cryoloom.jobs.fsc_table import FSCTable, read_fsc_table
from cryoloom.jobs.mixture_verdict import MixtureVerdict, mixture_headline
from cryoloom.jobs.particle_estimates import ParticleEstimates, read_particle_estimates
from cryoloom.jobs.settings import HeteroSettings, ReconstructSettings
from cryoloom.jobs.verdict import Verdict
from cryoloom.jobs.verdict_text import headline
from cryoloom.maps.io import DensityMap, read_map
from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.stated import StatedInput
from cryoloom.runs import layout
from cryoloom.runs.layout import RunFile
from cryoloom.runs.metrics_log import LoggedStep, read_metrics
from cryoloom.runs.record import RunRecord, from_json, read_record, read_settings


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Maps along a trajectory through the latent space.

    Attributes:
        name: of the series; maps: their files, in order.
        points: latent coordinates of the maps, [T, Z]; None if they are not known.
    """

    name: str
    maps: tuple[Path, ...]
    points: np.ndarray | None


class FinishedRun:
    """A run folder and what is in it: what `cl.reconstruct`, `cl.hetero` and `cl.open_run` return.

    `map`, `half_maps`, `mask`, `particles` and `poses` raise BadInput where the run has not written them. All else that
    an unfinished run has not written yet, or that has been removed, is None (or empty); `require` insists on it.

    Attributes:
        folder: of the run; record: the contents of run.json.
    """

    def __init__(self, folder: Path, record: RunRecord | None = None) -> None:
        """Raises:
        BadRunFolder: if the folder holds no run of this version.
        """
        self.folder = Path(folder)
        self.record = read_record(self.folder) if record is None else record

    def __repr__(self) -> str:
        if self.record.status != "finished":
            return f"FinishedRun({str(self.folder)!r}: {self.record.command}, {self.record.status})"
        if self.mixture is not None:
            return f"FinishedRun({str(self.folder)!r}: {self.record.command}, {mixture_headline(self.mixture)})"
        said = "no verdict: ab initio only" if self.verdict is None else headline(self.verdict)
        return f"FinishedRun({str(self.folder)!r}: {self.record.command}, {said})"

    def path(self, file: RunFile, **fields: int | str) -> Path:
        """Where a file of the run is, whether it exists or not."""
        return file.path(self.folder, **fields)

    def has(self, file: RunFile, **fields: int | str) -> bool:
        """Whether the run has a file."""
        return self.path(file, **fields).is_file()

    def require(self, file: RunFile, advice: str = "") -> Path:
        """The path of a file that must be there.

        Raises:
            BadInput: if it is not.
        """
        path = self.path(file)
        if not path.is_file():
            unfinished = "" if self.record.status == "finished" else f"continue it with cryoloom resume {self.folder}"
            what = advice or unfinished or f"{file.name} is written by cryoloom {file.writer}"
            raise BadInput(f"{self.folder}: this run has no {file.name}\n  what to do: {what}")
        return path

    @cached_property
    def settings(self) -> ReconstructSettings | HeteroSettings:
        """With which it was run."""
        kind = HeteroSettings if self.record.command == "hetero" else ReconstructSettings
        return read_settings(self.folder, kind)

    @property
    def several_molecules(self) -> bool:
        """Whether the run looks for several molecules: its maps are those of its classes, in their folders."""
        settings = self.record.settings
        return settings.get("classes") is not None or bool(settings.get("classes_from"))

    @cached_property
    def molecules(self) -> tuple[FinishedRun, ...]:
        """The runs of the classes of a run that looks for several molecules, in order."""
        return tuple(FinishedRun(folder) for folder in layout.class_folders(self.folder))

    @cached_property
    def mixture(self) -> MixtureVerdict | None:
        """The verdict of a run that looks for several molecules; None for others, and until it is finished.

        Raises:
            BadRunFolder: as `verdict`.
        """
        stored = self.record.verdict
        if stored is None or not self.several_molecules:
            return None
        return from_json(MixtureVerdict, dict(stored), f"{self.path(layout.RUN_RECORD)}, verdict")

    @cached_property
    def verdict(self) -> Verdict | None:
        """The verdict on one map; None until the run is finished, and for a run that looks for several molecules.

        Raises:
            BadRunFolder: for a field that is missing, unknown or of another type.
        """
        stored = self.record.verdict
        where = f"{self.path(layout.RUN_RECORD)}, verdict"
        return None if stored is None or self.several_molecules else from_json(Verdict, dict(stored), where)

    @cached_property
    def steps(self) -> tuple[LoggedStep, ...]:
        """Steps of all stages, from metrics.jsonl."""
        return read_metrics(self.path(layout.STEPS)) if self.has(layout.STEPS) else ()

    @cached_property
    def fsc(self) -> FSCTable | None:
        """FSC curves of the half maps."""
        return read_fsc_table(self.path(layout.FSC))

    @cached_property
    def map(self) -> DensityMap:
        """The filtered map, map.mrc."""
        return read_map(self.require(layout.MAP))

    @cached_property
    def half_maps(self) -> tuple[DensityMap, DensityMap]:
        """The unfiltered half maps."""
        return read_map(self.require(layout.HALF1)), read_map(self.require(layout.HALF2))

    @cached_property
    def mask(self) -> DensityMap:
        """The soft mask of the particle."""
        return read_map(self.require(layout.MASK))

    @cached_property
    def particles(self) -> ParticleSet:
        """The particles with the poses that were found, particles.star; their images must be where they were."""
        # pixels were checked by the run; duplicates were accepted by it
        stated = StatedInput(no_ctf=self._no_ctf, on_duplicates="keep")
        return open_particles(self.require(layout.PARTICLES), stated, scan=False)

    @cached_property
    def poses(self) -> PosePosterior:
        """The best pose of each particle, K = 1."""
        found = self.particles.input_poses()
        return PosePosterior.certain(found.R.float(), found.t.float())

    @cached_property
    def estimates(self) -> ParticleEstimates | None:
        """What particles.star says of each particle; the images need not exist any more."""
        return read_particle_estimates(self.path(layout.PARTICLES), self._no_ctf)

    @property
    def _no_ctf(self) -> bool:
        return _anywhere(self.record.settings, "no_ctf") is True

    def array(self, file: RunFile, dims: int, **fields: int | str) -> np.ndarray | None:
        """The numbers of a .npy file of `dims` dimensions, read anew at each call.

        Raises:
            ValueError: for a damaged file, or one of another kind.
        """
        path = self.path(file, **fields)
        if not path.is_file():
            return None
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path}: not an array ({error}); expected {dims} dimensions: copy it again") from None
        if array.ndim != dims or array.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {array.dtype} of shape {array.shape}; expected numbers in {dims} dimensions")
        return array

    @cached_property
    def latents(self) -> LatentPosterior | None:
        """Latents of all images; None if no heterogeneity was found.

        Raises:
            ValueError: for arrays that are damaged or belong to different numbers of images.
        """
        z, covariance = self.array(layout.LATENTS, 2), self.array(layout.LATENT_COVARIANCES, 3)
        contrast = self.array(layout.CONTRAST, 1)
        if z is None or covariance is None or contrast is None:
            return None
        if not len(z) == len(covariance) == len(contrast):
            raise ValueError(
                f"{self.folder}: {len(z)} latent coordinates, {len(covariance)} covariances and {len(contrast)} values "
                "of the contrast; expected one each for every image"
            )
        return LatentPosterior(torch.from_numpy(z), torch.from_numpy(covariance), torch.from_numpy(contrast))

    @cached_property
    def classes(self) -> tuple[ClassRow, ...]:
        """The classes that the run found; empty if it looked for none."""
        return read_class_table(self.path(layout.CLASSES))

    @cached_property
    def clusters(self) -> tuple[ClassRow, ...]:
        """The clusters of the latent space; empty before cryoloom analyze."""
        return read_class_table(self.path(layout.CLUSTERS))

    @cached_property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """From cryoloom analyze, by name.

        Raises:
            ValueError: for latent points that are damaged, or not as many as maps.
        """
        found = []
        for name, maps in layout.series_maps(self.folder).items():
            points = self.array(layout.SERIES_POINTS, 2, series=name)
            if points is not None and len(points) != len(maps):
                path = self.path(layout.SERIES_POINTS, series=name)
                raise ValueError(f"{path}: {len(points)} points for {len(maps)} maps; expected one a map")
            found.append(Trajectory(name, maps, points))
        return tuple(found)


def _anywhere(settings: Mapping[str, Any], name: str) -> Any:
    """A setting by its name, at whatever depth the command keeps it."""
    if name in settings:
        return settings[name]
    inner = (_anywhere(value, name) for value in settings.values() if isinstance(value, Mapping))
    return next((value for value in inner if value is not None), None)
