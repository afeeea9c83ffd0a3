"""Who follows output: as long as they would be let in, and no longer."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from services.api_gateway.domain.tenant import Plan, Tenant
from services.api_gateway.use_cases.recent import AGE_MAX
from services.chassis.errors import Unavailable
from tests.unit.api_gateway.edge import TENANT, Edge

FOLLOW = "/v1/jobs/job_1/logs?follow=true"


def expire(edge: Edge) -> None:
    """Let the only key end by itself."""
    edge.clock.elapsed_s += timedelta(hours=1).total_seconds()


def revoke(edge: Edge) -> None:
    """Put the only key out of force."""
    [key] = edge.keys.keys.values()
    edge.keys.keys[key.id] = replace(key, revoked_at=edge.clock.now())


def purge(edge: Edge) -> None:
    """Let the tenant be no more."""
    tenant = Tenant.created(TENANT, Plan(), at=edge.clock.now())
    deleted = tenant.deleted(grace=timedelta(0), at=edge.clock.now())
    edge.tenants.tenants[TENANT] = deleted.purged(at=edge.clock.now())


def take_rights(edge: Edge) -> None:
    """Let the only key read jobs, but no output of theirs."""
    [key] = edge.keys.keys.values()
    edge.keys.keys[key.id] = replace(key, role=None, scopes=frozenset({"jobs:read"}))


@pytest.mark.parametrize(
    ("end", "status"), [(expire, 401), (revoke, 401), (purge, 401), (take_rights, 403)]
)
async def test_a_follower_who_would_not_be_let_in_any_more_is_told_nothing_more(
    end: Callable[[Edge], None], status: int
) -> None:
    edge = Edge()

    def meanwhile() -> None:
        end(edge)
        edge.clock.elapsed_s += AGE_MAX.total_seconds()

    edge.logs.meanwhile = meanwhile
    key = await edge.key("logs:read", "jobs:read", lifetime=timedelta(minutes=30))
    async with edge.client(key=key) as client:
        told = (await client.get(FOLLOW)).text

    assert "line 1" in told
    assert "line 2" not in told
    assert "event: complete" not in told
    assert problem_of(told)["status"] == status


async def test_a_follower_who_would_be_let_in_goes_on() -> None:
    edge = Edge()

    def meanwhile() -> None:
        edge.clock.elapsed_s += 60

    edge.logs.meanwhile = meanwhile
    async with edge.client(key=await edge.key("logs:read", "jobs:read")) as client:
        told = (await client.get(FOLLOW)).text

    assert "line 2" in told
    assert "event: complete" in told


async def test_a_suspended_tenant_goes_on_following() -> None:
    edge = Edge()

    def meanwhile() -> None:
        active = Tenant.created(TENANT, Plan(), at=edge.clock.now())
        edge.tenants.tenants[TENANT] = active.suspended(reason="unpaid", at=edge.clock.now())
        edge.clock.elapsed_s += 60

    edge.logs.meanwhile = meanwhile
    async with edge.client(key=await edge.key("logs:read", "jobs:read")) as client:
        told = (await client.get(FOLLOW)).text

    assert "event: complete" in told


async def test_a_follower_comes_again_when_nobody_can_tell_whether_they_may() -> None:
    edge = Edge()

    def meanwhile() -> None:
        edge.clock.elapsed_s += AGE_MAX.total_seconds()
        edge.keys.error = Unavailable("database")

    edge.logs.meanwhile = meanwhile
    async with edge.client(key=await edge.key("logs:read", "jobs:read")) as client:
        told = (await client.get(FOLLOW)).text

    assert problem_of(told)["code"] == "UNAVAILABLE"  # which the SDK repeats
    assert "line 2" not in told


def problem_of(told: str) -> Mapping[str, object]:
    """Return the problem that a stream ends with."""
    problem: Mapping[str, object] = json.loads(told.rpartition("event: problem\ndata: ")[2])
    return problem
