"""`/v1/{jobs,deployments}/{id}/logs`: output as JSON pages, or live as server-sent events.

The position `<attempt>.<sequence>` is the id of each event, so that a client that lost its
connection goes on from `Last-Event-ID` without gap or repeat.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from modelyard.logs.v1 import log_record_pb2 as pb
from modelyard.logs.v1 import log_service_pb2 as service_pb
from modelyard.scheduler.v1 import deployment_service_pb2 as deployments_pb
from modelyard.scheduler.v1 import job_service_pb2 as jobs_pb
from pydantic import BaseModel, Field

from services.api_gateway.entrypoints.rest.access import needs
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import Body, Id, instant
from services.chassis.errors import ModelyardError
from services.chassis.web.problem import problem_of

Stream = Literal["stdout", "stderr"]
EVENT_STREAM = "text/event-stream"


class LogQuery(Body):
    """Which output."""

    after: str = Field(
        default="", pattern=r"^(\d{1,9}\.\d{1,18})?$", description="Position: attempt.sequence."
    )
    follow: bool = Field(default=False, description="Live, as server-sent events.")
    contains: str = Field(default="", max_length=500)
    stream: Stream | None = None
    attempt: int = Field(default=0, ge=0, le=1_000_000, description="0: all.")
    limit: int = Field(default=500, ge=1, le=5000)


class LogRecord(BaseModel):
    """One line of output."""

    position: str
    attempt_id: str
    attempt_number: int
    sequence: int
    stream: str
    time: datetime
    text: str
    is_cut: bool
    """Longer than a record may be; the next one goes on with it."""
    is_gap: bool
    """No output: here some may be missing, and why."""

    @staticmethod
    def from_pb(record: pb.LogRecord) -> "LogRecord":
        """Return the JSON form."""
        return LogRecord.model_construct(
            position=f"{record.attempt_number}.{record.sequence}",
            attempt_id=record.attempt_id,
            attempt_number=record.attempt_number,
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
    router = APIRouter(prefix="/v1", tags=["logs"])
    burst = edge.burst_limiter.limit(edge.policies.burst)

    async def job_exists(edge: Gateway, job_id: str) -> str:
        return (await edge.jobs.get(jobs_pb.GetJobRequest(job_id=job_id))).job.id

    async def deployment_exists(edge: Gateway, name: str) -> str:
        answer = await edge.deployments.get(deployments_pb.GetDeploymentRequest(deployment=name))
        return answer.deployment.id

    def add(
        path: str, owner: Callable[[Gateway, str], Awaitable[str]], name: str, owner_scope: str
    ) -> None:
        async def read(
            request: Request,
            owner_id: Id,
            query: Annotated[LogQuery, Query()],
            last_event_id: Annotated[
                str | None, Header(pattern=r"^\d{1,9}\.\d{1,18}$", max_length=40)
            ] = None,
        ) -> Response:
            """Read output; with `follow`, live as server-sent events until it is complete."""
            found = await owner(gateway(request), owner_id)
            position = _position(last_event_id or query.after)
            narrowed = service_pb.LogFilter(
                contains=query.contains,
                source=_source(query.stream),
                attempt_number=query.attempt,
            )
            if query.follow:
                records = gateway(request).logs.follow(
                    service_pb.FollowLogsRequest(owner_id=found, after=position, filter=narrowed)
                )
                return StreamingResponse(
                    _events(records),
                    media_type=EVENT_STREAM,
                    headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
                )
            page = await gateway(request).logs.read(
                service_pb.ReadLogsRequest(
                    owner_id=found, after=position, record_count_max=query.limit, filter=narrowed
                )
            )
            body = LogPage(
                records=[LogRecord.from_pb(record) for record in page.records],
                next=f"{page.next.attempt_number}.{page.next.sequence}",
                is_complete=page.complete,
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

    add("/jobs/{owner_id}/logs", job_exists, "read_job_logs", "jobs:read")
    add(
        "/deployments/{owner_id}/logs",
        deployment_exists,
        "read_deployment_logs",
        "deployments:read",
    )
    return router


async def _events(
    answers: AsyncGenerator[service_pb.FollowLogsResponse, None],
) -> AsyncIterator[str]:
    """Render answers as events `log`, then `complete`, or `problem` after which to resume."""
    # At once, so that the client knows that it is connected before the first line.
    yield ": following\n\n"
    try:
        async with aclosing(answers):
            async for answer in answers:
                for record in answer.records:
                    line = LogRecord.from_pb(record)
                    yield f"id: {line.position}\nevent: log\ndata: {line.model_dump_json()}\n\n"
                if answer.complete:
                    yield "event: complete\ndata: {}\n\n"
                    return
    except ModelyardError as error:
        yield f"event: problem\ndata: {json.dumps(problem_of(error).body)}\n\n"


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
