"""Answers of a store that are kept for a moment.

Owns: how old an answer may be, and who asks again. One that is wanted in the later part of its life
is asked for anew meanwhile, by `run`, so that who comes again and again never waits for the store.

Always holds: an answer is as old as its question. Kept are a bounded number of things; what the
store does not have is kept, too, else guessing would cost a question a try, but apart, so that it
drives out nothing.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Final, Generic, TypeVar

from loguru import logger

from services.chassis.clock import Clock
from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.single_flight import SingleFlight
from services.chassis.waiting import is_set_within

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")

AGE_MAX: Final = timedelta(seconds=1.8)
"""So that what the store is told acts within 2 s everywhere, the question's own time included."""
_ASKED_ANEW_AFTER: Final = 2 / 3
"""Earlier asks more often than need be; later leaves the store less time before somebody waits."""
_PAUSE: Final = timedelta(milliseconds=50)
"""Before an answer is asked for anew: who wanted it goes first."""
_KEPT_MAX: Final = 10_000
_ASKED_AT_ONCE_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Answer]):
    answer: Answer
    asked_at_s: float


class Recent(Generic[Key, Answer]):
    """Gives a store's answer, at most `age_max` old; None is what it does not have."""

    def __init__(
        self,
        ask: Callable[[Key], Awaitable[Answer | None]],
        clock: Clock,
        *,
        name: str,
        age_max: timedelta = AGE_MAX,
        pause: timedelta = _PAUSE,
        kept_max: int = _KEPT_MAX,
    ) -> None:
        self._ask = ask
        self._name = name
        self._ask_once = SingleFlight(self._ask_and_keep)
        self._clock = clock
        self._age_max_s = age_max.total_seconds()
        self._pause_s = pause.total_seconds()
        self._kept_max = kept_max
        self._found: OrderedDict[Key, _Kept[Answer | None]] = OrderedDict()
        self._missing: OrderedDict[Key, _Kept[Answer | None]] = OrderedDict()
        self._due: dict[Key, None] = {}
        self._has_due = asyncio.Event()

    async def __call__(self, key: Key) -> Answer | None:
        """Return the answer; raises what the store raises, Unavailable if it takes too long."""
        kept = self._kept(key)
        if kept is None:
            return await self._ask_once(key)
        age_s = self._clock.monotonic() - kept.asked_at_s
        if age_s >= self._age_max_s * _ASKED_ANEW_AFTER:
            self._due[key] = None
            self._has_due.set()
        return kept.answer

    async def run(self, stopping: asyncio.Event) -> None:
        """Ask anew for what is wanted, until asked to stop; without it everybody waits at times."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wake_when(stopping))
            while not stopping.is_set():
                await self._has_due.wait()
                await is_set_within(stopping, self._pause_s)
                await self._ask_anew(list(islice(self._due, _ASKED_AT_ONCE_MAX)))
                if not self._due:
                    self._has_due.clear()

    def peek(self, key: Key) -> Answer | None:
        """Return the answer if it is kept."""
        kept = self._kept(key)
        return None if kept is None else kept.answer

    def put(self, key: Key, answer: Answer) -> None:
        """Keep what this process knows from elsewhere."""
        self._keep(key, _Kept(answer, self._clock.monotonic()))

    def _kept(self, key: Key) -> _Kept[Answer | None] | None:
        kept = self._found.get(key) or self._missing.get(key)
        is_kept = kept is not None and self._clock.monotonic() - kept.asked_at_s < self._age_max_s
        return kept if is_kept else None

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._has_due.set()

    async def _ask_anew(self, keys: Sequence[Key]) -> None:
        async def ask(key: Key) -> None:
            try:
                await self._ask_once(key)
            except ModelyardError as error:
                # Whoever comes once the kept answer is too old asks, and hears of it.
                logger.debug("not asked anew", error=error.message)
            finally:
                del self._due[key]

        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(ask(key))

    async def _ask_and_keep(self, key: Key) -> Answer | None:
        asked_at_s = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._age_max_s):
                kept = _Kept(await self._ask(key), asked_at_s)
        except TimeoutError as error:  # it would be too old, also for those who joined meanwhile
            raise Unavailable(self._name) from error
        known = self._found.get(key) or self._missing.get(key)
        if known is not None and known.asked_at_s >= asked_at_s:
            return known.answer  # put in meanwhile
        self._keep(key, kept)
        return kept.answer

    def _keep(self, key: Key, kept: _Kept[Answer | None]) -> None:
        these, others = self._found, self._missing
        if kept.answer is None:
            these, others = others, these
        others.pop(key, None)
        these[key] = kept
        these.move_to_end(key)
        while len(these) > self._kept_max:
            these.popitem(last=False)
