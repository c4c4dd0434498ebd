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


def warm(clock: Clock) -> RemainingTime:
    """An estimate that has seen the first step, in which kernels are compiled."""
    left = RemainingTime(clock)
    left.begin("compiled", 0)
    clock.now += 1000
    left.update(StepInfo("compiled", 1, cost=1, cost_ahead=0))
    return left


def test_the_first_step_is_not_counted(clock: Clock):
    left = warm(clock)
    assert left.seconds() is None
    clock.now += 2
    left.update(StepInfo("compiled", 2, cost=1, cost_ahead=5))
    assert left.seconds() == pytest.approx(10)


def test_costs_of_steps_and_of_later_stages_count(clock: Clock):
    left = warm(clock)
    left.plan([StagePlan("abinit", 6), StagePlan("refine", 20)])
    left.begin("abinit", 0)
    assert left.seconds() is None
    clock.now += 4
    left.update(StepInfo("abinit", 1, cost=2, cost_ahead=4))
    assert left.seconds() == pytest.approx(2 * (4 + 20))
    clock.now += 8
    left.update(StepInfo("abinit", 2, cost=4, cost_ahead=0))
    assert left.seconds() == pytest.approx(2 * 20)


def test_a_stage_that_has_just_begun_counts_as_planned(clock: Clock):
    left = warm(clock)
    left.plan([StagePlan("abinit", 2), StagePlan("refine", 20)])
    left.begin("abinit", 0)
    clock.now += 6
    left.update(StepInfo("abinit", 1, cost=2, cost_ahead=0))
    left.begin("refine", 0)
    assert left.seconds() == pytest.approx(3 * 20)


def test_a_resumed_stage_measures_only_its_own_steps(clock: Clock):
    left = warm(clock)
    left.begin("abinit", 90)
    clock.now += 3
    left.update(StepInfo("abinit", 91, cost=1, cost_ahead=9))
    assert left.seconds() == pytest.approx(27)


def test_nothing_is_claimed_before_anything_is_measured(clock: Clock):
    left = warm(clock)
    left.plan([StagePlan("abinit", 2)])
    assert left.seconds() is None
    left.begin("abinit", 0)
    clock.now += 3
    assert left.seconds() is None


def test_a_stage_that_is_longer_than_planned_keeps_later_stages(clock: Clock):
    left = warm(clock)
    left.plan([StagePlan("abinit", 4), StagePlan("refine", 10)])
    left.begin("abinit", 0)
    clock.now += 2
    left.update(StepInfo("abinit", 1, cost=2, cost_ahead=8))
    assert left.seconds() == pytest.approx(8 + 10)


def test_the_last_steps_count_most(clock: Clock):
    """A stage whose costs are misjudged is soon told by its own steps."""
    left = warm(clock)
    left.begin("abinit", 0)
    for step in range(20):
        clock.now += 1.0
        left.update(StepInfo("abinit", step + 1, cost=1, cost_ahead=100))
    left.begin("refine", 0)
    for step in range(10):
        clock.now += 4.0
        left.update(StepInfo("refine", step + 1, cost=1, cost_ahead=10))
    seconds = left.seconds()
    assert seconds is not None
    assert 35 < seconds < 40


def test_stages_that_the_plan_does_not_name_use_up_the_part_they_belong_to(clock: Clock):
    left = warm(clock)
    left.plan([StagePlan("rounds", 10), StagePlan("classes", 20)])
    left.begin("round_1", 0)
    clock.now += 8
    left.update(StepInfo("round_1", 1, cost=4, cost_ahead=2))
    assert left.seconds() == pytest.approx(2 * (6 + 20))
    left.begin("sort_1", 0)
    assert left.seconds() == pytest.approx(2 * (6 + 20))
    clock.now += 20
    left.update(StepInfo("sort_1", 1, cost=10, cost_ahead=50))
    assert left.seconds() == pytest.approx(2 * 50)  # more than is planned
    clock.now += 100
    left.update(StepInfo("sort_1", 2, cost=50, cost_ahead=0))
    assert left.seconds() == pytest.approx(0)
