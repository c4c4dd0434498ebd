"""The plan of the calibration: fixed, broad, and split so that no protein is on both sides."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest

from calibration.molecules import BY_NAME, MOLECULES
from calibration.plan import Kind, plan
from calibration.sets import lowpass, simulate_options, wiener

CASES = plan()


def test_the_plan_is_the_same_every_time_and_another_for_another_seed():
    assert plan() == CASES
    assert plan(2) != CASES
    assert len({c.id for c in CASES}) == len(CASES) >= 400


def test_every_kind_is_there_often_enough():
    counts = Counter(c.kind for c in CASES)
    assert set(counts) == set(get_args(Kind))
    assert min(counts.values()) >= 20
    assert sum(c.wide for c in CASES) >= len(CASES) / 3
    names = {name for c in CASES if c.wide for name, _ in c.nuisances}
    assert names == {"neighbours", "gradient", "carbon", "defocus-error", "colour", "mtf", "contrast", "hot"}


def test_half_of_the_cases_are_hard_and_most_are_small():
    assert sum(c.level != "clear" for c in CASES) >= len(CASES) / 2
    assert all(c.images <= 3000 for c in CASES)
    assert np.mean([c.box <= 48 for c in CASES]) > 0.8
    assert min(c.snr for c in CASES) <= 0.005


def test_no_protein_is_in_both_halves():
    halves: dict[str, set[str]] = {}
    for m in MOLECULES:
        halves.setdefault(m.protein, set()).add(m.half)
    assert [protein for protein, found in halves.items() if len(found) > 1] == []
    assert all(BY_NAME[name].half == c.half for c in CASES for name in c.molecules)
    assert len(halves) >= 12
    used = Counter(name for c in CASES for name in c.molecules)
    assert all(used[m.name] >= 5 for m in MOLECULES)
    assert 0.45 < np.mean([c.half == "fit" for c in CASES]) < 0.55


def test_what_is_special_of_each_kind_holds():
    for c in CASES:
        if c.kind == "mixture":
            assert len({m.protein for m in c.structures}) == len(c.molecules) in (2, 3, 4)
            assert sum(c.shares) == pytest.approx(1, abs=1e-3)
            assert max(c.shares) <= 0.7
        else:
            assert len(c.molecules) == 1
        assert (c.preferred > 0) == (c.kind == "views")
        assert (0.2 <= c.junk <= 0.6) == (c.kind == "junk")
        assert all(m.round == (c.kind == "round") for m in c.structures)
        if c.kind == "symmetry-stated":
            assert c.symmetry == c.structures[0].symmetry != "C1"
        if c.kind == "symmetry-unstated":
            assert c.symmetry == "C1" != c.structures[0].symmetry
        assert c.denoising != "none" if c.kind == "denoised" else c.denoising == "none" or c.kind == "noise"
    round_ones = [c for c in CASES if c.kind == "round" and c.structures[0].symmetry != "C1"]
    assert {c.symmetry == "C1" for c in round_ones} == {True, False}


def test_signal_ends_before_the_nyquist_frequency_in_many_cases_of_both_halves():
    for half in ("fit", "report"):
        blurred = [c for c in CASES if c.half == half and c.b > 0]
        assert len(blurred) >= 30
        assert all(c.box > 32 and f"{c.b}" in c.to_json()["maps"][0] for c in blurred)


def test_nuisances_reach_the_tool_that_makes_them():
    noise = next(c for c in CASES if c.kind == "noise" and c.nuisances)
    assert {"--noise-only", "--colour"} <= set(simulate_options(noise))
    wide = next(c for c in CASES if c.kind == "nuisances")
    assert not {f"--{name}" for name, _ in wide.nuisances} & set(simulate_options(wide))
    assert 1e6 in simulate_options(wide)


def test_denoising_filters_keep_low_frequencies_and_damp_high_ones():
    gain = lowpass(32, 0.5)
    assert gain[0, 0] == pytest.approx(1)
    assert gain[0, 8] == pytest.approx(0.5)
    assert gain[0, 15] == pytest.approx(0.02)
    y, x = np.mgrid[:32, :32] - 16
    body = 3 * np.exp(-(x**2 + y**2) / 30)
    images = body + np.random.default_rng(0).standard_normal((200, 32, 32))
    gain = wiener(images)
    assert gain[0, 1] > 0.9
    assert gain[12:16, 8:].max() < 0.2
    left = np.fft.irfft2(np.fft.rfft2(images) * gain, s=(32, 32)) - body
    assert left.std() < 0.5
