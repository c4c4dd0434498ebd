"""The verdict on evidence as measured runs left it."""

import json
import math
from dataclasses import replace

import pytest
import torch

from cryoloom.inference.conformations.evidence import ConformationEvidence
from cryoloom.jobs.verdict import Evidence, Verdict, judge, with_conformations
from cryoloom.jobs.verdict_text import describe, headline
from cryoloom.maps.coverage import orientation_coverage
from cryoloom.particles.table import UnmodelledEffect
from cryoloom.physics.rotations import exponential
from cryoloom.runs.record import from_json, to_json

# a 70S ribosome, 5000 images, SNR 0.1
RIBOSOME = Evidence(
    particles=5000,
    starts=2,
    agreeing=2,
    likeness=0.98,
    strength=60.0,
    shell=31.9,
    resolution_angstrom=11.2,
    resolution_half_angstrom=11.5,
    common_shell=8,
    nyquist_shell=32,
    certain=1.0,
    fitting=0.999,
    mean_score=226.0,
    expected_score=207.0,
    components=0,
    component_gain=0.0,
    settled=True,
    coverage=1.0,
    missing_share=0.0,
    missing_axis=(0.0, 0.0, 0.0),
    single_view_share=None,
    cfar=0.84,
    best_direction_angstrom=11.2,
    worst_direction_angstrom=11.2,
    directional_resolution_angstrom=(),
    symmetry="C1",
    symmetry_score=None,
    b_factor_angstrom2=None,
    b_factor_note="",
)
# images without a particle
NOISE = replace(
    RIBOSOME,
    particles=3000,
    starts=4,
    agreeing=1,
    likeness=0.19,
    strength=0.01,
    shell=13.9,
    resolution_angstrom=25.7,
    common_shell=10,
    certain=0.2,
    fitting=1.0,
)
# coloured noise in which no start found the particle: 123 degrees median error
LOST = replace(NOISE, likeness=0.34, strength=11.0, shell=11.8, resolution_angstrom=30.4, certain=0.33)


@pytest.mark.parametrize(("evidence", "outcome"), [(RIBOSOME, "converged"), (NOISE, "noise"), (LOST, "failed")])
def test_measured_runs_get_the_verdict_they_deserve(evidence: Evidence, outcome: str):
    assert judge(evidence).outcome == outcome


def test_only_a_trusted_result_states_a_resolution():
    assert judge(RIBOSOME).resolution_angstrom == 11.2
    assert judge(NOISE).resolution_angstrom is None
    assert judge(LOST).resolution_angstrom is None


def test_halves_without_correlation_are_noise_whatever_else_is_said():
    unmeasured = {"strength": None, "starts": None, "agreeing": None, "likeness": None}
    assert judge(replace(RIBOSOME, resolution_angstrom=None, shell=0.0, **unmeasured)).outcome == "noise"


@pytest.mark.parametrize("change", [{"certain": 0.3}, {"fitting": 0.3}, {"settled": False}, {"shell": 9.0}])
def test_one_bad_sign_makes_it_uncertain(change: dict):
    verdict = judge(replace(RIBOSOME, **change))
    assert verdict.outcome == "uncertain"
    assert sum(f.passed is False for f in verdict.findings) == 1


def test_agreement_up_to_nyquist_proves_nothing_where_the_halves_shared_as_much():
    assert judge(replace(RIBOSOME, common_shell=22)).outcome == "converged"
    for shared in (24, 30):  # a given map, filtered near the Nyquist frequency
        verdict = judge(replace(RIBOSOME, common_shell=shared, starts=None, agreeing=None, likeness=None))
        assert verdict.outcome == "uncertain"
        assert "both half sets shared" in str(verdict)


def test_given_poses_that_were_compared_with_no_others_are_not_called_certain():
    verdict = judge(replace(RIBOSOME, starts=None, agreeing=None, likeness=None, certain=None, common_shell=0))
    finding = next(f for f in verdict.findings if f.name == "poses")
    assert finding.passed is None
    assert "not compared with others" in describe(finding, verdict)
    assert "only if the given poses were refined in these half sets" in str(verdict)
    assert from_json(Verdict, json.loads(json.dumps(to_json(verdict))), "run.json") == verdict


@pytest.mark.parametrize(("degrees", "named"), [(119.8, ", as in C3"), (154.0, ", as in C7"), (167.0, "")])
def test_a_symmetry_that_was_not_stated_is_suggested(degrees: float, named: str):
    verdict = judge(replace(RIBOSOME, certain=0.6, doubtful=0.7, doubt_degrees=degrees, doubt_axis=(0.0, 0.6, 0.8)))
    assert f"{degrees:.0f} degrees apart about the axis (0.00, 0.60, 0.80){named}: if the" in str(verdict)
    assert "--symmetry" not in str(judge(RIBOSOME))


def test_one_structure_is_not_claimed_where_there_is_no_map():
    assert any(f.name == "one structure" for f in judge(RIBOSOME).findings)
    for evidence in (NOISE, LOST):
        assert not any(f.name == "one structure" for f in judge(evidence).findings)


def test_poses_chosen_on_the_map_of_all_images_are_said():
    assert "assigned to one of their candidate poses" in str(judge(replace(RIBOSOME, joined=2)))
    assert "assigned to one of their candidate poses" not in str(judge(replace(RIBOSOME, joined=0)))


def test_starts_that_differ_are_a_doubt_however_good_the_rest_looks():
    # 35 % junk: half maps to Nyquist, 96 % of the poses certain, all images fit; 20 % of the molecules placed
    verdict = judge(replace(RIBOSOME, likeness=0.41, starts=4, agreeing=1, certain=0.96, fitting=1.0))
    assert verdict.outcome == "uncertain"
    assert next(f for f in verdict.findings if f.name == "starts").passed is False


# a 70S ribosome at SNR 0.05 in noise five times stronger at low resolution: the best of five starts was right, alone
ALONE = replace(
    RIBOSOME, starts=5, agreeing=1, likeness=0.33, shell=32.0, common_shell=10, certain=0.9988, fitting=0.97
)


def test_refinement_that_went_far_with_certain_poses_needs_no_second_start():
    verdict = judge(ALONE)
    assert verdict.outcome == "converged"
    finding = next(f for f in verdict.findings if f.name == "starts")
    assert finding.passed is None
    assert "3.2 times the resolution of their common start" in describe(finding, verdict)


@pytest.mark.parametrize(
    "change",
    [{"certain": 0.98}, {"common_shell": 14}, {"missing_share": 0.03}, {"components": 3, "component_gain": 10.0}],
)
def test_anything_less_leaves_starts_that_differ_a_doubt(change: dict):
    verdict = judge(replace(ALONE, **change))
    assert verdict.outcome == "uncertain"
    assert any(f.name == "starts" and f.passed is False for f in verdict.findings)


@pytest.mark.parametrize(
    ("change", "unconfirmed"),
    [
        ({}, True),
        ({"coverage": 0.4}, True),  # uneven views alone are no reason for doubt
        ({"certain": 0.3}, False),  # other checks fail too
        ({"settled": False}, False),
        ({"missing_share": 0.06}, False),
        ({"symmetry": "C3", "symmetry_score": 0.2}, False),
        ({"components": 1, "component_gain": 10.0}, False),
        ({"likeness": 0.8}, False),  # the starts agree
        ({"certain": 0.999, "shell": 31.0}, False),  # refinement outweighs them
        ({"strength": 0.1}, False),  # no start saw the particle
        ({"starts": None, "likeness": None}, False),  # of a map that was given
        ({"starts": 1, "likeness": None}, False),  # the user asked for one start
    ],
)
def test_a_map_is_unconfirmed_where_starts_alone_speak_against_it(change: dict, unconfirmed: bool):
    verdict = judge(replace(replace(ALONE, certain=0.95, shell=24.0), **change))
    assert verdict.unconfirmed == unconfirmed


@pytest.mark.parametrize(
    ("change", "passed", "words"),
    [
        (
            {"further_likeness": 0.95},
            True,
            "of 4 made after refinement one gave the refined map (similarity 0.95",
        ),
        ({"further_likeness": 0.61}, False, "none gave the refined map (highest similarity 0.61)"),
        ({"further_likeness": 0.95, "likeness": None}, True, "The first 5 random starts"),
    ],
)
def test_a_further_start_that_gave_the_refined_map_settles_it(change: dict, passed: bool, words: str):
    verdict = judge(replace(ALONE, certain=0.95, shell=24.0, further=4, **change))
    assert verdict.outcome == ("converged" if passed else "uncertain")
    finding = next(f for f in verdict.findings if f.name == "starts")
    assert finding.passed is passed
    assert words in describe(finding, verdict)


def test_a_small_gain_of_components_counts_where_images_fit_unevenly():
    # two proteins of 64 and 35 kDa, half of the images each: 0.65 % of the score, and misfits spread by 2.2 s.d.
    mixture = replace(RIBOSOME, certain=0.74, components=1, component_gain=0.0065 * RIBOSOME.mean_score)
    assert judge(replace(mixture, misfit_spread=2.2)).outcome == "uncertain"
    assert judge(replace(mixture, misfit_spread=1.1)).outcome == "converged"
    assert judge(replace(RIBOSOME, components=0, component_gain=0.0, misfit_spread=3.0)).outcome == "converged"
    # a ribosome and a spike, half of the images each: the ribosome is right, the others hardly fit
    halves = replace(RIBOSOME, certain=0.72, fitting=0.75, components=1, component_gain=0.003 * RIBOSOME.mean_score)
    assert judge(replace(halves, misfit_spread=3.9)).outcome == "uncertain"
    assert judge(replace(halves, misfit_spread=2.2)).outcome == "converged"
    # where poses are certain, contrast that varies spreads misfits, the more the higher the SNR: 20 % junk, a right map
    contrast = replace(halves, certain=0.99, component_gain=0.0058 * RIBOSOME.mean_score)
    assert judge(replace(contrast, misfit_spread=3.2)).outcome == "converged"


def test_a_last_start_that_could_be_compared_with_no_other_is_a_doubt():
    verdict = judge(replace(RIBOSOME, starts=3, agreeing=1, likeness=None))
    assert verdict.outcome == "uncertain"
    assert "3 random starts were made" in str(verdict)
    assert "Only one random start" in str(judge(replace(RIBOSOME, starts=1, agreeing=1, likeness=None)))


@pytest.mark.parametrize(("symmetry", "agree"), [("C1", True), ("D7", True), ("O", False), ("I2", False)])
def test_maps_that_are_alike_by_their_symmetry_must_agree_better(symmetry: str, agree: bool):
    # of real apoferritin, pairs at 0.75 to 0.8 were wrong
    assert replace(RIBOSOME, likeness=0.78, symmetry=symmetry).starts_agree == agree


def test_half_maps_that_do_not_correlate_are_no_noise_where_ab_initio_saw_the_particle():
    lost = replace(LOST, resolution_angstrom=None, shell=0.0)
    assert judge(lost).outcome == "failed"
    assert judge(replace(lost, strength=0.01)).outcome == "noise"
    assert judge(replace(lost, strength=None, starts=None, agreeing=None, likeness=None)).outcome == "noise"


def test_the_hand_is_never_claimed():
    verdict = judge(RIBOSOME)
    assert not verdict.hand_determined
    assert any(f.name == "hand" and f.passed is None for f in verdict.findings)


def test_a_symmetry_that_the_map_did_not_have_is_doubted():
    assert judge(replace(RIBOSOME, symmetry="C3", symmetry_score=0.9)).outcome == "converged"
    doubted = judge(replace(RIBOSOME, symmetry="C3", symmetry_score=0.2))
    assert doubted.outcome == "uncertain"
    assert any(f.name == "symmetry" and f.passed is False for f in doubted.findings)


def test_few_particles_are_pointed_out_without_doubting_the_result():
    # 200 images of a 70S ribosome: all poses right, the resolution stated a fifth too low
    verdict = judge(replace(RIBOSOME, particles=200))
    assert verdict.outcome == "converged"
    assert any(f.name == "number" and f.passed is None for f in verdict.findings)
    assert "only 200 particles" in str(verdict)


def test_a_single_view_is_named_with_the_directions_that_it_leaves_out():
    # poses within 15 degrees of the beam along z
    turns = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turns[:, :2] *= math.radians(5)
    c = orientation_coverage(exponential(turns))
    assert c.single_view
    assert abs(float(c.missing_axis[2])) > 0.99
    seen = replace(
        RIBOSOME,
        coverage=c.scf,
        missing_share=c.missing_share,
        missing_axis=tuple(c.missing_axis.tolist()),
        single_view_share=c.main_view_share,
    )
    verdict = judge(seen)
    views = next(f for f in verdict.findings if f.name == "views")
    assert views.passed is False
    assert verdict.outcome == "uncertain"
    said = describe(views, verdict)
    assert "show a single view" in said
    assert "1.00)" in said
    assert "a wrong map can pass the other checks" in said


def test_uneven_views_are_reported_and_too_few_are_doubted():
    uneven = judge(replace(RIBOSOME, coverage=0.3, missing_share=0.04))
    assert uneven.outcome == "converged"
    assert any(f.name == "views" and f.passed is False for f in uneven.findings)
    # all views of adenylate kinase within 20 degrees of one: consistent, and wrong for half of the images
    assert judge(replace(RIBOSOME, coverage=0.08, missing_share=0.27, cfar=0.25)).outcome == "uncertain"


def test_the_verdict_is_stored_as_data_and_put_into_words_when_it_is_read():
    verdict = with_conformations(judge(RIBOSOME), ConformationEvidence("pca", 2, 2, gain_nats=0.3))
    stored = json.loads(json.dumps(to_json(verdict)))
    assert from_json(Verdict, stored, "run.json") == verdict
    assert stored["conformations"]["components"] == 2
    assert stored["evidence"]["likeness"] == 0.98
    assert headline(verdict) == "Converged: 11.2 Å from 5,000 particles. Heterogeneity along 2 components."
    assert headline(judge(LOST)) == "Not converged: the result is not reliable."
    assert str(verdict).splitlines()[0] == headline(verdict)
    assert len(str(verdict).splitlines()) == 1 + len(verdict.findings)


EXTREMES = [
    RIBOSOME,
    NOISE,
    LOST,
    replace(RIBOSOME, starts=None, agreeing=None, likeness=None, settled=None, common_shell=0, coverage=None),
    replace(RIBOSOME, likeness=None, particles=3, worst_direction_angstrom=None, symmetry="C3", symmetry_score=0.1),
    replace(RIBOSOME, resolution_angstrom=None, shell=0.0, missing_share=0.2, single_view_share=0.9),
    replace(RIBOSOME, likeness=0.6, b_factor_angstrom2=-83.2, shell=9.0),
]


def test_effects_that_are_not_modelled_are_a_remark():
    tilt = UnmodelledEffect("beam tilt", ("rlnBeamTiltX", "rlnBeamTiltY"))
    verdict = judge(replace(RIBOSOME, unmodelled=(tilt, UnmodelledEffect("higher aberrations", ("rlnOddZernike",)))))
    assert verdict.outcome == "converged"
    finding = next(f for f in verdict.findings if f.name == "image model")
    assert finding.passed is None
    assert "beam tilt (rlnBeamTiltX, rlnBeamTiltY); higher aberrations (rlnOddZernike)" in describe(finding, verdict)
    assert from_json(Verdict, json.loads(json.dumps(to_json(verdict))), "run.json") == verdict
    assert not any(f.name == "image model" for f in judge(RIBOSOME).findings)


@pytest.mark.parametrize("evidence", EXTREMES)
def test_every_finding_has_a_sentence(evidence: Evidence):
    verdict = judge(evidence)
    for finding in verdict.findings:
        said = describe(finding, verdict)
        assert said[0].isupper() or said[0].isdigit()
        assert said.endswith((".", ")"))
        assert "None" not in said
        assert "nan" not in said


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ConformationEvidence("pca", 0, 0, gain_nats=0.0), "the data are consistent with one conformation."),
        (ConformationEvidence("vae", 0, 8, reliability=0.004), "(reliability 0.004 of 1)"),
        (
            ConformationEvidence("pca", 1, 1, gain_nats=0.304, resolution_angstrom=12.3, rejected_share=0.012),
            "1 component improves the log-likelihood of held-out images by 0.30 nats per image. The best is "
            "reproducible between half sets to 12 Å. 1.2 % of the images do not show the particle and were left out.",
        ),
        (ConformationEvidence("vae", 3, 8, reliability=0.94), "along 3 of 8 directions, along the best with a "),
        (
            ConformationEvidence("classes", 1, 1, gain_nats=2.0, class_shares=(0.5, 0.3, 0.2)),
            "3 classes were requested, but 1 component in general separates only 2: the other classes may be an "
            "arbitrary split (-k 2 avoids it). Class shares: 50.0, 30.0, 20.0 %.",
        ),
        (ConformationEvidence("a method of one's own", 2, 2), "2 components kept."),
    ],
)
def test_what_was_found_of_conformations_in_words(found: ConformationEvidence, words: str):
    verdict = with_conformations(judge(RIBOSOME), found)
    first = verdict.findings[0]
    assert (first.name, first.passed) == ("conformations", True if found.components else None)
    assert words in describe(first, verdict)


# right maps whose signal ends soon after the start (plain-77, denoised-12 of the calibration)
@pytest.mark.parametrize(("likeness", "shell", "outcome"), [
    (0.98, 14.1, "converged"),
    (0.96, 12.1, "converged"),
    (0.96, 11.9, "uncertain"),
    (0.85, 14.1, "uncertain"),
])  # fmt: skip
def test_starts_that_are_nearly_the_same_prove_the_map_that_the_halves_shared(likeness, shell, outcome):
    evidence = replace(RIBOSOME, likeness=likeness, shell=shell, common_shell=10, nyquist_shell=24)
    assert judge(evidence).outcome == outcome


def test_a_gain_of_components_weighs_more_where_poses_are_in_doubt():
    # three molecules in one stack (mixture-19): 1.3 of 71 nats, 78 % of the poses certain
    mixture = replace(RIBOSOME, components=2, component_gain=1.35, mean_score=71.0, expected_score=64.0)
    assert judge(replace(mixture, certain=0.78)).outcome == "uncertain"
    assert "different molecules" in str(judge(replace(mixture, certain=0.78)))
    assert judge(replace(mixture, certain=0.97)).outcome == "converged"
    assert judge(replace(mixture, certain=0.97, component_gain=1.5)).outcome == "uncertain"
    # real apoferritin: 0.06 of 47 nats, 63 %
    assert judge(replace(mixture, certain=0.63, component_gain=0.09)).outcome == "converged"


def test_a_map_with_a_symmetry_that_was_not_stated_is_as_good_as_any():
    unstated = replace(RIBOSOME, certain=0.94, doubtful=0.98, doubt_degrees=154.0, doubt_axis=(0.0, 0.6, 0.8))
    said = str(judge(replace(unstated, unstated_symmetry="C7")))
    assert "Converged" in said
    assert "up to C7" in said
    assert "--symmetry C7" in said


@pytest.mark.parametrize(("changed", "outcome"), [(0.02, "converged"), (0.2, "uncertain")])
def test_a_class_whose_images_still_change_is_not_called_converged(changed, outcome):
    verdict = judge(replace(RIBOSOME, changed=changed))
    assert verdict.outcome == outcome
    said = [describe(f, verdict) for f in verdict.findings if f.name == "convergence"]
    assert ("20 % of the images" in said[0]) == (outcome == "uncertain")
