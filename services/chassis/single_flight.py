"""Let one ask for what several want at once, and share what it hears.

Owns: who asks. A failure is shared like an answer: were each of those who wait to ask in turn, a
database that is away would be waited for once a request, one after the other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from services.chassis.errors import ModelyardError

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


class SingleFlight(Generic[Key, Answer]):
    """Asks once a key at any time."""

    def __init__(self, ask: Callable[[Key], Awaitable[Answer]]) -> None:
        self._ask = ask
        self._flights: dict[Key, asyncio.Future[Answer]] = {}

    async def __call__(self, key: Key) -> Answer:
        """Return the answer; raises what asking raised."""
        while (flight := self._flights.get(key)) is not None:
            await asyncio.wait([flight])
            if not flight.cancelled():
                return flight.result()
        return await self._fly(key)

    async def _fly(self, key: Key) -> Answer:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await self._ask(key)
        except ModelyardError as error:
            flight.set_exception(error)
            flight.exception()  # raised below, and by whoever waits
            raise
        else:
            flight.set_result(answer)
        finally:
            del self._flights[key]
            flight.cancel()  # whoever asked went away without an answer: the next one asks
        return answer
