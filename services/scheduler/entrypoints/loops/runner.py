"""A node's loop: run what is placed on it.

Owns: when which attempt is looked at. Every open attempt of the node has a task of its own, which
takes one step after another and waits between them for news: a commit, its container's exit, or a
pause that the last step asked for. What the step is, the use case decides.

Only the holder of the lease `node/<node id>` acts. When the lease or the process goes, the tasks
end and the containers stay: the next holder finds them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from loguru import logger

from services.chassis.db.lease import HeldLease, LeaseKeeper
from services.chassis.errors import ModelyardError
from services.chassis.waiting import is_set_within
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.identities import AttemptId
from services.scheduler.entrypoints.loops.waking import Waking
from services.scheduler.use_cases.attempts.clean_up_containers import CleanUpContainers
from services.scheduler.use_cases.attempts.drive_attempt import AttemptMemory, DriveAttempt
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from services.scheduler.use_cases.attempts.ports import ContainerRuntime

_NEWS_WAIT_MAX: Final = timedelta(seconds=5)
"""Fallback only: what a step waits for is read within the loop's own interval."""


@dataclass(frozen=True, slots=True)
class RunnerIntervals:
    """How often the loop does what nothing wakes it for."""

    heartbeat: timedelta = timedelta(seconds=2)
    clean_up: timedelta = timedelta(minutes=10)
    backoff_min: timedelta = timedelta(milliseconds=200)
    """After a step's first failure; it doubles with each further one."""
    backoff_max: timedelta = timedelta(seconds=15)


@dataclass(slots=True)
class _Attended:
    """An open attempt, as its task sees it."""

    work: AttemptWork | None
    """None once it is not open any more."""
    memory: AttemptMemory = field(default_factory=AttemptMemory)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    failure_count: int = 0

    def learn(self, work: AttemptWork | None) -> None:
        """Take in what was read; only a change is news."""
        if work != self.work:
            self.work = work
            self.news.set()


class _NodeLeft(Exception):
    """Ends the tasks of a node that this process does not hold any more."""


@dataclass(slots=True)
class RunnerLoop:
    """Drives the open attempts of one node while this process holds its lease."""

    node: KeepNode
    drive: DriveAttempt
    clean_up: CleanUpContainers
    runtime: ContainerRuntime
    lease: LeaseKeeper
    waking: Waking
    intervals: RunnerIntervals

    async def run(self, stopping: asyncio.Event) -> None:
        """Work while the lease is held, until `stopping` is set."""
        while not stopping.is_set():
            if (held := self.lease.held) is not None:
                await self._run_node(held, stopping)
            await self.waking.wait()

    async def _run_node(self, held: HeldLease, stopping: asyncio.Event) -> None:
        if not await _done("node not registered", lambda: self.node.register(held)):
            return
        logger.info("node taken over", node_id=self.node.node_id, epoch=held.epoch)
        attended: dict[AttemptId, _Attended] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._repeat_heartbeat(held))
                tasks.create_task(self._repeat_clean_up())
                while self.lease.held == held and not stopping.is_set():
                    await _done("attempts not read", lambda: self._look(attended, tasks))
                    await self.waking.wait()
                raise _NodeLeft
        except* _NodeLeft:
            logger.info("node left", node_id=self.node.node_id, epoch=held.epoch)

    async def _look(self, attended: dict[AttemptId, _Attended], tasks: asyncio.TaskGroup) -> None:
        """Give every attempt's task what is recorded now; begin those of new ones."""
        works = {work.attempt.id: work for work in await self.node.open_attempts()}
        for attempt_id in attended.keys() - works.keys():
            attended.pop(attempt_id).learn(None)
        for attempt_id, work in works.items():
            if attempt_id in attended:
                attended[attempt_id].learn(work)
            else:
                attended[attempt_id] = _Attended(work)
                tasks.create_task(self._attend(attended[attempt_id]))

    async def _attend(self, attended: _Attended) -> None:
        """Take step after step until the attempt is over."""
        watch: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as watches:
            while (work := attended.work) is not None:
                attended.news.clear()
                pause = await self._step(attended, work)
                if attended.memory.is_running and (watch is None or watch.done()):
                    watch = watches.create_task(self._watch_exit(attended, work))
                await is_set_within(attended.news, pause.total_seconds())
            if watch is not None:
                watch.cancel()
        if count := attended.memory.progress.malformed_count:
            logger.info("progress lines ignored", line_count=count)

    async def _step(self, attended: _Attended, work: AttemptWork) -> timedelta:
        try:
            pause = await self.drive(work, attended.memory)
        except Exception as error:  # noqa: BLE001 a bug that one attempt meets stops no other one
            attended.failure_count += 1
            _tell(
                "attempt's step failed",
                error,
                attempt_id=work.attempt.id,
                tenant=work.attempt.tenant,
                failure_count=attended.failure_count,
            )
            return self._backoff(attended.failure_count)
        attended.failure_count = 0
        return _NEWS_WAIT_MAX if pause is None else pause

    def _backoff(self, failure_count: int) -> timedelta:
        doubled = self.intervals.backoff_min * (1 << min(failure_count - 1, 10))
        return min(doubled, self.intervals.backoff_max)

    async def _watch_exit(self, attended: _Attended, work: AttemptWork) -> None:
        name = work.attempt.container_name
        if await _done("exit not awaited", lambda: self.runtime.wait_exit(name)):
            attended.news.set()

    async def _repeat_heartbeat(self, held: HeldLease) -> None:
        while True:
            await _done("heartbeat failed", lambda: self.node.heartbeat(held))
            await asyncio.sleep(self.intervals.heartbeat.total_seconds())

    async def _repeat_clean_up(self) -> None:
        while True:
            await _done("containers not cleaned up", self.clean_up)
            await asyncio.sleep(self.intervals.clean_up.total_seconds())


async def _done(failure: str, act: Callable[[], Awaitable[object]]) -> bool:
    """Act; tell whether it worked. What fails is tried again by whoever loops."""
    try:
        await act()
    except Exception as error:  # noqa: BLE001 whatever it is, the node's other attempts go on
        _tell(failure, error)
        return False
    return True


def _tell(failure: str, error: Exception, **fields: object) -> None:
    if isinstance(error, ModelyardError):
        logger.warning(failure, error=error.message, **fields)
    else:
        logger.opt(exception=error).error(failure, **fields)
