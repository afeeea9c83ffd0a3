"""Nodes that take one tenant's work at a time: others' waits, says why, and has its turn."""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.fleet import PostgresNodes
from services.scheduler.domain.attempts.attempt import Attempt, Owner, OwnerKind
from services.scheduler.domain.fleet.node import HeldWork, Node
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, NODE, UMBRELLA, resources

HELD = "no node that is large enough takes anything new: 1 holds another tenant's work"


@pytest.fixture
async def node_id(yard: Yard) -> NodeId:
    """Give a node that takes one tenant's work at a time."""
    return await yard.a_node(allows_mixed_tenants=False)


async def end_all(yard: Yard) -> None:
    for work in await yard.open_work():
        await yard.end(work.attempt.id)


async def placed(yard: Yard) -> list[str]:
    return [name for name, outcome in await yard.cycle() if outcome is Outcome.PLACED]


async def tenants_on(yard: Yard) -> set[TenantId]:
    return {work.attempt.tenant for work in await yard.open_work()}


async def test_another_tenants_job_waits_until_the_node_is_empty_and_says_why(
    yard: Yard, node_id: NodeId
) -> None:
    first, second = await yard.a_job(priority=1), await yard.a_job(priority=1)
    waiting = await yard.a_job(tenant=UMBRELLA)

    async def why() -> set[str]:
        shown = await yard.get_job(UMBRELLA, waiting.id)
        [listed] = (await yard.list_jobs(UMBRELLA, PageRequest())).items
        return {shown.reason, listed.reason}

    assert await why() == {"submitted"}
    assert await placed(yard) == [first.id, second.id]
    assert await why() == {HELD}
    for work in await yard.open_work():
        assert await placed(yard) == []
        assert await why() == {HELD}
        await yard.end(work.attempt.id)

    assert await why() == {"submitted"}
    assert await placed(yard) == [waiting.id]


async def test_who_waits_for_others_jobs_is_passed_by_none_of_them(
    yard: Yard, node_id: NodeId
) -> None:
    await yard.a_job()
    await yard.cycle()
    waiting = await yard.a_job(tenant=UMBRELLA)
    late = await yard.a_job()

    assert await placed(yard) == []
    await end_all(yard)
    assert await placed(yard) == [waiting.id]
    await end_all(yard)
    assert await placed(yard) == [late.id]


async def test_who_waits_for_others_replica_holds_up_nobody_and_fills_nobodys_place(
    yard: Yard, node_id: NodeId
) -> None:
    yard.run_cycle = replace(yard.run_cycle, heads_max=1)
    await yard.a_deployment(resources=cores(1))
    await yard.cycle()
    waiting = await yard.a_job(tenant=UMBRELLA, priority=9)
    late = await yard.a_job(resources=cores(1))

    assert await placed(yard) == [late.id]
    assert (await yard.get_job(UMBRELLA, waiting.id)).reason == HELD


async def test_a_replica_that_waits_for_anothers_jobs_says_so_and_has_its_turn(
    yard: Yard, node_id: NodeId
) -> None:
    await yard.a_job(tenant=UMBRELLA)
    await yard.cycle()
    deployment = (await yard.a_deployment(resources=cores(1))).deployment

    assert await placed(yard) == []
    [replica] = (await yard.get_deployment(ACME, deployment.id)).replicas
    [listed] = (await yard.list_deployments(ACME, PageRequest())).items
    assert {replica.reason, listed.replicas[0].reason} == {HELD}
    await end_all(yard)
    assert await placed(yard) == [replica.id]


async def test_tenants_that_wait_at_once_share_no_node_whoever_looks(
    yard: Yard, node_id: NodeId
) -> None:
    for _ in range(3):
        for tenant in (ACME, UMBRELLA):
            await yard.a_job(tenant=tenant, resources=cores(1))
    lease = await yard.lease()
    await asyncio.gather(*(yard.run_cycle(lease) for _ in range(4)))
    assert len(await tenants_on(yard)) == 1


async def test_a_cycle_that_chose_a_node_before_another_tenant_had_it_places_nothing_there(
    yard: Yard, node_id: NodeId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something is placed there between the cycle's look at line and nodes and its booking."""
    late, lease = await yard.a_job(tenant=UMBRELLA), await yard.lease()
    look, loop = PostgresNodes.at_work, asyncio.get_running_loop()

    async def be_quicker() -> None:
        monkeypatch.setattr(PostgresNodes, "at_work", look)
        job = await yard.a_job()
        async with yard.store.system(because="test") as tx:
            [job] = await tx.jobs.queued([job.id])
            [node] = await tx.nodes.some([node_id])
            job, _ = job.admitted(AttemptId("att_1"), node_id, at=tx.now)
            attempt, _ = Attempt.created(
                AttemptId("att_1"),
                job.tenant,
                Owner(OwnerKind.JOB, job.id, public_id=job.id),
                number=1,
                node_id=node_id,
                resources=job.spec.resources,
                at=tx.now,
                traceparent=None,
            )
            await tx.jobs.admit([job])
            await tx.attempts.add([attempt])
            work = HeldWork(job.tenant, OwnerKind.JOB)
            await tx.nodes.book([node.booked(job.spec.resources, by=work)])

    async def look_and_be_late(nodes: PostgresNodes, **given: Any) -> Sequence[Node]:
        seen = await look(nodes, **given)
        # In a context of its own: somebody else's transaction.
        await loop.create_task(be_quicker(), context=Context())
        return seen

    monkeypatch.setattr(PostgresNodes, "at_work", look_and_be_late)
    report = await yard.run_cycle(lease)
    assert [outcome for _, outcome in report.outcomes] == [Outcome.NO_ROOM]
    assert (await yard.job(late.id, tenant=UMBRELLA)).state is JobState.QUEUED
    assert await tenants_on(yard) == {ACME}


async def test_a_node_that_mixes_tenants_is_nobodys_alone(yard: Yard) -> None:
    await yard.a_node()
    jobs = [await yard.a_job(tenant=tenant) for tenant in (ACME, UMBRELLA)]
    assert await placed(yard) == [job.id for job in jobs]


async def test_a_node_whose_runner_says_that_it_mixes_nobody_any_more_takes_nobody_beside(
    yard: Yard,
) -> None:
    await yard.a_node(resources(cpu=8, memory=8))
    for tenant in (ACME, UMBRELLA):
        await yard.a_job(tenant=tenant)
    await yard.cycle()
    await yard.a_node(resources(cpu=8, memory=8), allows_mixed_tenants=False)

    waiting = await yard.a_job()
    assert await placed(yard) == []
    assert (await yard.get_job(ACME, waiting.id)).reason == HELD
    for work in await yard.open_work(NODE):
        if work.attempt.tenant == UMBRELLA:
            await yard.end(work.attempt.id)
    assert await placed(yard) == [waiting.id]
