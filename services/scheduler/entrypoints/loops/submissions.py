"""Submissions that share a commit.

Owns: which go together, and who hears of what. While one group is under way the next one gathers,
so nobody waits for others to come: alone a submission goes at once, and under load groups grow by
themselves (ADR-0023). A caller that gives up is answered no more; its job may be queued.

Always holds: groups follow each other; two submissions of one tenant and key are never in the same
one; a group that fails as a whole is taken apart, so that only who caused it hears of it.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from loguru import logger
from opentelemetry.context import Context

from services.chassis.errors import ModelyardError, QueueFull, Unavailable
from services.chassis.telemetry.tracing import links_to, tracer
from services.chassis.tenancy import TenantId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import JobSpec
from services.scheduler.telemetry import SUBMISSIONS_TOGETHER
from services.scheduler.use_cases.jobs.submit_jobs import Submission, SubmitJobs
from services.scheduler.use_cases.ports import RequestKey


@dataclass(frozen=True, slots=True)
class _Waiting:
    submission: Submission
    answer: asyncio.Future[Job]
    context: contextvars.Context
    """The caller's: what is done for it alone belongs to its trace."""


@dataclass(slots=True)
class Submissions:
    """Takes one submission, and gives it to the use case with those that came meanwhile."""

    submit_jobs: SubmitJobs
    together_max: int
    waiting_max: int
    retry_after: timedelta
    _line: deque[_Waiting] = field(default_factory=deque)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(
        self, tenant: TenantId, spec: JobSpec, *, key: RequestKey | None, traceparent: str | None
    ) -> Job:
        """Return the queued job, or for a repeated request the job that the first one made."""
        if len(self._line) >= self.waiting_max:
            raise QueueFull("submissions", limit=self.waiting_max, retry_after=self.retry_after)
        waiting = _Waiting(
            Submission(tenant, spec, key, traceparent),
            asyncio.get_running_loop().create_future(),
            contextvars.copy_context(),
        )
        self._line.append(waiting)
        self._news.set()
        return await waiting.answer

    async def run(self, stopping: asyncio.Event) -> None:
        """Answer until `stopping` is set and nobody waits any more."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wake_when(stopping))
            while self._line or not stopping.is_set():
                if not self._line:
                    self._news.clear()
                    await self._news.wait()
                elif len(group := self._next_group()) == 1:
                    await tasks.create_task(self._answer(group), context=group[0].context)
                elif group:
                    await self._answer_together(group)

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._news.set()

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        keys = set()
        while self._line and len(group) < self.together_max:
            asked = self._line[0].submission
            identity = (asked.tenant, asked.key.key) if asked.key is not None else None
            if identity is not None and identity in keys:
                break  # its twin's answer is its own
            keys.add(identity)
            waiting = self._line.popleft()
            if not waiting.answer.done():
                group.append(waiting)
        SUBMISSIONS_TOGETHER.observe(len(group))
        return group

    async def _answer_together(self, group: Sequence[_Waiting]) -> None:
        # An own trace, begun in an empty context: it belongs to all of them.
        with tracer(__name__).start_as_current_span(
            "submit jobs",
            context=Context(),
            links=links_to(each.submission.traceparent for each in group),
            attributes={"modelyard.submissions.count": len(group)},
        ):
            await self._answer(group)

    async def _answer(self, group: Sequence[_Waiting]) -> None:
        try:
            answers = await self.submit_jobs([each.submission for each in group])
        except Unavailable as error:  # nobody of them is to blame, nor would do better alone
            _fail(group, error)
        except Exception as error:  # noqa: BLE001 whatever it is, only its cause must hear of it
            if len(group) == 1:
                _fail(group, error)
                return
            logger.warning("submissions taken apart", count=len(group), error=type(error).__name__)
            for each in group:
                await self._answer([each])
        else:
            for each, answer in zip(group, answers, strict=True):
                if isinstance(answer, ModelyardError):
                    _fail([each], answer)
                elif not each.answer.done():
                    each.answer.set_result(answer)


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for each in group:
        if not each.answer.done():
            each.answer.set_exception(error)
