"""A pass over several things goes past the ones that fail."""

import pytest

from services.chassis.errors import Conflict, Unavailable
from services.scheduler.use_cases.one_by_one import one_by_one


class Acts:
    """Notes what it is asked to act on, and fails on some."""

    def __init__(self, **failures: Exception) -> None:
        self.asked: list[str] = []
        self._failures = failures

    async def __call__(self, thing: str) -> str:
        self.asked.append(thing)
        if thing in self._failures:
            raise self._failures[thing]
        return thing.upper()


async def test_each_has_its_turn_and_the_results_come_in_order() -> None:
    assert await one_by_one("abc", Acts()) == ["A", "B", "C"]


async def test_what_fails_each_time_holds_up_nothing_behind_it_and_is_told() -> None:
    act = Acts(a=AssertionError("a bug"), b=Conflict("job", "b"))
    with pytest.raises(AssertionError, match="a bug"):
        await one_by_one("abc", act)
    assert act.asked == ["a", "b", "c"]


async def test_a_database_that_is_away_is_not_asked_for_each() -> None:
    act = Acts(a=Conflict("job", "a"), b=Unavailable("database"))
    with pytest.raises(Unavailable):
        await one_by_one("abc", act)
    assert act.asked == ["a", "b"]
