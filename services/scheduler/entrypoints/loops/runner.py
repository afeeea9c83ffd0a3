"""A node's loop: run what is placed on it.

Owns: when which attempt is looked at. Every open attempt of the node has a task of its own, which
takes one step after another and waits between them for news: a commit, its container's exit, or a
pause that the last step asked for. What the step is, the use case decides. A step that moves files
is cut short when its owner is asked to stop: they may take minutes, and most of them nobody wants.

Only the holder of the lease `node/<node id>` acts. When the lease or the process goes, the tasks
end and the containers stay: the next holder finds them.

While the container runtime is away no step is taken: every one needs it, and none of an attempt's
patience is spent on waiting for it. When it is back all go on at once, as if they had just begun.

A node that was given up for lost takes work again after the first whole clean-up by whoever holds
its lease: then nothing of the attempts that were ended meanwhile is left.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final

from loguru import logger

from services.chassis.db.lease import HeldLease, LeaseKeeper
from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.waiting import is_set_within
from services.chassis.waking import Waking
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.identities import AttemptId
from services.scheduler.entrypoints.loops.runtime_watch import RuntimeWatch
from services.scheduler.use_cases.attempts.clean_up_containers import CleanUpContainers
from services.scheduler.use_cases.attempts.drive_attempt import (
    AGAIN,
    AttemptMemory,
    DriveAttempt,
)
from services.scheduler.use_cases.attempts.keep_node import KeepNode

_NEWS_WAIT_MAX: Final = timedelta(seconds=5)
"""Fallback only: what a step waits for is read within the loop's own interval."""
_TOLD_MAX: Final = 10
"""Of what one pass over many containers failed at."""


@dataclass(frozen=True, slots=True)
class RunnerIntervals:
    """How often the loop does what nothing wakes it for."""

    heartbeat: timedelta = timedelta(seconds=1)
    """From one ping of the runtime, whose answer it carries, to the next."""
    clean_up: timedelta = timedelta(seconds=20)
    """What runs though its attempt is over runs for so long, and its grace."""
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
    turn: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    """Around the step under way; without an end, unless it is cut short."""

    def learn(self, work: AttemptWork | None) -> None:
        """Take in what was read; only a change is news."""
        before, self.work = self.work, work
        if work == before:
            return
        was_to_go_on = before is not None and not before.should_end
        self.news.set()
        if was_to_go_on and (work is None or work.should_end) and self.memory.is_moving_files:
            self.turn.reschedule(asyncio.get_running_loop().time())

    def start_over(self) -> None:
        """Look at once: what failed since the runtime went away has not failed by itself."""
        self.memory.hindered_since = None
        self.failure_count = 0
        self.news.set()


class _NodeLeft(Exception):
    """Ends the tasks of a node that this process does not hold any more."""


@dataclass(slots=True)
class RunnerLoop:
    """Drives the open attempts of one node while this process holds its lease."""

    node: KeepNode
    drive: DriveAttempt
    clean_up: CleanUpContainers
    watch: RuntimeWatch
    lease: LeaseKeeper
    waking: Waking
    intervals: RunnerIntervals
    _offered: list[AttemptWork] = field(default_factory=list)

    def offer(self, works: Iterable[AttemptWork]) -> None:
        """Begin with what this process has just placed here, without waiting until it is read.

        What is another node's is passed over, and so is what comes while this process has not the
        node: whoever has it reads what is placed there.
        """
        if self.lease.held is not None:
            own = self.node.node_id
            self._offered += [work for work in works if work.attempt.node_id == own]
            self.waking.wake()

    async def run(self, stopping: asyncio.Event) -> None:
        """Work while the lease is held, until `stopping` is set."""
        while not stopping.is_set():
            if (held := self.lease.held) is not None:
                await self._run_node(held, stopping)
            else:
                await self.watch.look()  # who stands by tells whether it could take over
            await self.waking.wait()

    async def _run_node(self, held: HeldLease, stopping: asyncio.Event) -> None:
        await self.watch.look()
        try:
            is_lost = await self.node.register(held, is_runtime_up=self.watch.is_up)
        except Exception as error:  # noqa: BLE001 whatever it is, the next turn tries again
            _tell("node not registered", error)
            return
        logger.info("node taken over", node_id=self.node.node_id, epoch=held.epoch, is_lost=is_lost)
        await _done("node not tidied", self.watch.runtime.tidy)
        attended: dict[AttemptId, _Attended] = {}
        self._offered.clear()  # by who held the node before, it may have been begun
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._repeat_heartbeat(held, attended))
                tasks.create_task(self._repeat_clean_up(held, is_lost=is_lost))
                look = partial(self._look, attended, tasks)
                # What is found at first may have a container; what is placed later has none yet.
                is_taken_over = await _done("attempts not read", partial(look, are_new=False))
                while self.lease.held == held and not stopping.is_set():
                    await self.waking.wait()
                    self._attend_offered(attended, tasks)
                    seen = partial(look, are_new=is_taken_over)
                    is_taken_over |= await _done("attempts not read", seen)
                raise _NodeLeft
        except* _NodeLeft:
            logger.info("node left", node_id=self.node.node_id, epoch=held.epoch)

    async def _look(
        self, attended: dict[AttemptId, _Attended], tasks: asyncio.TaskGroup, *, are_new: bool
    ) -> None:
        """Give every attempt's task what is recorded now; begin those of others."""
        works = {work.attempt.id: work for work in await self.node.open_attempts()}
        for attempt_id in attended.keys() - works.keys():
            attended.pop(attempt_id).learn(None)
        for attempt_id, work in works.items():
            if attempt_id in attended:
                attended[attempt_id].learn(work)
            else:
                memory = AttemptMemory.of_new(work) if are_new else AttemptMemory()
                self._begin(attended, tasks, work, memory)

    def _attend_offered(
        self, attended: dict[AttemptId, _Attended], tasks: asyncio.TaskGroup
    ) -> None:
        for work in self._offered:
            if work.attempt.id not in attended:
                self._begin(attended, tasks, work, AttemptMemory.of_new(work))
        self._offered.clear()

    def _begin(
        self,
        attended: dict[AttemptId, _Attended],
        tasks: asyncio.TaskGroup,
        work: AttemptWork,
        memory: AttemptMemory,
    ) -> None:
        attended[work.attempt.id] = _Attended(work, memory)
        tasks.create_task(self._attend(attended[work.attempt.id]))

    async def _attend(self, attended: _Attended) -> None:
        """Take step after step until the attempt is over."""
        watch: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as watches:
            while (work := attended.work) is not None:
                attended.news.clear()
                pause = await self._step(attended, work) if self.watch.is_up else _NEWS_WAIT_MAX
                if attended.memory.is_running and (watch is None or watch.done()):
                    watch = watches.create_task(self._watch_exit(attended, work))
                await is_set_within(attended.news, pause.total_seconds())
            if watch is not None:
                watch.cancel()
        if count := attended.memory.progress.malformed_count:
            logger.info("progress lines ignored", line_count=count)

    async def _step(self, attended: _Attended, work: AttemptWork) -> timedelta:
        attended.turn = asyncio.timeout(None)
        try:
            async with attended.turn:
                with _cancelled_by_nobody_else():
                    pause = await self.drive(work, attended.memory)
        except Exception as error:  # noqa: BLE001 a bug that one attempt meets stops no other one
            if attended.turn.expired():  # what it was moving nobody wants any more
                return AGAIN
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
        if await _done("exit not awaited", lambda: self.watch.runtime.wait_exit(name)):
            # It runs no more; while no step is taken, nobody would find that out by waiting again.
            attended.memory.is_running = False
            attended.news.set()

    async def _repeat_heartbeat(
        self, held: HeldLease, attended: Mapping[AttemptId, _Attended]
    ) -> None:
        while True:
            if await self.watch.look():
                for each in attended.values():
                    each.start_over()
            heartbeat = partial(self.node.heartbeat, held, is_runtime_up=self.watch.is_up)
            await _done("heartbeat failed", heartbeat)
            await asyncio.sleep(self.intervals.heartbeat.total_seconds())

    async def _repeat_clean_up(self, held: HeldLease, *, is_lost: bool) -> None:
        while True:
            is_clean = self.watch.is_up and await _done("containers not cleaned up", self.clean_up)
            if is_lost and is_clean:
                # Nothing is left of what was ended meanwhile, and nobody else ends more of it.
                come_back = partial(self.node.come_back, held)
                is_lost = not await _done("lost node not back", come_back)
            await asyncio.sleep(self.intervals.clean_up.total_seconds())


@contextmanager
def _cancelled_by_nobody_else() -> Iterator[None]:
    """Make a failure of a cancellation that this task was not asked for.

    grpc.aio cancels its caller when the file that a request is read from can't be read. The task
    would end without a word, and nobody would attend its attempt any more.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable("what the step was waiting for") from error


async def _done(failure: str, act: Callable[[], Awaitable[object]]) -> bool:
    """Act; tell whether it worked. What fails is tried again by whoever loops."""
    try:
        await act()
    except Exception as error:  # noqa: BLE001 whatever it is, the node's other attempts go on
        _tell(failure, error)
        return False
    return True


def _tell(failure: str, error: Exception, **fields: object) -> None:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions[:_TOLD_MAX]:
            _tell(failure, each, failure_count=len(error.exceptions), **fields)
    elif isinstance(error, ModelyardError):
        logger.warning(failure, error=error.message, **fields)
    else:
        logger.opt(exception=error).error(failure, **fields)
