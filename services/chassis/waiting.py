"""Bounded waiting for an event, and what needs none."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, `seconds` at most; return whether it is set."""
    if event.is_set():
        return True  # without a timer, which is most of the price
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def at_once(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine that has nothing to wait for.

    A callback can't await, and in a task of its own it would come too late.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("there is something to wait for")
