"""Which submissions go together, and who hears of what."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import pytest

from services.chassis.errors import (
    Conflict,
    InvalidArgument,
    ModelyardError,
    QueueFull,
    Unavailable,
)
from services.chassis.tenancy import TenantId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.entrypoints.loops.submissions import Submissions
from services.scheduler.use_cases.jobs.submit_jobs import Answer, Submission, SubmitJobs
from services.scheduler.use_cases.ports import RequestKey
from tests.unit.scheduler.builders import ACME, TRACEPARENT, UMBRELLA, a_job, a_spec

GATE = "the first one, while which others come"


@dataclass
class FakeSubmitJobs:
    """Queues what it is given, once the gate is open; keeps the names of each group."""

    groups: list[list[str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    fails: Callable[[Sequence[str]], Exception | None] = lambda _: None

    async def __call__(self, asked: Sequence[Submission]) -> Sequence[Answer]:
        names = [each.spec.name for each in asked]
        self.groups.append(names)
        await self.gate.wait()
        if (error := self.fails(names)) is not None:
            raise error
        return [
            InvalidArgument("spec.name", "is refused")
            if each.spec.name == "refused"
            else a_job(spec=each.spec, tenant=each.tenant)
            for each in asked
        ]


@dataclass
class Line:
    """Submissions under test, with the first one under way."""

    inner: FakeSubmitJobs
    submissions: Submissions
    tasks: asyncio.TaskGroup

    def submit(
        self, name: str, *, tenant: TenantId = ACME, key: str | None = None
    ) -> asyncio.Task[Answer]:
        return self.tasks.create_task(self._answer(name, tenant, key))

    async def _answer(self, name: str, tenant: TenantId, key: str | None) -> Answer:
        repeatable = None if key is None else RequestKey(key, b"hash")
        try:
            return await self.submissions(
                tenant, a_spec(name=name), key=repeatable, traceparent=TRACEPARENT
            )
        except ModelyardError as refusal:
            return refusal

    async def all_came(self) -> None:
        """Let what was submitted stand in line."""
        for _ in range(5):
            await asyncio.sleep(0)


def job_name(answer: Answer) -> str:
    assert isinstance(answer, Job)
    return answer.spec.name


@asynccontextmanager
async def a_line(*, together_max: int = 10, waiting_max: int = 10) -> AsyncIterator[Line]:
    inner = FakeSubmitJobs()
    submissions = Submissions(
        cast("SubmitJobs", inner), together_max, waiting_max, timedelta(seconds=5)
    )
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(submissions.run(stopping))
        line = Line(inner, submissions, tasks)
        first = line.submit(GATE)
        await line.all_came()
        yield line
        inner.gate.set()
        await first
        stopping.set()


async def test_who_comes_alone_goes_at_once_and_others_go_together() -> None:
    async with a_line() as line:
        waiting = [line.submit(name) for name in ("a", "b", "c")]
        await line.all_came()
        line.inner.gate.set()
        assert [job_name(await each) for each in waiting] == ["a", "b", "c"]
    assert line.inner.groups == [[GATE], ["a", "b", "c"]]


async def test_a_group_is_bounded() -> None:
    async with a_line(together_max=2) as line:
        for name in ("a", "b", "c"):
            line.submit(name)
    assert line.inner.groups == [[GATE], ["a", "b"], ["c"]]


async def test_twins_are_in_groups_of_their_own() -> None:
    async with a_line() as line:
        for name, tenant, key in (
            ("a", ACME, "k"),
            ("foreign", UMBRELLA, "k"),
            ("twin", ACME, "k"),
            ("b", ACME, None),
            ("c", ACME, None),
        ):
            line.submit(name, tenant=tenant, key=key)
    assert line.inner.groups == [[GATE], ["a", "foreign"], ["twin", "b", "c"]]


async def test_a_refusal_is_told_to_whom_it_concerns() -> None:
    async with a_line() as line:
        refused, taken = line.submit("refused"), line.submit("a")
        await line.all_came()
        line.inner.gate.set()
        assert isinstance(await taken, Job)
        assert isinstance(await refused, InvalidArgument)


async def test_a_group_that_fails_is_taken_apart() -> None:
    async with a_line() as line:
        line.inner.fails = lambda names: Conflict("job", "bad") if "bad" in names else None
        good, bad = line.submit("good"), line.submit("bad")
        await line.all_came()
        line.inner.gate.set()
        assert isinstance(await good, Job)
        assert isinstance(await bad, Conflict)
    assert line.inner.groups == [[GATE], ["good", "bad"], ["good"], ["bad"]]


async def test_while_the_database_is_away_nobody_is_asked_for_alone() -> None:
    async with a_line() as line:
        line.inner.fails = lambda names: Unavailable("database") if "a" in names else None
        waiting = [line.submit("a"), line.submit("b")]
        await line.all_came()
        line.inner.gate.set()
        for each in waiting:
            assert isinstance(await each, Unavailable)
    assert line.inner.groups == [[GATE], ["a", "b"]]


async def test_a_caller_that_gave_up_in_line_is_not_submitted() -> None:
    async with a_line() as line:
        given_up = line.submit("given up")
        line.submit("a")
        await line.all_came()
        given_up.cancel()
        await line.all_came()
    assert line.inner.groups == [[GATE], ["a"]]


async def test_a_caller_that_gives_up_meanwhile_spoils_nothing_for_the_others() -> None:
    async with a_line() as line:
        given_up, other = line.submit("given up"), line.submit("a")
        line.inner.gate.set()
        await line.all_came()
        given_up.cancel()
        assert isinstance(await other, Job)
    assert line.inner.groups == [[GATE], ["given up", "a"]]


async def test_a_full_line_says_so() -> None:
    async with a_line(waiting_max=2) as line:
        line.submit("a")
        line.submit("b")
        await line.all_came()
        with pytest.raises(QueueFull) as refusal:
            await line.submissions(ACME, a_spec(), key=None, traceparent=None)
    assert refusal.value.retry_after == timedelta(seconds=5)


async def test_who_waits_at_the_end_is_answered() -> None:
    inner = FakeSubmitJobs()
    submissions = Submissions(cast("SubmitJobs", inner), 10, 10, timedelta(seconds=5))
    stopping = asyncio.Event()
    stopping.set()
    async with asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(submissions(ACME, a_spec(), key=None, traceparent=None))
        await asyncio.sleep(0)
        tasks.create_task(submissions.run(stopping))
        inner.gate.set()
        assert (await answer).spec == a_spec()
