"""The estimate of the time left."""

import pytest

from cryoloom.runs.progress import RemainingTime, StagePlan, StepInfo


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_weights_of_steps_and_of_later_stages_count(clock: Clock):
    left = RemainingTime(clock)
    left.plan([StagePlan("abinit", (1, 1, 4)), StagePlan("refine", (10, 10))])
    left.begin("abinit", 0)
    assert left.seconds() is None
    clock.now += 4
    left.update(StepInfo("abinit", 2, 3))
    assert left.seconds() == pytest.approx(2 * (4 + 20))
    clock.now += 8
    left.update(StepInfo("abinit", 3, 3))
    left.begin("refine", 0)
    assert left.seconds() == pytest.approx(2 * 20)


def test_a_resumed_stage_measures_only_its_own_steps(clock: Clock):
    left = RemainingTime(clock)
    left.begin("abinit", 90)
    clock.now += 3
    left.update(StepInfo("abinit", 91, 100))
    assert left.seconds() == pytest.approx(27)


def test_nothing_is_claimed_without_a_total(clock: Clock):
    left = RemainingTime(clock)
    left.begin("abinit", 0)
    clock.now += 3
    left.update(StepInfo("abinit", 1))
    assert left.seconds() is None


def test_a_stage_longer_than_planned_keeps_later_stages(clock: Clock):
    left = RemainingTime(clock)
    left.plan([StagePlan("abinit", (2, 2)), StagePlan("refine", (10,))])
    left.begin("abinit", 0)
    clock.now += 2
    left.update(StepInfo("abinit", 1, 5))
    assert left.seconds() == pytest.approx(8 + 10)
