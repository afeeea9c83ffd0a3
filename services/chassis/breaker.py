"""Circuit breakers for asyncio, on pybreaker's state machine.

Owns: what pybreaker lacks for asyncio (measured on 1.4.1): it counts a cancelled call as a failure,
lets every waiting call through at half-open, counts excluded errors as successes, and lets a late
result of an older time move the present state. So the call is awaited outside of pybreaker, and
only its outcome is recorded: a failure that `counts`, a success, or nothing at all.

Always holds: at half-open one probe is under way; a cancelled call records nothing; a result from
before the last change of state records nothing; the real error leaves, never pybreaker's. Outcomes
are counted in a sliding window, so that a success in between does not hide a dependency that fails
half of the time, and a few failures among thousands of calls do not close the door on the rest.
State is per process: a breaker that asks Redis on each call would itself need one. What is shown of
breakers of one name, such as those of each replica, is the worst state among them.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Final, NamedTuple
from weakref import WeakSet

import pybreaker
from loguru import logger
from typing_extensions import override

from services.chassis.errors import DeadlineExceeded, ModelyardError, Unavailable
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

_BUCKET_COUNT: Final = 10
_NAMESAKES: Final[defaultdict[str, "WeakSet[Breaker]"]] = defaultdict(WeakSet)
"""Each name's breakers: a process may have several edges of one kind."""


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
        failure_share_min: float = 0.5,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open after `failure_count_max` failures in `window`; probe after `reset_after`.

        The failures must also be at least `failure_share_min` of the window's outcomes. `counts`
        tells which errors are the dependency's fault. Another `ModelyardError` is its answer;
        anything else records nothing.
        """
        self.name = name
        self._counts = counts
        self._monotonic = monotonic
        self._reset_after_s = reset_after.total_seconds()
        self._failure_count_max = failure_count_max
        self._failure_share_min = failure_share_min
        self._window = _Window(window.total_seconds())
        # The window is counted here: pybreaker's machine keeps the state and is told to move.
        self._machine = pybreaker.CircuitBreaker(name=name)
        self._state = pybreaker.STATE_CLOSED
        self._generation = 0
        self._opened_at_s = 0.0
        self._probe: _Probe | None = None
        _NAMESAKES[name].add(self)
        self._show()

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        return self._state

    def retire(self) -> None:
        """Be shown no more: what it was for is not there any more."""
        _NAMESAKES[self.name].discard(self)
        self._show()

    def calling(self) -> AbstractContextManager[None]:
        """Run one call; raises Unavailable at once while the breaker is open."""
        return _Call(self)

    def admit(self) -> "_Admitted":
        """Begin a call, for `calling`; raises Unavailable."""
        return _Admitted(self._probe_if_due(), self._generation)

    def record(self, admitted: "_Admitted", error: BaseException | None) -> None:
        """End a call, for `calling`: with what left it, if anything did."""
        probe, generation = admitted
        if generation == self._generation:
            if error is None:
                self._answered(is_probe=probe is not None)
            elif isinstance(error, Exception):
                self._failed(error, is_probe=probe is not None)
        if probe is self._probe:
            self._probe = None

    def _probe_if_due(self) -> "_Probe | None":
        """Let a call through, or refuse it; gives the probe when it is one."""
        if self.state == pybreaker.STATE_CLOSED:
            return None
        now_s = self._monotonic()
        if self.state == pybreaker.STATE_OPEN:
            self._refuse_before(self._opened_at_s + self._reset_after_s, now_s)
            self._machine.half_open()
            self._moved()
        # A probe that lasts, such as a stream of logs, keeps the others out no longer than an open
        # breaker would.
        if self._probe is not None:
            self._refuse_before(self._probe.started_at_s + self._reset_after_s, now_s)
        self._probe = _Probe(now_s)
        return self._probe

    def _refuse_before(self, instant_s: float, now_s: float) -> None:
        if now_s < instant_s:
            REFUSED.labels(self.name).inc()
            raise Unavailable(self.name, retry_after=timedelta(seconds=instant_s - now_s))

    def _failed(self, error: Exception, *, is_probe: bool) -> None:
        if not self._counts(error):
            if _is_answer(error):
                self._answered(is_probe=is_probe)
            return
        now_s = self._monotonic()
        self._window.record(now_s, is_failure=True)
        if is_probe or self._is_failing(now_s):
            self._opened_at_s = now_s
            self._machine.open()
            self._moved()
            logger.warning("breaker opened", breaker=self.name, cause=type(error).__name__)

    def _is_failing(self, now_s: float) -> bool:
        failure_count, outcome_count = self._window.counts(now_s)
        return (
            failure_count >= self._failure_count_max
            and failure_count >= outcome_count * self._failure_share_min
        )

    def _answered(self, *, is_probe: bool) -> None:
        if not is_probe:
            self._window.record(self._monotonic(), is_failure=False)
            return
        self._window.clear()
        self._machine.close()
        self._moved()
        logger.info("breaker closed", breaker=self.name)

    def _moved(self) -> None:
        self._state = str(self._machine.current_state)
        self._generation += 1
        self._probe = None
        self._show()

    def _show(self) -> None:
        worst = max((_STATES[each.state] for each in _NAMESAKES[self.name]), default=0)
        STATE.labels(self.name).set(worst)


def breaker_states() -> Mapping[str, str]:
    """Return the state of each breaker of this process; of those with one name, the worst."""
    names = {number: state for state, number in _STATES.items()}
    samples = (sample for metric in STATE.collect() for sample in metric.samples)
    return {sample.labels["breaker"]: names[int(sample.value)] for sample in samples}


def _is_answer(error: Exception) -> bool:
    """Tell whether the dependency itself refused, such as by NotFound: then it works."""
    return isinstance(error, ModelyardError) and not isinstance(
        error, Unavailable | DeadlineExceeded
    )


class _Call(AbstractContextManager[None]):
    """One call; a generator in its place costs three times as much, on each."""

    __slots__ = ("_admitted", "_breaker")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    @override
    def __enter__(self) -> None:
        self._admitted = self._breaker.admit()

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._breaker.record(self._admitted, error)


@dataclass(frozen=True, slots=True, eq=False)
class _Probe:
    """The one call that half-open lets through."""

    started_at_s: float


class _Admitted(NamedTuple):
    """A call under way."""

    probe: _Probe | None
    generation: int


@dataclass(slots=True)
class _Bucket:
    number: int
    failure_count: int = 0
    outcome_count: int = 0


class _Window:
    """Counts the outcomes of the last `length_s` seconds, in buckets: small at any rate."""

    def __init__(self, length_s: float) -> None:
        self._bucket_s = length_s / _BUCKET_COUNT
        self._buckets: deque[_Bucket] = deque(maxlen=_BUCKET_COUNT)

    def record(self, now_s: float, *, is_failure: bool) -> None:
        """Count one outcome."""
        number = int(now_s // self._bucket_s)
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(_Bucket(number))
        bucket = self._buckets[-1]
        bucket.failure_count += is_failure
        bucket.outcome_count += 1

    def counts(self, now_s: float) -> tuple[int, int]:
        """Return how many failed, and how many there were."""
        oldest = int(now_s // self._bucket_s) - _BUCKET_COUNT + 1
        live = [bucket for bucket in self._buckets if bucket.number >= oldest]
        return (
            sum(bucket.failure_count for bucket in live),
            sum(bucket.outcome_count for bucket in live),
        )

    def clear(self) -> None:
        """Forget all."""
        self._buckets.clear()
