"""When the main job asks for further random starts, and what they change in the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from cryoloom.inference.poses.start import PoseStart, StartAgreement
from cryoloom.jobs import reconstruct
from cryoloom.jobs.final_maps import FinalMaps, final_maps
from cryoloom.jobs.inputs import make_feed, open_input, prepare
from cryoloom.jobs.reconstruct import confirmed, evidence
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.jobs.verdict import Evidence, judge
from cryoloom.recipes.methods.method import PoseJob
from cryoloom.recipes.methods.search import SEARCH, RefineSettings
from cryoloom.recipes.refine import RefineRecipe, RefineResult
from cryoloom.runs.session import Session
from cryoloom.simulation.dataset import simulate_demo

SETTINGS = RefineSettings(candidates=2, coarse_level=4.5, fine_levels=(5.0, 6.0), most_iterations=1, least_iterations=1)
DISAGREED = StartAgreement(starts=5, agreeing=1, likeness=0.4, strength=20.0)


@pytest.fixture(scope="module")
def refined(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ReconstructSettings, PoseStart, RefineResult, FinalMaps, Evidence]:
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
    found = evidence(result, maps, start, settings, torch.eye(3)[None])
    good = {"certain": 0.9, "fitting": 1.0, "settled": True, "coverage": 1.0, "missing_share": 0.0, "cfar": 0.9}
    good |= {"shell": 2.0 * found.common_shell, "resolution_angstrom": 20.0, "components": 0, "component_gain": 0.0}
    return settings, start, result, maps, replace(found, **good)


def asked(monkeypatch: pytest.MonkeyPatch, found: StartAgreement) -> list[tuple[PoseJob, StartAgreement, Any, Any]]:
    """The calls of a method whose further starts give this agreement."""
    calls: list[tuple[PoseJob, StartAgreement, Any, Any]] = []

    def confirm(job: PoseJob, before: StartAgreement, volume: torch.Tensor, R: torch.Tensor) -> StartAgreement:
        calls.append((job, before, volume, R))
        return found

    monkeypatch.setattr(reconstruct, "pose_method", lambda name: replace(SEARCH, confirm=confirm))
    return calls


@pytest.mark.parametrize(("likeness", "outcome"), [(0.9, "converged"), (0.6, "uncertain")])
def test_a_start_that_agrees_with_the_refined_map_confirms_it(refined, monkeypatch, likeness: float, outcome: str):
    settings, start, result, maps, good = refined
    assert judge(good).outcome == "uncertain"
    agreeing = 1 + (likeness > 0.75)
    calls = asked(monkeypatch, StartAgreement(7, agreeing, likeness, 20.0))
    verdict = confirmed(judge(good), start, result, maps, settings, Session.in_memory())
    assert verdict.outcome == outcome
    assert (verdict.evidence.starts, verdict.evidence.agreeing, verdict.evidence.likeness) == (7, agreeing, likeness)
    assert verdict.evidence == replace(good, starts=7, agreeing=agreeing, likeness=likeness)
    [(job, before, volume, R)] = calls
    assert before == DISAGREED
    assert volume is maps.combined
    assert R.shape == (len(result.posed), 3, 3)
    assert (job.seed, job.symmetry) == (settings.seed, settings.symmetry)


@pytest.mark.parametrize("change", [{"likeness": 0.8}, {"certain": 0.3}, {"settled": False}])
def test_no_more_starts_are_made_where_they_could_change_nothing(refined, monkeypatch, change: dict):
    settings, start, result, maps, good = refined
    calls = asked(monkeypatch, DISAGREED)
    verdict = judge(replace(good, **change))
    assert confirmed(verdict, start, result, maps, settings, Session.in_memory()) is verdict
    assert not calls


def test_a_method_without_random_starts_makes_none(refined, monkeypatch):
    settings, start, result, maps, good = refined
    monkeypatch.setattr(reconstruct, "pose_method", lambda name: replace(SEARCH, confirm=None))
    verdict = judge(good)
    for one in (start, replace(start, agreement=None)):
        assert confirmed(verdict, one, result, maps, settings, Session.in_memory()) is verdict
