"""Waiting for what happens elsewhere, with a bound and a sentence for when it doesn't.

The one place where tests wait by the clock; everything else polls through here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

WITHIN_S: Final = 60.0
_POLL_INTERVAL_S: Final = 0.02


def until(check: Callable[[], T | None], *, what: str, within_s: float = WITHIN_S) -> T:
    """Return the first truthy answer of `check`; fail the test when none comes within the bound."""
    ends_at = time.monotonic() + within_s
    while not (answer := check()):
        if time.monotonic() >= ends_at:
            raise AssertionError(f"not within {within_s:g} s: {what} (last answer: {answer!r})")
        time.sleep(_POLL_INTERVAL_S)
    return answer


def is_within(check: Callable[[], object], *, within_s: float) -> bool:
    """Return whether `check` gives a truthy answer within the bound."""
    ends_at = time.monotonic() + within_s
    while not check():
        if time.monotonic() >= ends_at:
            return False
        time.sleep(_POLL_INTERVAL_S)
    return True


async def eventually(
    check: Callable[[], Awaitable[T | None]], *, what: str, within_s: float = WITHIN_S
) -> T:
    """Return the first truthy answer of an async `check`, in the same way."""
    ends_at = time.monotonic() + within_s
    while not (answer := await check()):
        if time.monotonic() >= ends_at:
            raise AssertionError(f"not within {within_s:g} s: {what} (last answer: {answer!r})")
        await asyncio.sleep(_POLL_INTERVAL_S)
    return answer


async def seen(look: Callable[[], bool], *, what: str) -> None:
    """Wait until something is so that nothing need be awaited to see."""

    async def is_so() -> bool:
        return look()

    await eventually(is_so, what=what)
