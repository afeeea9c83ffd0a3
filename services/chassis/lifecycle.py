"""How a process lives: loops with an owner, readiness, and an ordered end.

Owns: the stages of a shutdown. SIGTERM turns readiness off, waits for load balancers, then ends
stage after stage: INTAKE (no new work), WORK (what is under way), RELAY (what must still leave),
LAST (leases). Always holds: a loop that fails takes the process down with exit code 1, and the rest
ends in order; no stage is waited for longer than its bound.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import uvloop
from loguru import logger

from services.chassis.breaker import breaker_states
from services.chassis.errors import ModelyardError
from services.chassis.settings import ShutdownSettings
from services.chassis.telemetry.loop_gap import watch_event_loop

Run = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
Check = Callable[[], Awaitable[object]]
_CHECK_TIMEOUT_S = 2.0
_FULL_COLLECTIONS_RARER_BY = 10
"""Than Python has them. Most garbage is collected young."""


class Stage(IntEnum):
    """When in the shutdown a loop is told to stop."""

    INTAKE = 1
    WORK = 2
    RELAY = 3
    LAST = 4


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """Whether requests should come here, and each check's answer ("ok" or a reason)."""

    is_ready: bool
    checks: Mapping[str, str]
    advisories: Mapping[str, str]
    """What is not well, though requests are answered."""
    breakers: Mapping[str, str]
    """State of each edge to a neighbour."""

    def told(self, *, is_verbose: bool) -> dict[str, object]:
        """Return it as `/readyz` tells it."""
        told: dict[str, object] = {"ready": self.is_ready}
        if is_verbose:
            told["checks"] = dict(self.checks)
            told["advisories"] = dict(self.advisories)
            told["breakers"] = dict(self.breakers)
        return told


class Readiness:
    """Named checks; ready when none fails and the process is not leaving."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._advisories: dict[str, Check] = {}
        self._is_leaving = False

    def add(self, name: str, check: Check) -> None:
        """Add a check that raises when what it checks is not there."""
        self._checks[name] = check

    def advise(self, name: str, check: Check) -> None:
        """Add a check whose answer is told, and turns no requests away."""
        self._advisories[name] = check

    def leave(self) -> None:
        """Be not ready from now on."""
        self._is_leaving = True

    async def is_ready(self) -> bool:
        """Run the checks; tell whether all passed."""
        return (await self.report()).is_ready

    async def report(self) -> ReadinessReport:
        """Run the checks at once, each for at most two seconds."""
        checks, advisories = await asyncio.gather(
            _answers(self._checks), _answers(self._advisories)
        )
        if self._is_leaving:
            checks["process"] = "leaving"
        is_ready = all(answer == "ok" for answer in checks.values())
        return ReadinessReport(is_ready, checks, advisories, breaker_states())


async def _answers(checks: Mapping[str, Check]) -> dict[str, str]:
    answers = await asyncio.gather(*(_answer(check) for check in checks.values()))
    return dict(zip(checks, answers, strict=True))


async def _answer(check: Check) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check()
    except ModelyardError as error:
        return error.message
    except TimeoutError:
        return f"no answer within {_CHECK_TIMEOUT_S:g} s"
    except Exception as error:  # noqa: BLE001 a check that fails in any way is a reason
        return f"{type(error).__name__}: {error}"[:200]
    return "ok"


@dataclass(frozen=True, slots=True)
class _Loop:
    name: str
    run: Run
    stage: Stage
    stopping: asyncio.Event


@dataclass(slots=True)
class Supervisor:
    """Owns the process's loops."""

    _loops: list[_Loop] = field(default_factory=list)

    def add(self, name: str, run: Run, stage: Stage) -> None:
        """Add a loop; `run` is to return soon after its event is set, and not before."""
        self._loops.append(_Loop(name, run, stage, asyncio.Event()))

    async def run(
        self, stop: asyncio.Event, readiness: Readiness, settings: ShutdownSettings
    ) -> bool:
        """Run all loops until `stop` or until one ends; tell whether all ended as asked."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                (entry, group.create_task(_kept(entry), name=entry.name)) for entry in self._loops
            ]
            stopped = group.create_task(stop.wait(), name="stop")
            await asyncio.wait(
                [stopped, *(task for _, task in tasks)], return_when=asyncio.FIRST_COMPLETED
            )
            is_asked = stop.is_set()
            stopped.cancel()
            readiness.leave()
            logger.info("leaving", because="asked to" if is_asked else "a loop ended")
            if is_asked:
                await asyncio.sleep(settings.drain_wait.total_seconds())
            for stage in Stage:
                await _end([pair for pair in tasks if pair[0].stage is stage], settings)
        return is_asked and all(task.cancelled() or task.result() for _, task in tasks)


async def _kept(entry: _Loop) -> bool:
    """Run a loop to its end; tell whether it ended as asked.

    Its failure stays here: it would make the task group end all other loops at once, in no order.
    """
    try:
        await entry.run(entry.stopping)
    except Exception as error:  # noqa: BLE001 whatever it is, the other loops end in order
        logger.opt(exception=error).error("loop failed", loop=entry.name)
        return False
    if not entry.stopping.is_set():
        logger.error("loop ended unasked", loop=entry.name)
        return False
    return True


async def _end(
    ending: Sequence[tuple[_Loop, asyncio.Task[bool]]], settings: ShutdownSettings
) -> None:
    """Ask one stage's loops to end; cancel those that take too long."""
    for entry, _ in ending:
        entry.stopping.set()
    if not ending:
        return
    bound_s = settings.stage_timeout.total_seconds()
    _, late = await asyncio.wait([task for _, task in ending], timeout=bound_s)
    for task in late:
        logger.warning("loop did not stop in time", loop=task.get_name())
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=bound_s)


async def run_until_stopped(
    supervisor: Supervisor, readiness: Readiness, settings: ShutdownSettings
) -> int:
    """Run until SIGTERM or SIGINT, or until a loop fails; return the process's exit code."""
    # What is here by now stays: without this each full collection walks it, which takes 70 ms.
    # What comes may stay for long too: 100,000 small things that do take 20 to 40.
    gc.collect()
    gc.freeze()
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, old * _FULL_COLLECTIONS_RARER_BY)
    supervisor.add("event-loop-gap", watch_event_loop, Stage.LAST)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        return 0 if await supervisor.run(stop, readiness, settings) else 1
    finally:
        gc.set_threshold(young, middle, old)
        gc.unfreeze()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def run_main(main: Coroutine[Any, Any, int]) -> int:
    """Run a process's main coroutine and return its exit code."""
    try:
        return uvloop.run(main)
    except KeyboardInterrupt:
        return 130
    finally:
        sys.stdout.flush()
