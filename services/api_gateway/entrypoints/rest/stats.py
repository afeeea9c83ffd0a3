"""`/v1/stats`: how a tenant's jobs have fared."""

from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from google.protobuf.duration_pb2 import Duration
from modelyard.scheduler.v1 import job_service_pb2 as service_pb
from modelyard.scheduler.v1 import job_stats_pb2 as pb
from pydantic import BaseModel, Field

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import (
    IsoDuration,
    duration_pb,
    instant,
)
from services.api_gateway.entrypoints.rest.jobs import JobState, job_state

WINDOW_DEFAULT: Final = timedelta(days=1)
Window = Annotated[
    IsoDuration,
    Query(
        ge=timedelta(seconds=1),
        le=timedelta(days=30),
        description="Up to now; an ISO 8601 duration.",
    ),
]


class JobTimes(BaseModel):
    """How long something took jobs, in seconds; null where there is no job."""

    job_count: int
    p50_s: float | None = Field(description="The median.")
    p99_s: float | None = Field(description="The 99th percentile, between two jobs in proportion.")

    @staticmethod
    def from_pb(times: pb.JobTimes) -> "JobTimes":
        """Return the JSON form."""
        return JobTimes.model_construct(
            job_count=times.job_count,
            p50_s=_seconds(times.p50) if times.HasField("p50") else None,
            p99_s=_seconds(times.p99) if times.HasField("p99") else None,
        )


class JobWaits(BaseModel):
    """How long the jobs of a group stood in line before they were first admitted."""

    queue: str
    priority: int
    waited: JobTimes


class JobEnds(BaseModel):
    """How many jobs have ended in a state, and how long they ran."""

    state: JobState
    job_count: int = Field(description="Those that never ran, too.")
    ran: JobTimes = Field(description="From the last start to the end, of those that ran.")


class JobStats(BaseModel):
    """How a tenant's jobs have fared in a window of time."""

    since: datetime
    until: datetime
    waits: list[JobWaits] = Field(
        description="Of the jobs that were admitted for the first time in it, by queue; larger "
        "priorities first."
    )
    ends: list[JobEnds] = Field(description="Of the jobs that ended in it, by state.")
    is_whole: bool = Field(
        description="False where there are more of the one or of the other than are looked at: "
        "the latest are told of."
    )

    @staticmethod
    def from_pb(stats: pb.JobStats) -> "JobStats":
        """Return the JSON form."""
        return JobStats.model_construct(
            since=instant(stats.since),
            until=instant(stats.until),
            waits=[
                JobWaits.model_construct(
                    queue=group.queue,
                    priority=group.priority,
                    waited=JobTimes.from_pb(group.waited),
                )
                for group in stats.waits
            ],
            ends=[
                JobEnds.model_construct(
                    state=job_state(group.state),
                    job_count=group.job_count,
                    ran=JobTimes.from_pb(group.ran),
                )
                for group in stats.ends
            ],
            is_whole=stats.is_whole,
        )


def stats_router(edge: Gateway) -> APIRouter:
    """Return the route on stats."""
    router = noun_router("/v1/stats", tag="jobs")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.get("", response_model=JobStats, dependencies=[needs("jobs:read")])
    @burst
    async def get_stats(request: Request, window: Window = WINDOW_DEFAULT) -> JobStats:
        """Show how long the tenant's jobs waited and ran in a window, and how they ended."""
        answer = await gateway(request).jobs.get_stats(
            service_pb.GetStatsRequest(window=duration_pb(window))
        )
        return JobStats.from_pb(answer.stats)

    return router


def _seconds(length: Duration) -> float:
    """Return a number: JSON Schema knows durations of whole seconds only."""
    return length.ToTimedelta().total_seconds()
