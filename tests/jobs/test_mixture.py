"""The job for several molecules: classes, a run for each, and what is left in the folder."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import starfile
import torch

from cryoloom.api.runs import continue_run, start_run
from cryoloom.jobs.class_runs import _within_its_diameter
from cryoloom.jobs.finished_run import FinishedRun
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.mixture_verdict import ClassVerdict, MixtureVerdict, judge_mixture, mixture_headline, mixture_lines
from cryoloom.jobs.settings import HeteroSettings, InputSettings, ReconstructSettings
from cryoloom.jobs.verdict import Outcome
from cryoloom.maps.io import DensityMap, write_map
from cryoloom.particles.errors import BadInput
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.recipes.methods.settings import MethodSettings
from cryoloom.runs import layout
from cryoloom.runs.folder import BadRunFolder
from cryoloom.runs.interrupts import Interrupts, Stopped
from cryoloom.runs.progress import SilentProgress, StepInfo
from cryoloom.simulation.dataset import simulate_dataset
from cryoloom.simulation.truth import SimulationSettings
from jobs.commands import cryoloom
from jobs.small_run import ABINIT
from recipes.scene import BOX, PIXEL_SIZE, two_states
from recipes.test_mixture import SMALL, agreement, molecules

COUNT = 900
REFINE = RefineSettings(candidates=2, most_iterations=4)


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "set"
    simulate_dataset(molecules(), SimulationSettings(count=COUNT, snr=0.5, seed=2, shift_px=1.0), folder)
    return folder / "particles.star"


def settings_of(particles: Path, **changes) -> ReconstructSettings:
    mixture = replace(SMALL, beyond_start=1.0, least_split=200, fewest=20)
    settings = ReconstructSettings(
        input=InputSettings(str(particles)),
        particle_diameter_angstrom=85.0,
        classes="auto",
        mixture=mixture,
        refine=REFINE,
        methods=MethodSettings({"abinit": replace(ABINIT, further_starts=0)}),
    )
    return replace(settings, **changes)


class StopAt(SilentProgress):
    """Asks a run to stop when a stage begins."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def update(self, info: StepInfo) -> None:
        if info.stage == self.stage:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def run(particles: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    output = tmp_path_factory.mktemp("runs") / "run"
    start_run(settings_of(particles), output, SilentProgress(), Interrupts(), device="cpu")
    return FinishedRun(output)


def test_every_image_is_given_to_its_molecule(particles, run):
    found = starfile.read(run.path(layout.PARTICLES), always_dict=True)["particles"]
    truth = starfile.read(particles.parent / "truth.star", always_dict=True)["particles"]
    assert len(found) == COUNT
    number = found["rlnClassNumber"].to_numpy()
    assert set(number) <= {0, 1, 2}
    assert agreement(number - 1, truth["rlnClassNumber"].to_numpy()) > 0.95
    assert found["cryoloomClassProbability"].between(0, 1).all()
    assert set(found["rlnRandomSubset"]) == {1, 2}


def test_each_class_is_a_run_of_its_own(run):
    assert len(run.molecules) == 2
    whole = starfile.read(run.path(layout.PARTICLES), always_dict=True)["particles"].set_index("rlnImageName")
    for number, one in enumerate(run.molecules, start=1):
        assert one.record.status == "finished"
        assert one.verdict is not None
        assert one.map.data.shape == one.half_maps[0].data.shape
        assert one.has(layout.REPORT)
        own = starfile.read(one.path(layout.PARTICLES), always_dict=True)["particles"]
        names = own["rlnImageName"].str.replace(r"@.*/", "@", regex=True)
        mine = whole[whole["rlnClassNumber"] == number]
        assert sorted(names) == sorted(mine.index.str.replace(r"@.*/", "@", regex=True))
        # poses of so small a molecule are uncertain: its images are reconstructed ab initio too
        assert "again" in {step.info.stage for step in one.steps}
        # half sets were drawn for all images at once
        subset = dict(zip(mine.index.str.replace(r"@.*/", "@", regex=True), mine["rlnRandomSubset"], strict=True))
        assert all(subset[name] == half for name, half in zip(names, own["rlnRandomSubset"], strict=True))


def test_the_table_and_the_verdict_name_the_same_classes(run):
    with open(run.path(layout.CLASSES), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["class_001", "class_002"]
    assert run.verdict is None
    mixture = run.mixture
    assert mixture is not None
    assert [c.name for c in mixture.classes] == [row["name"] for row in rows]
    assert [c.particles for c in mixture.classes] == [int(row["particles"]) for row in rows]
    assert sum(c.particles for c in mixture.classes) + mixture.none == mixture.particles == COUNT
    assert "2 molecules" in repr(run)


def test_the_page_shows_the_molecules(run):
    page = run.path(layout.REPORT).read_text()
    assert 'id="panel-molecules"' in page
    assert "class_002/report.html" in page
    assert 'id="panel-surface"' not in page
    assert 'id="panel-class-images"' in page
    assert "image of row" in page
    assert 'id="panel-class-agreement"' not in page
    # the time of a round is that of all classes together
    assert "<td>round_1</td>" in page
    assert "<td>round_1_1</td>" not in page


def test_the_page_compares_the_classes_with_those_of_another_run(run, particles, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "again")
    cryoloom(f"report {copy} --compare {run.folder}")
    page = (copy / "report.html").read_text()
    assert 'id="panel-class-agreement"' in page
    assert "adjusted Rand index 1.000" in page
    said = cryoloom(f"report {run.molecules[0].folder} --compare {run.folder}", code=2)
    assert "no classes of several molecules" in said


def test_a_class_is_refined_further_as_a_run(run, tmp_path):
    one = run.molecules[0].folder
    cryoloom(f"refine {one / 'particles.star'} --from poses --particle-diameter 85 --output {tmp_path / 'r'} -j 1 -q")
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("stage", ["round_1_1", "again"])
def test_a_run_stopped_anywhere_goes_on_from_there(particles, tmp_path, stage):
    """Exact resumption of each recipe is tested with the recipes; here, that no stage is repeated."""
    with pytest.raises(Stopped) as stopped:
        start_run(settings_of(particles), tmp_path / "run", StopAt(stage), Interrupts(), device="cpu")
    assert stopped.value.__notes__ == [f"resume with: cryoloom resume {tmp_path / 'run'}"]
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    for one in FinishedRun(tmp_path / "run").molecules:
        with pytest.raises(BadRunFolder, match="continue the whole"):
            continue_run(one.folder, 1, SilentProgress(), Interrupts())
    continue_run(tmp_path / "run", 1, SilentProgress(), Interrupts())
    run = FinishedRun(tmp_path / "run")
    assert run.path(layout.STEPS).read_text().startswith(before)
    for folder in (run, *run.molecules):
        steps = [(step.info.stage, step.info.step) for step in folder.steps]
        assert folder.record.status == "finished"
        assert len(set(steps)) == len(steps)
    truth = starfile.read(particles.parent / "truth.star", always_dict=True)["particles"]
    number = starfile.read(run.path(layout.PARTICLES), always_dict=True)["particles"]["rlnClassNumber"].to_numpy()
    assert agreement(number - 1, truth["rlnClassNumber"].to_numpy()) > 0.95


def test_a_class_is_reconstructed_within_its_own_diameter_if_that_is_smaller(particles):
    settings = settings_of(particles, particle_diameter_angstrom=None)
    images = open_input(settings.input)
    found = prepare(images, settings)
    wide = make_feed(
        images, replace(found, particle_diameter_angstrom=1.5 * found.particle_diameter_angstrom), settings
    )
    own = _within_its_diameter(wide, settings)
    assert own.source.preprocessing == replace(
        wide.source.preprocessing, particle_diameter_angstrom=found.particle_diameter_angstrom
    )
    assert len(own) == len(wide)
    # not if it is hardly smaller, or one was stated
    same = make_feed(images, found, settings)
    assert _within_its_diameter(same, settings) is same
    assert _within_its_diameter(wide, settings_of(particles)) is wide


def test_settings_of_ab_initio_are_kept_for_classes_of_uncertain_poses(run):
    for one in (run, *run.molecules):
        assert one.record.settings["methods"]["abinit"]["further_starts"] == 0


def test_given_maps_of_any_scale_sort_the_images_and_a_decoy_stays_empty(particles, tmp_path):
    truth = starfile.read(particles.parent / "truth.star", always_dict=True)["particles"]["rlnClassNumber"].to_numpy()
    decoy = GaussianCloud.random(6, 5.0, 4.0, torch.Generator().manual_seed(1)).density(BOX, PIXEL_SIZE).float()
    maps = [m.data * factor for m, factor in zip(molecules(), (100.0, -0.01), strict=True)]
    names = []
    for i, data in enumerate([*maps, decoy]):
        names.append(str(tmp_path / f"given_{i}.mrc"))
        write_map(Path(names[-1]), DensityMap(data, PIXEL_SIZE))
    settings = settings_of(particles, classes=None, classes_from=tuple(names))
    start_run(settings, tmp_path / "run", SilentProgress(), Interrupts(), device="cpu")
    run = FinishedRun(tmp_path / "run")
    assert len(run.molecules) == 2
    number = starfile.read(run.path(layout.PARTICLES), always_dict=True)["particles"]["rlnClassNumber"].to_numpy()
    assert agreement(number - 1, truth) > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes_from": ("a.mrc",)}, "leave out --classes"),
        ({"symmetry": "C3"}, "different symmetries"),
        ({"flip": True}, "either hand"),
        ({"job": "refine", "start": "poses"}, "without a start"),
        ({"poses": "hybrid"}, "found by search only"),
    ],
)
def test_what_can_not_be_combined_is_refused(particles, tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        start_run(settings_of(particles, **changes), tmp_path / "run", SilentProgress(), Interrupts(), device="cpu")


def test_where_no_class_is_large_enough_all_images_belong_to_none(particles, tmp_path):
    mixture = replace(SMALL, fewest=COUNT + 1)
    settings = settings_of(particles, mixture=mixture)
    start_run(settings, tmp_path / "run", SilentProgress(), Interrupts(), device="cpu")
    run = FinishedRun(tmp_path / "run")
    assert run.mixture is not None
    assert (run.mixture.outcome, run.mixture.none, run.molecules) == ("failed", COUNT, ())
    assert set(starfile.read(run.path(layout.PARTICLES), always_dict=True)["particles"]["rlnClassNumber"]) == {0}


@pytest.mark.parametrize("given", ["1", "many", "0", "1000"])
def test_the_number_of_classes_must_make_sense(particles, tmp_path, given):
    said = cryoloom(f"reconstruct {particles} --classes {given} --output {tmp_path / 'r'}", code=2)
    assert "auto" in said


def class_verdict(outcome: Outcome) -> ClassVerdict:
    return ClassVerdict("class_001", 0, 500, 0.5, outcome, 8.0, None)


@pytest.mark.parametrize(
    ("outcomes", "requested", "settled", "expected"),
    [
        (("converged", "converged"), None, True, "converged"),
        (("converged", "converged"), 2, True, "converged"),
        (("converged", "converged"), 3, True, "uncertain"),
        (("converged", "converged", "converged"), 2, True, "uncertain"),
        (("converged", "failed"), None, True, "uncertain"),
        (("converged", "converged"), None, False, "uncertain"),
        (("failed", "noise"), None, True, "failed"),
        ((), None, True, "failed"),
    ],
)
def test_the_verdict_on_all_classes(outcomes, requested, settled, expected):
    found = judge_mixture(
        tuple(class_verdict(o) for o in outcomes),
        1000,
        100,
        requested=requested,
        begun=6,
        rejected=(50,),
        settled=settled,
    )
    assert isinstance(found, MixtureVerdict)
    assert found.outcome == expected
    said = "\n".join(mixture_lines(found))
    assert "10.0 %" in said
    if requested == 3:
        assert "3 classes were requested" in said


def test_a_molecule_that_moves_is_divided_if_more_classes_were_asked_for(tmp_path):
    simulate_dataset(two_states(), SimulationSettings(count=COUNT, snr=0.5, seed=2, shift_px=1.0), tmp_path / "set")
    particles = tmp_path / "set" / "particles.star"
    settings = settings_of(particles, classes=2)
    settings = replace(settings, mixture=replace(settings.mixture, least_split=COUNT + 1))  # no search for molecules
    start_run(settings, tmp_path / "run", SilentProgress(), Interrupts(), device="cpu")
    run = FinishedRun(tmp_path / "run")
    assert len(run.molecules) == 2
    assert run.mixture is not None
    assert {c.molecule for c in run.mixture.classes} == {0}
    assert any("conformations of one molecule" in line for line in mixture_lines(run.mixture))
    number = starfile.read(run.path(layout.PARTICLES), always_dict=True)["particles"]["rlnClassNumber"].to_numpy()
    truth = starfile.read(tmp_path / "set" / "truth.star", always_dict=True)["particles"]["rlnClassNumber"].to_numpy()
    assert agreement(number - 1, truth) > 0.75  # 0.81 measured


def test_classes_without_poses_are_those_of_reconstruct(particles):
    settings = HeteroSettings(input=InputSettings(str(particles)), method="classes", poses="search")
    settings = replace(settings, methods=settings.methods.changed("classes", classes=5))
    job = settings.job_of_classes
    assert job is not None
    assert (job.classes, job.job, job.poses, job.input) == (5, "reconstruct", "search", settings.input)
    assert replace(settings, method="pca").job_of_classes is None
    assert replace(settings, poses="given").job_of_classes is None
    settings = replace(settings, mask="mask.mrc")
    with pytest.raises(ValueError, match="frame of their own"):
        _ = settings.job_of_classes


def test_poses_of_a_run_with_several_molecules_are_in_no_common_frame(run, tmp_path):
    for job in (f"refine {run.path(layout.PARTICLES)} --from poses", f"hetero {run.folder}"):
        said = cryoloom(f"{job} --output {tmp_path / 'r'} --particle-diameter 85 -q", code=2)
        assert "class_001" in said


def test_the_headline_counts_molecules_and_says_which_move():
    classes = tuple(
        ClassVerdict(f"class_00{i}", molecule, 250, 0.25, "converged", 8.0, components)
        for i, (molecule, components) in enumerate([(0, None), (1, 2), (2, 1)], start=1)
    )
    found = judge_mixture(classes, 1000, 250, requested=None, begun=6, rejected=(), settled=True)
    assert mixture_headline(found) == (
        "Converged: 3 molecules from 1,000 particles, 2 of which move; 250 particles (25.0 %) belong to none."
    )
    divided = tuple(replace(c, molecule=0, components=None) for c in classes)
    found = judge_mixture(divided, 750, 0, requested=3, begun=6, rejected=(), settled=True)
    assert mixture_headline(found) == "Converged: 3 classes of 1 molecule from 750 particles."
    one = judge_mixture(classes[1:2], 250, 0, requested=None, begun=6, rejected=(), settled=True)
    assert mixture_headline(one) == "Converged: 1 molecule from 250 particles, which moves."
