"""Circuit breakers for asyncio, on pybreaker's state machine.

Owns: what pybreaker lacks for asyncio (measured on 1.4.1): it counts a cancelled call as a failure,
lets every waiting call through at half-open, counts excluded errors as successes, and lets a late
result of an older time move the present state. So the call is awaited outside of pybreaker, and
only its outcome is recorded: a failure that `counts`, a success, or nothing at all.

Always holds: at half-open one probe is under way; a cancelled call records nothing; a result from
before the last change of state records nothing; the real error leaves, never pybreaker's. Failures
are counted in a sliding window, so that a success in between does not hide a dependency that fails
half of the time. State is per process: a breaker that asks Redis on each call would itself need
one.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import pybreaker
from loguru import logger

from services.chassis.errors import Unavailable
from services.chassis.telemetry.metrics import counter, gauge

_STATES: Final = {
    pybreaker.STATE_CLOSED: 0,
    pybreaker.STATE_HALF_OPEN: 1,
    pybreaker.STATE_OPEN: 2,
}
STATE = gauge("modelyard_breaker_state", help="0 closed, 1 half-open, 2 open.", labels=["breaker"])
REFUSED = counter(
    "modelyard_breaker_refused", help="Calls refused by an open breaker.", labels=["breaker"]
)


class Breaker:
    """Refuses calls to a dependency that keeps failing, and tries it again after a while."""

    def __init__(
        self,
        name: str,
        *,
        failure_count_max: int,
        window: timedelta,
        reset_after: timedelta,
        counts: Callable[[BaseException], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open after `failure_count_max` failures in `window`; probe after `reset_after`.

        `counts` tells which errors are the dependency's fault; others record nothing.
        """
        self.name = name
        self._counts = counts
        self._monotonic = monotonic
        self._window_s = window.total_seconds()
        self._reset_after_s = reset_after.total_seconds()
        self._failure_count_max = failure_count_max
        self._failures: deque[float] = deque(maxlen=failure_count_max)
        self._machine = pybreaker.CircuitBreaker(
            # The window is counted here; one recorded failure is what trips pybreaker's machine.
            fail_max=1,
            reset_timeout=self._reset_after_s,
            throw_new_error_on_trip=False,
            name=name,
        )
        self._generation = 0
        self._opened_at = 0.0
        self._probing = False
        STATE.labels(name).set(_STATES[pybreaker.STATE_CLOSED])

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        return str(self._machine.current_state)

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Run one call; raises Unavailable at once while the breaker is open."""
        is_probe = self._admit()
        generation = self._generation
        try:
            yield
        except BaseException as error:
            if generation == self._generation and isinstance(error, Exception):
                self._failed(error, is_probe=is_probe)
            raise
        else:
            if generation == self._generation:
                self._succeeded(is_probe=is_probe)
        finally:
            if is_probe:
                self._probing = False

    def _admit(self) -> bool:
        """Let a call through, or refuse it; tell whether it is the half-open probe."""
        if self.state == pybreaker.STATE_CLOSED:
            return False
        if self.state == pybreaker.STATE_OPEN:
            waited = self._monotonic() - self._opened_at
            if waited < self._reset_after_s:
                self._refuse(timedelta(seconds=self._reset_after_s - waited))
            self._machine.half_open()
            self._moved()
        if self._probing:
            self._refuse(timedelta(seconds=self._reset_after_s))
        self._probing = True
        return True

    def _refuse(self, retry_after: timedelta) -> None:
        REFUSED.labels(self.name).inc()
        raise Unavailable(self.name, retry_after=retry_after)

    def _failed(self, error: Exception, *, is_probe: bool) -> None:
        if not self._counts(error):
            return
        now = self._monotonic()
        self._failures.append(now)
        is_full = len(self._failures) == self._failure_count_max
        if is_probe or (is_full and now - self._failures[0] <= self._window_s):
            self._opened_at = now
            self._machine.open()
            self._moved()
            logger.warning("breaker opened", breaker=self.name, cause=type(error).__name__)

    def _succeeded(self, *, is_probe: bool) -> None:
        if is_probe:
            self._failures.clear()
            self._machine.close()
            self._moved()
            logger.info("breaker closed", breaker=self.name)

    def _moved(self) -> None:
        self._generation += 1
        STATE.labels(self.name).set(_STATES[self.state])
