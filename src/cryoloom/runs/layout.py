"""The files of a run folder, in one list: the name of each, what it holds, and which command writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryoloom.runs.folder import CHECKPOINTS, LOCK, LOG, METRICS
from cryoloom.runs.record import RECORD

_FIELDS = {"{number:03d}": "[0-9][0-9][0-9]", "{series}": "*"}


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file of a run folder, or several of one kind.

    Attributes:
        name: path within the run folder; files that come in several have the fields {number:03d} and {series} in it.
        what: what the file holds.
        writer: the commands that write it.
        shown: its name in the documentation, where the files come in several.
    """

    name: str
    what: str
    writer: str
    shown: str = ""

    def path(self, run: Path, **fields: int | str) -> Path:
        """Where the file is in the folder of a run; `fields` fill those of the name."""
        return Path(run) / self.name.format(**fields)

    @property
    def pattern(self) -> str:
        """Glob pattern, relative to the run folder, that matches the file or all files of its kind."""
        pattern = self.name
        for field, glob in _FIELDS.items():
            pattern = pattern.replace(field, glob)
        return pattern


_ALL = "reconstruct, refine, hetero"
_CLASS = "class_{number:03d}"  # name of a class; of its folder, where it is a run of its own

REPORT = RunFile(
    "report.html",
    "the page to open first: verdict, curves, maps and particles; it needs no network",
    f"{_ALL}; analyze, report",
)
ABINIT_MAP = RunFile(
    "abinit.mrc",
    "current map of the best random start while ab initio runs, from its first seconds on; afterwards the map from "
    "which refinement starts",
    "abinit, reconstruct, hetero --poses search",
)
MAP = RunFile("map.mrc", "map of both half sets, Wiener-filtered by the FSC; float32", f"{_ALL}; abinit")
SHARP_MAP = RunFile("map_sharp.mrc", "map sharpened by the fitted B-factor, weighted by the FSC and masked", _ALL)
HALF1 = RunFile("half1.mrc", "map of half set 1, unfiltered and unmasked", _ALL)
HALF2 = RunFile("half2.mrc", "map of half set 2, unfiltered and unmasked", _ALL)
MASK = RunFile("mask.mrc", "soft mask of the molecule", _ALL)
LOCAL_RESOLUTION = RunFile(
    "local_resolution.mrc",
    "local resolution in angstrom at each voxel: where the local correlation of the half maps falls below 0.5",
    _ALL,
)
PARTICLES = RunFile(
    "particles.star",
    "rows and columns of the input in their order, with poses, half sets and uncertainties; opens in RELION",
    _ALL,
)
FSC = RunFile(
    "fsc.csv",
    "FSC of the half maps by shell: without mask, with mask, with randomised phases, corrected",
    _ALL,
)
ENCODER = RunFile(
    "encoder.safetensors",
    "trained pose encoder, with which cryoloom infer finds the poses of new images",
    "reconstruct --poses hybrid or amortized",
)
LATENTS = RunFile("z.npy", "latent coordinates [N, Z]; rows as in particles.star", "hetero")
LATENT_COVARIANCES = RunFile("z_covariance.npy", "posterior covariances of the latent coordinates [N, Z, Z]", "hetero")
CONTRAST = RunFile("contrast.npy", "contrast of each image [N]; 1 is the contrast of the consensus map", "hetero")
CONFORMATIONS = RunFile(
    "conformations.safetensors", "fitted model of the volumes, from which cryoloom volume --model makes maps", "hetero"
)
CLASS_MAP = RunFile(
    f"{_CLASS}.mrc",
    "map of the particles of each class; the class is rlnClassNumber in particles.star",
    "hetero --method classes",
    shown="class_001.mrc ...",
)
CLASSES = RunFile(
    "classes.csv",
    "particles, share and resolution (gold-standard FSC of the class's own half maps, 0.143) of each class",
    "hetero --method classes; reconstruct --classes",
)
CLASS_RUN = RunFile(
    f"{_CLASS}/",
    "run of each class, a folder like this one: its maps, particles, verdict and report",
    "reconstruct --classes",
    shown="class_001/ ...",
)
MAPS_SCRIPT = RunFile("open.cxc", "opens the maps in ChimeraX at a suitable contour level", f"{_ALL}; abinit")
RUN_RECORD = RunFile(
    RECORD,
    "command, settings, versions, machine, time of each stage, fingerprint of the input, verdict",
    f"{_ALL}; abinit",
)
STEPS = RunFile(
    METRICS, "one line per step: stage, step, resolution, diagnostics, wall and CPU seconds", f"{_ALL}; abinit"
)
RUN_LOG = RunFile(LOG, "log, with the traceback of a failure", f"{_ALL}; abinit")

CLUSTERS = RunFile(
    "analysis/clusters.csv", "particles, share and resolution of each k-means cluster, as in classes.csv", "analyze"
)
CLUSTER_LABELS = RunFile("analysis/labels.npy", "cluster of each particle from 1, 0 for none; [N]", "analyze")
CLUSTER_PARTICLES = RunFile(
    "analysis/cluster_{number:03d}.star",
    "particles of each cluster, with all columns",
    "analyze",
    shown="analysis/cluster_001.star ...",
)
CLUSTER_MAP = RunFile(
    "analysis/cluster_{number:03d}.mrc",
    "map of the particles of each cluster",
    "analyze",
    shown="analysis/cluster_001.mrc ...",
)
CLUSTER_CENTRES = RunFile(
    "analysis/cluster.npy", "latent coordinates of the particle nearest to the centre of each cluster [K, Z]", "analyze"
)
SERIES_MAP = RunFile(
    "analysis/{series}_{number:03d}.mrc",
    "maps along a trajectory through the latent space: NAME is pc1, pc2 ... along principal axes, way through chosen "
    "particles",
    "analyze",
    shown="analysis/NAME_000.mrc ...",
)
SERIES_POINTS = RunFile(
    "analysis/{series}.npy",
    "latent coordinates of the maps of a trajectory [T, Z]",
    "analyze",
    shown="analysis/NAME.npy",
)
UMAP = RunFile("analysis/umap.npy", "UMAP coordinates [N, 2]", "analyze --umap")
MOVIES_SCRIPT = RunFile("analysis/open.cxc", "plays the trajectories as movies in ChimeraX", "analyze")

# in the order of the documentation
FILES = (
    REPORT,
    ABINIT_MAP,
    MAP,
    SHARP_MAP,
    HALF1,
    HALF2,
    MASK,
    LOCAL_RESOLUTION,
    PARTICLES,
    FSC,
    ENCODER,
    LATENTS,
    LATENT_COVARIANCES,
    CONTRAST,
    CONFORMATIONS,
    CLASS_MAP,
    CLASSES,
    CLASS_RUN,
    CLUSTERS,
    CLUSTER_LABELS,
    CLUSTER_PARTICLES,
    CLUSTER_MAP,
    CLUSTER_CENTRES,
    SERIES_MAP,
    SERIES_POINTS,
    UMAP,
    MOVIES_SCRIPT,
    MAPS_SCRIPT,
    RUN_RECORD,
    STEPS,
    RUN_LOG,
    RunFile(LOCK, "process and host that work on the run; removed at its end", f"{_ALL}; abinit"),
    RunFile(
        f"{CHECKPOINTS}/",
        "state of an unfinished run: two safetensors files per stage, never pickles; removed at its end",
        f"{_ALL}; abinit",
    ),
)
_OF_THE_RUN_ITSELF = (RECORD, METRICS, LOG, LOCK, f"{CHECKPOINTS}/")

_OWN = tuple(file.pattern for file in FILES if file.name not in (*_OF_THE_RUN_ITSELF, CLASS_RUN.name))
_OF_A_CLASS = (*_OWN, RECORD, METRICS, LOG, LOCK, f"{CHECKPOINTS}/*")
# patterns of the files that an earlier run may have left, other than those which `runs` writes itself
RESULTS = (*_OWN, *(CLASS_RUN.pattern + pattern for pattern in _OF_A_CLASS))


def class_folder(run: Path, number: int) -> Path:
    """The folder of a class of a run with several molecules, itself a run."""
    return CLASS_RUN.path(run, number=number)


def class_folders(run: Path) -> tuple[Path, ...]:
    """The folders of the classes of a run, in order."""
    return tuple(sorted(path.parent for path in Path(run).glob(CLASS_RUN.pattern + RECORD)))


def run_around(folder: Path) -> Path | None:
    """The run in whose folder `folder` lies by the name of a class; None for any other."""
    path = Path(folder).absolute()
    whole = path.parent
    return whole if path in class_folders(whole) and (whole / RECORD).is_file() else None


def particles_of(path: Path) -> Path:
    """The particle file of a run where `path` is the folder of one; else `path` itself."""
    return PARTICLES.path(path) if RUN_RECORD.path(path).is_file() else path


def series_maps(run: Path) -> dict[str, tuple[Path, ...]]:
    """The maps of each trajectory in the folder of a run, by its name, without the maps of clusters."""
    found: dict[str, list[Path]] = {}
    clusters = set(Path(run).glob(CLUSTER_MAP.pattern))
    for path in sorted(set(Path(run).glob(SERIES_MAP.pattern)) - clusters):
        found.setdefault(path.stem[:-4], []).append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def table() -> str:
    """The files as the Markdown table of docs/files.md."""
    lines = ["| file | what it holds | written by |", "|---|---|---|"]
    for file in FILES:
        name = f"`{file.shown or file.name}`".replace(" ...`", "` ...")
        lines.append(f"| {name} | {file.what} | {file.writer} |")
    return "\n".join(lines) + "\n"
