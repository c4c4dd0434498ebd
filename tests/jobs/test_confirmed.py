"""When the main job asks for further random starts, and what they change in the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cryoloom.inference.poses.start import PoseStart, StartAgreement
from cryoloom.jobs import reconstruct
from cryoloom.jobs.final_maps import final_maps
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.reconstruct import Reconstruction, confirmed, evidence
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.jobs.verdict import judge
from cryoloom.recipes.methods.method import PoseJob
from cryoloom.recipes.methods.registry import POSE_METHODS
from cryoloom.recipes.methods.search import SEARCH, RefineSettings
from cryoloom.recipes.refine import RefineRecipe
from cryoloom.runs.session import Session
from cryoloom.simulation.dataset import simulate_demo

SETTINGS = RefineSettings(candidates=2, coarse_level=4.5, fine_levels=(5.0, 6.0), most_iterations=1, least_iterations=1)
DISAGREED = StartAgreement(starts=5, agreeing=1, likeness=0.4, strength=20.0)


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReconstructSettings, Reconstruction]:
    """A short refinement from a sphere whose evidence is then made that of a good map of starts that disagree."""
    folder = tmp_path_factory.mktemp("set")
    simulate_demo(folder, 200, seed=3)
    settings = ReconstructSettings(input=InputSettings(str(folder / "particles.star")), refine=SETTINGS)
    particles = open_input(settings.input)
    feed = make_feed(particles, prepare(particles, settings), settings)
    volume = feed.mask(2 * (feed.radius_of(4.5) + 2))
    start = PoseStart((volume, volume), feed.noise, 5.0, agreement=DISAGREED)
    result = Session.in_memory().run(RefineRecipe(feed, SETTINGS, 1, start))
    maps = final_maps(result, "C1", 1)
    group = torch.eye(3)[None]
    found = evidence(result, maps, start, settings, group)
    good = {"certain": 0.9, "fitting": 1.0, "settled": True, "coverage": 1.0, "missing_share": 0.0, "cfar": 0.9}
    good |= {"shell": 2.0 * found.common_shell, "resolution_angstrom": 20.0, "components": 0, "component_gain": 0.0}
    return settings, Reconstruction(start, result, maps, judge(replace(found, **good)), group)


def asked(monkeypatch: pytest.MonkeyPatch, *likeness: float) -> list[tuple[PoseJob, torch.Tensor, torch.Tensor]]:
    """The calls of a method whose further starts have these similarities to the refined map."""
    calls: list[tuple[PoseJob, torch.Tensor, torch.Tensor]] = []

    def confirm(job: PoseJob, volume: torch.Tensor, R: torch.Tensor) -> tuple[float, ...]:
        calls.append((job, volume, R))
        return likeness

    monkeypatch.setattr(reconstruct, "pose_method", lambda name: replace(SEARCH, confirm=confirm))
    return calls


@pytest.mark.parametrize(("likeness", "outcome"), [((0.4, 0.9), "converged"), ((0.6, 0.3), "uncertain")])
def test_a_start_that_agrees_with_the_refined_map_confirms_it(refined, monkeypatch, likeness, outcome: str):
    settings, done = refined
    assert done.verdict.outcome == "uncertain"
    calls = asked(monkeypatch, *likeness)
    verdict = confirmed(done, settings, Session.in_memory())
    assert verdict.outcome == outcome
    assert verdict.evidence == replace(done.verdict.evidence, further=2, further_likeness=max(likeness))
    [(job, volume, R)] = calls
    assert volume is done.maps.combined
    assert R.shape == (len(done.refined.posed), 3, 3)
    assert (job.seed, job.symmetry) == (settings.seed, settings.symmetry)


@pytest.mark.parametrize("change", [{"likeness": 0.8}, {"certain": 0.3}, {"settled": False}])
def test_no_more_starts_are_made_where_they_could_change_nothing(refined, monkeypatch, change: dict):
    settings, done = refined
    calls = asked(monkeypatch, 0.9)
    other = replace(done, verdict=judge(replace(done.verdict.evidence, **change)))
    assert confirmed(other, settings, Session.in_memory()) is other.verdict
    assert not calls


def test_a_method_that_makes_none_leaves_the_verdict(refined, monkeypatch):
    settings, done = refined
    asked(monkeypatch)  # as with a polyhedral symmetry
    assert confirmed(done, settings, Session.in_memory()) is done.verdict
    monkeypatch.setattr(reconstruct, "pose_method", lambda name: replace(SEARCH, confirm=None))
    given = replace(done, start=replace(done.start, agreement=None))
    for one in (done, given):
        assert confirmed(one, settings, Session.in_memory()) is done.verdict


def test_methods_that_begin_with_random_starts_can_make_more():
    assert {name for name, m in POSE_METHODS.items() if m.confirm is not None} == {"search", "hybrid"}
