"""When a breaker opens, whom it lets through, and what it counts."""

import asyncio
from datetime import timedelta

import pytest

from services.chassis.breaker import REFUSED, STATE, Breaker, breaker_states
from services.chassis.errors import NotFound, Unavailable

DOWN = ConnectionRefusedError("down")


class Time:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def a_breaker(time: Time, *, failure_count_max: int = 3, name: str = "dependency") -> Breaker:
    return Breaker(
        name,
        failure_count_max=failure_count_max,
        window=timedelta(seconds=10),
        reset_after=timedelta(seconds=2),
        counts=lambda error: isinstance(error, OSError | Unavailable),
        monotonic=time,
    )


async def call(breaker: Breaker, error: BaseException | None = None) -> None:
    """Call once; the error that leaves the breaker is the error that went in."""
    if error is None:
        with breaker.calling():
            return
    with pytest.raises(type(error)) as left, breaker.calling():
        raise error
    assert left.value is error


async def an_open_breaker(time: Time) -> Breaker:
    breaker = a_breaker(time)
    for _ in range(3):
        await call(breaker, DOWN)
    assert breaker.state == "open"
    return breaker


async def test_a_breaker_opens_after_so_many_failures_in_its_window() -> None:
    breaker = a_breaker(Time())

    await call(breaker, DOWN)
    await call(breaker, DOWN)
    assert breaker.state == "closed"

    await call(breaker, DOWN)
    assert breaker.state == "open"


async def test_failures_are_forgotten_when_the_window_has_moved_on() -> None:
    time = Time()
    breaker = a_breaker(time)

    for _ in range(10):
        await call(breaker, DOWN)
        time.now_s += 5

    assert breaker.state == "closed"


async def test_successes_in_between_do_not_hide_a_dependency_that_fails_half_of_the_time() -> None:
    breaker = a_breaker(Time())

    for _ in range(3):
        await call(breaker)
        await call(breaker, DOWN)

    assert breaker.state == "open"


async def test_a_few_failures_among_many_calls_do_not_open() -> None:
    breaker = a_breaker(Time())

    for _ in range(100):
        for _ in range(10):
            await call(breaker)
        await call(breaker, DOWN)

    assert breaker.state == "closed"


async def test_an_open_breaker_refuses_and_says_for_how_long() -> None:
    time = Time()
    breaker = await an_open_breaker(time)
    refused = REFUSED.labels("dependency")._value.get()
    time.now_s += 0.5

    with pytest.raises(Unavailable) as refusal, breaker.calling():
        pytest.fail("an open breaker let a call through")

    assert refusal.value.retry_after == timedelta(seconds=1.5)
    assert REFUSED.labels("dependency")._value.get() == refused + 1


async def test_errors_that_are_not_the_dependencys_fault_do_not_open() -> None:
    breaker = a_breaker(Time())

    for error in [NotFound("job", "1"), ValueError("ours")] * 10:
        await call(breaker, error)

    assert breaker.state == "closed"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt()])
async def test_a_cancelled_call_records_nothing(error: BaseException) -> None:
    breaker = a_breaker(Time())

    await call(breaker, DOWN)
    await call(breaker, DOWN)
    for _ in range(10):
        await call(breaker, error)
    assert breaker.state == "closed"

    await call(breaker, DOWN)
    assert breaker.state == "open"


async def test_a_cancelled_call_is_no_success_either() -> None:
    time = Time()
    breaker = await an_open_breaker(time)
    time.now_s += 2

    await call(breaker, asyncio.CancelledError())
    assert breaker.state == "half-open"

    await call(breaker)
    assert breaker.state == "closed"


async def test_a_timeout_around_a_call_stays_a_timeout() -> None:
    breaker = a_breaker(Time(), failure_count_max=1)

    async def never_answered() -> None:
        async with asyncio.timeout(0):
            with breaker.calling():
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await never_answered()

    assert breaker.state == "closed"


async def test_one_probe_is_let_through_at_half_open() -> None:
    time = Time()
    breaker = await an_open_breaker(time)
    time.now_s += 2
    let_through = 0
    answer = asyncio.Event()

    async def probe() -> None:
        nonlocal let_through
        with breaker.calling():
            let_through += 1
            await answer.wait()

    async def or_refused() -> None:
        try:
            await probe()
        except Unavailable:
            answer.set()

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(or_refused())

    assert let_through == 1
    assert breaker.state == "closed"


async def test_a_good_probe_closes_and_forgets_the_failures() -> None:
    time = Time()
    breaker = await an_open_breaker(time)
    time.now_s += 2

    await call(breaker)
    await call(breaker, DOWN)
    await call(breaker, DOWN)

    assert breaker.state == "closed"


async def test_a_failed_probe_opens_for_another_while() -> None:
    time = Time()
    breaker = await an_open_breaker(time)
    time.now_s += 2

    await call(breaker, DOWN)
    assert breaker.state == "open"

    time.now_s += 1.9
    with pytest.raises(Unavailable):
        await call(breaker)
    time.now_s += 0.1
    await call(breaker)
    assert breaker.state == "closed"


async def test_a_refusal_by_the_dependency_itself_closes_at_half_open() -> None:
    time = Time()
    breaker = await an_open_breaker(time)
    time.now_s += 2

    await call(breaker, NotFound("job", "1"))

    assert breaker.state == "closed"


async def test_an_error_of_ours_at_half_open_lets_the_next_call_probe() -> None:
    time = Time()
    breaker = await an_open_breaker(time)
    time.now_s += 2

    await call(breaker, ValueError("ours"))
    assert breaker.state == "half-open"

    await call(breaker)
    assert breaker.state == "closed"


async def test_a_probe_that_lasts_keeps_others_out_only_for_a_while() -> None:
    time = Time()
    breaker = await an_open_breaker(time)
    time.now_s += 2

    with breaker.calling():
        with pytest.raises(Unavailable):
            await call(breaker)
        time.now_s += 2
        await call(breaker)
        assert breaker.state == "closed"


@pytest.mark.parametrize("error", [None, DOWN])
async def test_results_from_before_the_last_change_record_nothing(error: OSError | None) -> None:
    time = Time()
    breaker = a_breaker(time)
    go, opened = asyncio.Event(), asyncio.Event()

    async def late() -> None:
        try:
            with breaker.calling():
                opened.set()
                await go.wait()
                if error is not None:
                    raise error
        except OSError:
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(late())
        await opened.wait()
        for _ in range(3):
            await call(breaker, DOWN)
        time.now_s += 1
        go.set()
    assert breaker.state == "open"

    time.now_s += 1  # two seconds since it opened: late failures have not moved that
    await call(breaker)
    assert breaker.state == "closed"


async def test_the_state_is_exported() -> None:
    time = Time()
    breaker = a_breaker(time, name="exported")
    gauge = STATE.labels("exported")
    assert gauge._value.get() == 0

    for _ in range(3):
        await call(breaker, DOWN)
    assert gauge._value.get() == 2

    time.now_s += 2
    with breaker.calling():
        assert gauge._value.get() == 1
    assert gauge._value.get() == 0


async def test_states_of_all_breakers_are_known_by_name() -> None:
    breaker = a_breaker(Time(), name="known", failure_count_max=1)
    assert breaker_states()["known"] == "closed"

    await call(breaker, DOWN)
    assert breaker_states()["known"] == "open"


async def test_of_breakers_with_one_name_the_worst_state_is_shown() -> None:
    time = Time()
    broken = a_breaker(time, name="one of many", failure_count_max=1)
    await call(broken, DOWN)

    other = a_breaker(time, name="one of many")  # a new one is closed, and tells nothing of others
    await call(other)
    assert breaker_states()["one of many"] == "open"

    time.now_s += 2
    await call(broken)
    assert breaker_states()["one of many"] == "closed"


async def test_a_breaker_that_is_retired_is_shown_no_more() -> None:
    time = Time()
    broken = a_breaker(time, name="gone", failure_count_max=1)
    kept = a_breaker(time, name="gone")
    await call(broken, DOWN)

    broken.retire()

    assert (kept.state, breaker_states()["gone"]) == ("closed", "closed")
