"""Reading an owner's whole list now and then, beside following its events.

Owns: when. All pages at the start, so that what the topic has lost is known, and each `interval`,
so that what a reader has missed is; while the owner is away, again with growing pauses. Leaves to
`page` how the owner is asked, and to `apply` that an entry older than what is known changes
nothing: events come meanwhile, and either may be the newer one.

Nothing here waits for the owner: services start in any order. Whoever can't act without the list
asks `is_done`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Generic, TypeVar

from loguru import logger

from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.events import telemetry
from services.chassis.events.consumer import DEFAULT_BACKOFF, Backoff
from services.chassis.lifecycle import Readiness, Stage, Supervisor
from services.chassis.waiting import is_set_within

PAGE_SIZE: Final = 200
"""Entries that an owner is asked for at a time."""
PAGES_MAX: Final = 10_000
"""An owner whose list has no end is told from one that has many entries."""

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class ListPage(Generic[Entry]):
    """Some of an owner's list; an empty token after the last."""

    entries: Sequence[Entry]
    next_token: str


def _nothing() -> None:
    """Do nothing more when a list was read."""


class Sweep(Generic[Entry]):
    """Gives each entry of an owner's list to `apply`, at the start and each interval."""

    def __init__(
        self,
        page: Callable[[str], Awaitable[ListPage[Entry]]],
        apply: Callable[[Entry], object],
        *,
        what: str,
        interval: timedelta,
        on_done: Callable[[], None] = _nothing,
        backoff: Backoff = DEFAULT_BACKOFF,
    ) -> None:
        """`page` is given the last page's token; `what` names the list; `on_done`: all is read."""
        self._page = page
        self._apply = apply
        self._what = what
        self._interval_s = interval.total_seconds()
        self._on_done = on_done
        self._backoff = backoff
        self._is_done = False
        self._failure_count = 0

    @property
    def is_done(self) -> bool:
        """Whether the whole list has been read once."""
        return self._is_done

    async def check(self) -> None:
        """Raise Unavailable unless the last reading, of those that have ended, brought all."""
        if self._failure_count or not self._is_done:
            raise Unavailable(f"the list of {self._what}")

    async def run(self, stopping: asyncio.Event) -> None:
        """Read again and again until `stopping` is set."""
        while not stopping.is_set():
            await is_set_within(stopping, await self.turn())

    async def turn(self) -> float:
        """Read the list once; return how many seconds later to do it again."""
        try:
            count = await self._read()
        except ModelyardError as error:
            self._failure_count += 1
            telemetry.SWEEPS.labels(self._what, "failed").inc()
            logger.warning("owner's list not read", what=self._what, error=error.message)
            return self._backoff.pause_s(self._failure_count)
        self._failure_count = 0
        self._is_done = True
        telemetry.SWEEPS.labels(self._what, "done").inc()
        logger.info("owner's list read", what=self._what, entries_count=count)
        self._on_done()
        return self._interval_s

    async def _read(self) -> int:
        count, token = 0, ""
        for _ in range(PAGES_MAX):
            page = await self._page(token)
            for entry in page.entries:
                self._take(entry)
            count += len(page.entries)
            token = page.next_token
            if not token:
                return count
        raise Unavailable(f"the end of the list of {self._what}")

    def _take(self, entry: Entry) -> None:
        """Apply one entry; one that can't be is told, and the others still count."""
        try:
            self._apply(entry)
        except (ModelyardError, ValueError) as error:
            logger.error("entry of a list could not be applied", what=self._what, cause=str(error))


def add_sweep(
    supervisor: Supervisor, readiness: Readiness, sweep: Sweep[Entry] | None, *, what: str
) -> None:
    """Let a process read the list, and tell as an advisory whether it could; None: say so once."""
    if sweep is None:
        logger.warning("owner's list is never read", what=what, cause="no setting says where it is")
        return
    readiness.advise(f"list-of-{what}", sweep.check)
    supervisor.add(f"list-of-{what}", sweep.run, Stage.INTAKE)
