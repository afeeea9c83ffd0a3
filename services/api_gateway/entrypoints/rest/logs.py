"""`/v1/{jobs,deployments}/{id}/logs`: output as JSON pages, or live as server-sent events.

The position `<attempt>.<sequence>` is the id of each event, so that a client that lost its
connection goes on from `Last-Event-ID` without gap or repeat.

An event `quiet` says that there was no output for a while: who follows may look why. Who follows is
told nothing more once they would not be let in again: the stream ends with an event `problem`.

The log collector knows the attempts that there are, the scheduler whether another one follows: the
output of a job that is to be tried again is not complete.

An array of jobs prints nothing itself (ADR-0040): its output is complete from the start.

Of a job of several tasks the collector counts each task of each attempt as one (ADR-0037): of the
position the first part is that count, and what is read is all of task 0's, then all of task 1's.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from modelyard.logs.v1 import log_record_pb2 as pb
from modelyard.logs.v1 import log_service_pb2 as service_pb
from modelyard.scheduler.v1 import deployment_service_pb2 as deployments_pb
from modelyard.scheduler.v1 import job_pb2 as job_pb
from modelyard.scheduler.v1 import job_service_pb2 as jobs_pb
from pydantic import BaseModel, Field

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.admission import StillAdmitted
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import Body, Id, instant
from services.api_gateway.entrypoints.rest.words import in_request_words
from services.chassis.errors import ModelyardError, NotFound
from services.chassis.web.problem import problem_of

Stream = Literal["stdout", "stderr"]
EVENT_STREAM = "text/event-stream"


_TERMINAL: Final = frozenset(
    {job_pb.JOB_STATE_SUCCEEDED, job_pb.JOB_STATE_FAILED, job_pb.JOB_STATE_CANCELLED}
)
_PAUSE_MIN_S: Final = 0.05
_PAUSE_MAX_S: Final = 1.0
_LOOKS_MAX: Final = 15
"""At a job that waits for another attempt, in about 11 s; then the client is to come again."""

_Answers = AsyncGenerator[service_pb.FollowLogsResponse, None]


class _Next(Enum):
    """What comes after the output of the attempts that there were."""

    ATTEMPT = 1
    NOTHING = 2
    UNDECIDED = 3


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose output is read."""

    id: str
    may_print_more: bool
    """Though all of its attempts may have ended."""
    follow: Callable[[Gateway, service_pb.FollowLogsRequest], _Answers]
    attempt_count: int | None = None
    """How many attempts it has had; None where its owner does not count them."""
    task_count: int = 1
    prints_nothing: bool = False
    """It never has an attempt."""

    def place_of(self, attempt: int, task: int | None, *, after_place: int) -> int:
        """Return which part of the output is asked for, 0: all; raises NotFound.

        Each task of each attempt is one. Of an attempt alone it is task 0's, of a task alone that
        of the last attempt; or of the one that the reader is in, whatever has begun since.
        """
        if self.attempt_count is not None and attempt > self.attempt_count:
            raise NotFound("attempt", f"{attempt} of job {self.id}")
        if task is not None and task >= self.task_count:
            raise NotFound("task", f"{task} of {self.id}")
        if self.task_count == 1 or (attempt == 0 and task is None):
            return attempt
        attempt_read = -(-after_place // self.task_count)
        number = attempt or attempt_read or self.attempt_count or 1
        return (number - 1) * self.task_count + (task or 0) + 1


class LogQuery(Body):
    """Which output."""

    after: str = Field(
        default="",
        pattern=r"^([0-9]{1,9}\.[0-9]{1,18})?$",
        description="Position of a record; for a job of one task it is attempt.sequence.",
    )
    follow: bool = Field(default=False, description="Live, as server-sent events.")
    contains: str = Field(default="", max_length=1024)
    stream: Stream | None = None
    attempt: int = Field(
        default=0, ge=0, le=1_000_000, description="0: all. Of several tasks: task 0's."
    )
    task: int | None = Field(
        default=None,
        ge=0,
        lt=512,
        description="One of a job's tasks, in its last attempt if none is named; absent: all, one "
        "after another.",
    )
    limit: int = Field(default=500, ge=1, le=5000)


class LogRecord(BaseModel):
    """One line of output."""

    position: str
    attempt_id: str
    attempt_number: int
    task: int
    """Which of the job's tasks has printed it, from 0 on."""
    sequence: int
    stream: str
    time: datetime
    text: str
    is_cut: bool
    """Longer than a record may be; the next one goes on with it."""
    is_gap: bool
    """No output: here some may be missing, and why."""

    @staticmethod
    def from_pb(record: pb.LogRecord, *, task_count: int) -> "LogRecord":
        """Return the JSON form; of a job of one task the place in its output is the attempt."""
        attempts_before, task = divmod(record.attempt_number - 1, task_count)
        return LogRecord.model_construct(
            position=f"{record.attempt_number}.{record.sequence}",
            attempt_id=record.attempt_id,
            attempt_number=attempts_before + 1,
            task=task,
            sequence=record.sequence,
            stream=pb.LogSource.Name(record.source).removeprefix("LOG_SOURCE_").lower(),
            time=instant(record.time),
            text=record.text,
            is_cut=record.cut,
            is_gap=record.gap,
        )


class LogPage(BaseModel):
    """One page of output, oldest first."""

    records: list[LogRecord]
    next: str
    is_complete: bool


def logs_router(edge: Gateway) -> APIRouter:
    """Return the routes on output."""
    router = noun_router("/v1", tag="logs")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    async def job_of(edge: Gateway, job_id: str) -> _Owner:
        job = (await edge.jobs.get(jobs_pb.GetJobRequest(job_id=job_id))).job
        has_ended = job.state in _TERMINAL
        is_array = job.HasField("array")
        # The log collector would wait for the first attempt of a job that ended in line.
        is_silent = is_array or (has_ended and job.attempt_number == 0)
        return _Owner(
            job.id,
            may_print_more=not has_ended,
            prints_nothing=is_array,
            follow=_nothing if is_silent else _follow_job,
            attempt_count=job.attempt_number,
            task_count=job.spec.task_count or 1,
        )

    async def deployment_of(edge: Gateway, name: str) -> _Owner:
        answer = await edge.deployments.get(deployments_pb.GetDeploymentRequest(deployment=name))
        return _Owner(answer.deployment.id, may_print_more=False, follow=_follow)

    def add(
        path: str, owner: Callable[[Gateway, str], Awaitable[_Owner]], name: str, owner_scope: str
    ) -> None:
        async def read(
            request: Request,
            owner_id: Id,
            query: Annotated[LogQuery, Query()],
            last_event_id: Annotated[
                str, Header(pattern=r"^([0-9]{1,9}\.[0-9]{1,18})?$", max_length=40)
            ] = "",
        ) -> Response:
            """Read output; with `follow`, live as server-sent events until it is complete.

            Whoever would not be let in any more is told nothing more: an event `problem` ends it.
            """
            found = await owner(gateway(request), owner_id)
            position = _position(last_event_id or query.after)
            place = found.place_of(query.attempt, query.task, after_place=position.attempt_number)
            narrowed = service_pb.LogFilter(
                contains=query.contains,
                source=_source(query.stream),
                attempt_number=place,
            )
            if query.follow:
                follow = _follow if place and found.follow is not _nothing else found.follow
                records = follow(
                    gateway(request),
                    service_pb.FollowLogsRequest(
                        owner_id=found.id, after=position, filter=narrowed
                    ),
                )
                admitted = StillAdmitted.of(request, "logs:read", owner_scope)
                return StreamingResponse(
                    _events(records, admitted, task_count=found.task_count),
                    media_type=EVENT_STREAM,
                    headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
                )
            page = await gateway(request).logs.read(
                service_pb.ReadLogsRequest(
                    owner_id=found.id,
                    after=position,
                    record_count_max=query.limit,
                    filter=narrowed,
                )
            )
            may_print_more = found.may_print_more and not place
            body = LogPage(
                records=[
                    LogRecord.from_pb(record, task_count=found.task_count)
                    for record in page.records
                ],
                next=f"{page.next.attempt_number}.{page.next.sequence}",
                is_complete=found.prints_nothing or (page.complete and not may_print_more),
            )
            return Response(body.model_dump_json(), media_type="application/json")

        # slowapi counts by function name: two routes of one name would share a count, and each
        # request would count twice.
        read.__name__ = name
        router.add_api_route(
            path,
            burst(read),
            methods=["GET"],
            operation_id=name,
            dependencies=[needs("logs:read", owner_scope)],
            response_model=LogPage,
            responses={200: {"content": {EVENT_STREAM: {}}}},
        )

    add("/jobs/{owner_id}/logs", job_of, "read_job_logs", "jobs:read")
    add(
        "/deployments/{owner_id}/logs",
        deployment_of,
        "read_deployment_logs",
        "deployments:read",
    )
    return router


def _follow(edge: Gateway, request: service_pb.FollowLogsRequest) -> _Answers:
    return edge.logs.follow(request)


async def _nothing(_edge: Gateway, _request: service_pb.FollowLogsRequest) -> _Answers:
    yield service_pb.FollowLogsResponse(complete=True)


async def _follow_job(edge: Gateway, request: service_pb.FollowLogsRequest) -> _Answers:
    """Follow a job through attempts that are made while it is followed, until it has ended.

    Ends without `complete` when no attempt was made for a while: the client comes again.
    """
    while True:
        last_attempt_number = None
        async with aclosing(edge.logs.follow(request)) as answers:
            async for answer in answers:
                if answer.complete and answer.last_attempt_number:
                    last_attempt_number = answer.last_attempt_number
                    answer.complete = False
                    if not answer.records:
                        break
                yield answer
        if last_attempt_number is None:
            return
        match await _what_follows(edge, request.owner_id, last_attempt_number):
            case _Next.NOTHING:
                yield service_pb.FollowLogsResponse(complete=True)
                return
            case _Next.UNDECIDED:
                yield service_pb.FollowLogsResponse()
                return
        request.after.attempt_number, request.after.sequence = last_attempt_number + 1, 0


async def _what_follows(edge: Gateway, job_id: str, last_attempt_number: int) -> _Next:
    """Wait until a job has a later attempt, or has ended, within a bound."""
    pause_s = _PAUSE_MIN_S
    for _ in range(_LOOKS_MAX):
        job = (await edge.jobs.get(jobs_pb.GetJobRequest(job_id=job_id))).job
        if job.attempt_number * (job.spec.task_count or 1) > last_attempt_number:
            return _Next.ATTEMPT
        if job.state in _TERMINAL:
            return _Next.NOTHING
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_MAX_S)
    return _Next.UNDECIDED


async def _events(
    answers: _Answers, admitted: StillAdmitted, *, task_count: int
) -> AsyncIterator[str]:
    """Render answers as events `log`, then `complete`, or `problem` after which to resume.

    An answer of nothing is an event `quiet`.
    """
    # At once, so that the client knows that it is connected before the first line.
    yield ": following\n\n"
    try:
        async with aclosing(answers):
            async for answer in answers:
                await admitted.check()
                for record in answer.records:
                    line = LogRecord.from_pb(record, task_count=task_count)
                    yield f"id: {line.position}\nevent: log\ndata: {line.model_dump_json()}\n\n"
                if answer.complete:
                    yield "event: complete\ndata: {}\n\n"
                    return
                if not answer.records:
                    yield "event: quiet\ndata: {}\n\n"
    except ModelyardError as error:
        yield f"event: problem\ndata: {json.dumps(problem_of(in_request_words(error)).body)}\n\n"


def _position(text: str) -> service_pb.LogPosition:
    if not text:
        return service_pb.LogPosition()
    attempt, _, sequence = text.partition(".")
    return service_pb.LogPosition(attempt_number=int(attempt), sequence=int(sequence))


def _source(stream: Stream | None) -> pb.LogSource.ValueType:
    match stream:
        case None:
            return pb.LOG_SOURCE_UNSPECIFIED
        case "stdout":
            return pb.LOG_SOURCE_STDOUT
        case "stderr":
            return pb.LOG_SOURCE_STDERR
