"""How often and how soon calls are tried again."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from services.chassis.errors import InvalidArgument, ModelyardError, RateLimited, Unavailable
from services.chassis.retry import RetryBudget, RetryPolicy
from services.chassis.rpc.deadline import Deadline

DOWN = Unavailable("database", retry_after=timedelta(0))


class Time:
    """Virtual seconds: a pause moves them at once. Jitter is always the most that it can be."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        self.pauses_s.append(wait_s)
        self.now_s += wait_s

    def in_s(self, wait_s: float) -> Deadline:
        return Deadline.after(timedelta(seconds=wait_s), self.monotonic)


def a_policy(
    time: Time, *, attempts_max: int = 3, budget: RetryBudget | None = None
) -> RetryPolicy:
    return RetryPolicy(
        budget or RetryBudget(),
        attempts_max=attempts_max,
        backoff_min=timedelta(seconds=1),
        backoff_max=timedelta(seconds=4),
        uniform=lambda low, high: high,
        sleep=time.sleep,
    )


class Calls:
    """Fails with these errors, one a call, then answers."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        self._errors = list(errors)
        self.count = 0

    async def __call__(self) -> str:
        self.count += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


async def test_a_failure_that_may_pass_is_tried_again() -> None:
    time, calls = Time(), Calls([DOWN, DOWN])

    assert await a_policy(time).run(calls, until=time.in_s(60)) == "answer"
    assert calls.count == 3


@pytest.mark.parametrize("error", [InvalidArgument("name", "is taken"), ValueError("a bug")])
async def test_a_failure_that_stays_is_not_tried_again(error: Exception) -> None:
    time, calls = Time(), Calls([error])

    with pytest.raises(type(error)):
        await a_policy(time).run(calls, until=time.in_s(60))

    assert calls.count == 1


async def test_the_last_error_is_raised_after_the_last_attempt() -> None:
    errors: list[ModelyardError] = [
        Unavailable("first"),
        Unavailable("second"),
        Unavailable("third"),
    ]
    time, calls = Time(), Calls(errors)

    with pytest.raises(Unavailable, match="third"):
        await a_policy(time).run(calls, until=time.in_s(60))

    assert calls.count == 3


async def test_pauses_are_anything_up_to_a_bound_that_doubles() -> None:
    time = Time()
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high / 2

    policy = RetryPolicy(
        RetryBudget(),
        attempts_max=5,
        backoff_min=timedelta(seconds=1),
        backoff_max=timedelta(seconds=4),
        uniform=uniform,
        sleep=time.sleep,
    )
    await policy.run(Calls([DOWN] * 4), until=time.in_s(60))

    assert bounds == [(0, 1), (0, 2), (0, 4), (0, 4)]
    assert time.pauses_s == [0.5, 1, 2, 2]


async def test_a_waiting_time_that_was_told_is_kept_and_spread() -> None:
    time = Time()
    told = RateLimited("tenant", retry_after=timedelta(seconds=7))

    await a_policy(time).run(Calls([told]), until=time.in_s(60))

    assert time.pauses_s == [7 + 1]


async def test_no_pause_goes_beyond_the_deadline() -> None:
    time, calls = Time(), Calls([DOWN, DOWN])

    with pytest.raises(Unavailable):
        await a_policy(time).run(calls, until=time.in_s(2.5))

    assert calls.count == 2
    assert time.now_s < 2.5


async def test_an_outage_is_multiplied_by_little_more_than_one() -> None:
    time = Time()
    policy = a_policy(
        time, attempts_max=5, budget=RetryBudget(tokens_max=10, earned=0.1, tokens=10)
    )
    calls = Calls([DOWN] * 10_000)

    for _ in range(1000):
        with pytest.raises(Unavailable):
            await policy.run(calls, until=time.in_s(600))

    assert calls.count <= 1000 * 1.1 + 10


async def test_first_tries_fill_the_budget_up_to_its_bound() -> None:
    budget = RetryBudget(tokens_max=2, earned=0.5, tokens=0)
    assert not budget.spend()

    for _ in range(100):
        budget.earn()

    assert [budget.spend() for _ in range(3)] == [True, True, False]
