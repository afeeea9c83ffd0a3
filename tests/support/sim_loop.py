"""An event loop whose time is virtual and whose order is a seed's.

Owns: `SimLoop`, on which whatever is ready runs in an order that a seeded `Random` picks, and on
which time stands still while something runs and leaps to the next timer when nothing does; and
`SimProcess`, tasks that are frozen, thawed and killed together, as a process is by signals. Leaves
to `tests/simulation` what runs on it, and that a killed process reaches nobody any more.

Always holds: with the same seed the same tasks run in the same order at the same times, in every
run; when nothing is left that could wake anybody, `Deadlock` says so.
"""

import asyncio
import itertools
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, Final, TypeVar

from typing_extensions import override

T = TypeVar("T")

RUN_COUNT_MAX: Final = 100_000
"""Callbacks that may run at one instant."""

_process: ContextVar["SimProcess | None"] = ContextVar("sim_process", default=None)
"""Whose memory the running code belongs to; None: it is outside of all processes."""


class Deadlock(Exception):
    """Everybody waits, and nothing can wake them: neither a timer nor anything that is ready."""


class Livelock(Exception):
    """So much has run that time should have passed, and it did not."""


class SimLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` begins at 0 and counts virtual seconds."""

    def __init__(self, chance: Random) -> None:
        self._now_s = 0.0
        super().__init__(_Leaping(self))
        self._ready = _Shuffled(chance)
        self._numbers = itertools.count()
        self.set_task_factory(self._numbered)

    @override
    def time(self) -> float:
        return self._now_s

    def leap(self, seconds: float) -> None:
        """Let time pass; for the selector."""
        self._now_s += seconds
        if seconds > 0:
            self._ready.run_count = 0

    def make_ready(self, handles: "list[asyncio.Handle]") -> None:
        """Let handles that were put aside run."""
        self._ready.extend(handles)

    def _numbered(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **given: Any
    ) -> asyncio.Future[Any]:
        return _Numbered(coroutine, number=next(self._numbers), loop=loop, **given)


class SimProcess:
    """Tasks that live and die together; what they create belongs to the process, too."""

    def __init__(self, name: str, loop: SimLoop) -> None:
        self.name = name
        self.is_dead = False
        self.is_frozen = False
        self._loop = loop
        self._put_aside: list[asyncio.Handle] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run a coroutine as a task of this process."""
        assert not self.is_dead, f"{self.name} is dead"
        task = self.context().run(self._loop.create_task, coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def context(self) -> Context:
        """Return a context for callbacks of this process."""
        context = copy_context()
        context.run(_process.set, self)
        return context

    def freeze(self) -> None:
        """Run nothing of it from now on, as after SIGSTOP; the time of its timers comes anyway."""
        self.is_frozen = True

    def thaw(self) -> None:
        """Let all of it go on where it was."""
        self.is_frozen = False
        handles, self._put_aside = self._put_aside, []
        self._loop.make_ready(handles)

    def kill(self) -> None:
        """End all of its tasks, as SIGKILL does.

        Their `finally` blocks run, since nothing else frees what they hold in this interpreter;
        whoever connects them with others refuses a caller that `is_dead`.
        """
        self.is_dead = True
        self.thaw()
        for task in self._tasks:
            task.cancel()

    async def gone(self) -> None:
        """Return when a killed process has no task any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def put_aside(self, handle: asyncio.Handle) -> None:
        """Keep a handle until it is thawed."""
        self._put_aside.append(handle)


def current_process() -> SimProcess | None:
    """Return the process whose code runs; None outside of all processes."""
    return _process.get()


def outside(act: Callable[[], T]) -> T:
    """Call something that is to belong to no process, whoever's code runs now."""
    context = copy_context()
    context.run(_process.set, None)
    return context.run(act)


class _Numbered(asyncio.Task[T]):
    """A task whose hash is its number: sets of tasks are walked alike in every run."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, number: int, **given: Any) -> None:
        self._number = number
        super().__init__(coroutine, **given)

    __eq__ = object.__eq__

    @override
    def __hash__(self) -> int:
        return self._number


class _Shuffled(deque[asyncio.Handle]):
    """What is ready; the next one is any of it, but for what belongs to a frozen process."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance
        self.run_count = 0
        """What has run since time last passed."""

    @override
    def popleft(self) -> asyncio.Handle:
        self.run_count += 1
        if self.run_count > RUN_COUNT_MAX:
            raise Livelock(f"{self.run_count} callbacks have run at one instant")
        while self:
            self.rotate(-self._chance.randrange(len(self)))
            handle = super().popleft()
            owner = handle._context.get(_process)  # type: ignore[attr-defined]
            if owner is None or not owner.is_frozen:
                return handle
            owner.put_aside(handle)
        return _NOTHING


class _Nothing(asyncio.Handle):
    """A handle that does nothing; the loop passes over what is cancelled."""

    def __init__(self) -> None:
        self._cancelled = True


_NOTHING: Final = _Nothing()


class _Leaping(selectors.DefaultSelector):
    """Waits for no file: time leaps instead."""

    def __init__(self, loop: SimLoop) -> None:
        super().__init__()
        self._loop = loop

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("nothing is ready, and no timer is set")
        self._loop.leap(max(0.0, timeout))
        return []


def run_simulated(main: Coroutine[Any, Any, T], chance: Random) -> T:
    """Run a coroutine to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=lambda: SimLoop(chance)) as runner:
        return runner.run(main)
