"""Acting on several things, of which none may hold up the others.

Owns: what one failure means for the rest of a pass. What a pass finds comes in a fixed order: if it
ended at the first failure, the next pass would end there, too, and nothing behind would ever have
its turn.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from services.chassis.errors import Unavailable

Thing = TypeVar("Thing")
Result = TypeVar("Result")


async def one_by_one(
    things: Iterable[Thing], act: Callable[[Thing], Awaitable[Result]]
) -> list[Result]:
    """Act on one after another, whatever becomes of those before; return what came of it.

    Raises the first failure once all have had their turn, but Unavailable at once: what is away for
    one is away for those behind.
    """
    results: list[Result] = []
    failures: list[Exception] = []
    for thing in things:
        try:
            results.append(await act(thing))
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 the others have their turn all the same
            failures.append(error)
    if failures:
        raise failures[0]
    return results
