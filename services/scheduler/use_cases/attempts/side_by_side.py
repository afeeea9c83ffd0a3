"""Do one thing to many containers: a bounded number at a time, and past each that fails."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from math import ceil
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def side_by_side(
    act: Callable[[T], Awaitable[R]], things: Sequence[T], *, together_max: int
) -> tuple[list[R], list[Exception]]:
    """Act on each; return what came of them, and the failures: none holds up the others."""
    turn = asyncio.Semaphore(together_max)
    results: list[R] = []
    failures: list[Exception] = []

    async def one(thing: T) -> None:
        async with turn:
            try:
                results.append(await act(thing))
            except Exception as error:  # noqa: BLE001 the caller's to raise, after all
                failures.append(error)

    async with asyncio.TaskGroup() as tasks:
        for thing in things:
            tasks.create_task(one(thing))
    return results, failures


def grace_of_each(grace: timedelta, *, count: int, together_max: int) -> timedelta:
    """Return how long each may take to end, so that all take no longer than one alone may."""
    return grace / max(1, ceil(count / together_max))
