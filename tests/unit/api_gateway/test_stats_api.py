"""`/v1/stats`: how a tenant's jobs have fared, as the edge tells it."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from modelyard.scheduler.v1 import job_pb2
from modelyard.scheduler.v1 import job_stats_pb2 as pb

from tests.unit.api_gateway.edge import Edge, FakeJobs


def lasting(length_s: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=length_s))
    return duration


STATS = pb.JobStats(
    waits=[
        pb.JobWaits(
            queue="nightly",
            priority=50,
            waited=pb.JobTimes(job_count=3, p50=lasting(90), p99=lasting(3_605.5)),
        )
    ],
    ends=[pb.JobEnds(state=job_pb2.JOB_STATE_CANCELLED, job_count=2, ran=pb.JobTimes())],
    is_whole=True,
)
STATS.since.FromSeconds(1)
STATS.until.FromSeconds(86_401)


async def test_stats_are_shown_in_seconds_and_without_what_no_job_has() -> None:
    edge = Edge(jobs=FakeJobs(stats=STATS))
    async with edge.client(key=await edge.key("jobs:read")) as client:
        answer = await client.get("/v1/stats")

    assert answer.json() == {
        "since": "1970-01-01T00:00:01Z",
        "until": "1970-01-02T00:00:01Z",
        "waits": [
            {
                "queue": "nightly",
                "priority": 50,
                "waited": {"job_count": 3, "p50_s": 90.0, "p99_s": 3605.5},
            }
        ],
        "ends": [
            {
                "state": "CANCELLED",
                "job_count": 2,
                "ran": {"job_count": 0, "p50_s": None, "p99_s": None},
            }
        ],
        "is_whole": True,
    }
    [request] = edge.jobs.stats_asked
    assert request.window.ToTimedelta() == timedelta(days=1)


@pytest.mark.parametrize("window", ["PT1S", "P30D"])
async def test_a_window_is_passed_on(window: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read")) as client:
        assert (await client.get(f"/v1/stats?window={window}")).status_code == 200
    assert len(edge.jobs.stats_asked) == 1


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ("PT0S", "must be at least 1 s; PT0S was asked for"),
        ("P31D", "must be at most 30 days; P31D was asked for"),
    ],
)
async def test_a_window_out_of_bounds_is_told_what_they_are(window: str, told: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read")) as client:
        refusal = (await client.get(f"/v1/stats?window={window}")).json()
    assert refusal["errors"] == [{"field": "window", "problem": told}]


@pytest.mark.parametrize("window", ["PT0S", "-P1D", "P30DT1S", "86400", "day", ""])
async def test_a_window_out_of_bounds_is_refused_by_name(window: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read")) as client:
        answer = await client.get(f"/v1/stats?window={window}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["window"]
    assert edge.jobs.stats_asked == []


async def test_stats_need_the_scope_of_jobs() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("models:read")) as client:
        assert (await client.get("/v1/stats")).status_code == 403
