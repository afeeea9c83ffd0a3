"""Cordon and drain on a real database: what is new stays away, what runs moves off."""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any

import pytest

from services.chassis.errors import Conflict, NotFound
from services.scheduler.adapters.postgres.fleet import PostgresNodes
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.jobs.job import JobState, StopCause
from services.scheduler.use_cases.fleet.change_node import ChangeNode
from services.scheduler.use_cases.fleet.drain_nodes import DrainNodes
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import NODE_SILENCE_MAX, ROUTES_SETTLE, Yard, cores
from tests.unit.scheduler.builders import ACME, NODE, UMBRELLA

OTHER = NodeId("node-2")


def changing(yard: Yard) -> ChangeNode:
    return ChangeNode(yard.store, NODE_SILENCE_MAX, lambda: None)


async def drained(yard: Yard) -> int:
    """Run one pass as the leader."""
    return await DrainNodes(yard.store, jobs_per_pass_max=10)(await yard.lease())


async def a_served_replica(yard: Yard) -> Replica:
    """Give the one replica of `digits`, which answers on the one node."""
    await yard.a_node()
    [replica] = (await yard.a_deployment(resources=cores(1))).replicas
    await yard.cycle()
    await yard.ready(replica.id, "127.0.0.1:9000")
    return replica


async def test_a_cordoned_node_gets_nothing_new_and_keeps_what_it_has(yard: Yard) -> None:
    await yard.a_node()
    running = await yard.a_job()
    await yard.cycle()
    shown = await changing(yard).cordon(NODE, by="tests")
    assert (shown.is_alive, shown.node.draining_since) == (True, None)

    waiting = await yard.a_job()
    assert await yard.cycle() == []
    assert await drained(yard) == 0
    assert (await yard.job(running.id)).state is JobState.ADMITTED

    await changing(yard).uncordon(NODE, by="tests")
    assert await yard.cycle() == [(waiting.id, Outcome.PLACED)]


async def test_who_waits_is_told_what_closes_the_nodes_that_are_large_enough(yard: Yard) -> None:
    job = await yard.a_job(resources=cores(3))
    deployment = (await yard.a_deployment(resources=cores(3))).deployment

    async def why() -> set[str]:
        shown = await yard.get_job(ACME, job.id)
        [listed] = (await yard.list_jobs(ACME, PageRequest())).items
        [replica] = (await yard.get_deployment(ACME, deployment.id)).replicas
        [served] = (await yard.list_deployments(ACME, PageRequest())).items
        return {shown.reason, listed.reason, replica.reason, served.replicas[0].reason}

    assert await why() == {"there is no node yet"}
    await yard.a_node(cores(2), name="small")
    assert await why() == {"no node is large enough"}
    await yard.a_node()
    assert await why() == {"submitted", "waits for capacity"}

    closed = "no node that is large enough takes anything new: "
    await yard.beats(is_runtime_up=False)
    assert await why() == {closed + "1 without its container runtime"}
    await yard.are_silent(NODE_SILENCE_MAX)
    assert await why() == {closed + "1 silent"}
    await changing(yard).cordon(NODE, by="tests")
    assert await why() == {closed + "1 cordoned"}
    await yard.a_node(name=OTHER)
    assert await why() == {"submitted", "waits for capacity"}


async def test_a_runner_that_starts_again_does_not_open_its_node(yard: Yard) -> None:
    await yard.a_node()
    await changing(yard).cordon(NODE, by="tests")
    await yard.a_node()
    await yard.beats(is_runtime_up=True)
    assert (await yard.node()).cordoned_at is not None


async def test_what_only_a_cordoned_node_could_hold_does_not_hold_up_the_others(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_node(cores(1), name=OTHER)
    await changing(yard).cordon(NODE, by="tests")
    large, small = await yard.a_job(resources=cores(4)), await yard.a_job(resources=cores(1))
    assert [placed for placed, _ in await yard.cycle()] == [small.id]
    assert (await yard.job(large.id)).state is JobState.QUEUED


async def test_a_cycle_that_chose_a_node_before_it_was_cordoned_places_nothing_there(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cordon is committed between the cycle's look at line and nodes and its booking."""
    await yard.a_node()
    job = await yard.a_job()
    look, loop = PostgresNodes.at_work, asyncio.get_running_loop()

    async def look_and_be_late(nodes: PostgresNodes, **given: Any) -> Sequence[Node]:
        seen = await look(nodes, **given)
        # In a context of its own: somebody else's transaction.
        await loop.create_task(changing(yard).cordon(NODE, by="tests"), context=Context())
        return seen

    monkeypatch.setattr(PostgresNodes, "at_work", look_and_be_late)
    assert await yard.cycle() == [(job.id, Outcome.NO_ROOM)]
    assert (await yard.job(job.id)).state is JobState.QUEUED


async def test_a_drain_stops_jobs_that_go_back_in_line(yard: Yard) -> None:
    await yard.a_node()
    mine, other = await yard.a_job(), await yard.a_job(tenant=UMBRELLA)
    await yard.cycle()
    await changing(yard).drain(NODE, by="tests")

    assert await drained(yard) == 2
    assert await drained(yard) == 0
    job = await yard.job(mine.id)
    assert job.stop is not None
    assert (job.state, job.stop.cause) == (JobState.STOPPING, StopCause.DRAINED)
    assert job.reason == "node-1 is drained"
    assert (await yard.job(other.id, tenant=UMBRELLA)).state is JobState.STOPPING

    back, _ = job.requeued(reason=job.stop.reason, at=yard.clock.now())
    assert (back.state, back.retry_count, back.retry_at) == (JobState.QUEUED, 0, None)


async def test_a_node_that_is_opened_again_keeps_what_was_not_asked_to_leave(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()
    await changing(yard).drain(NODE, by="tests")
    await changing(yard).uncordon(NODE, by="tests")
    assert await drained(yard) == 0
    assert (await yard.job(job.id)).state is JobState.ADMITTED


async def test_only_the_leader_moves_jobs_off(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()
    await changing(yard).drain(NODE, by="tests")
    former = await yard.lease(ttl_s=0)
    await yard.lease(holder="proc_2")
    with pytest.raises(Conflict):
        await DrainNodes(yard.store, jobs_per_pass_max=10)(former)
    assert (await yard.job(job.id)).state is JobState.ADMITTED


async def test_replicas_leave_the_routes_then_the_node_and_come_up_elsewhere(yard: Yard) -> None:
    replica = await a_served_replica(yard)
    await changing(yard).drain(NODE, by="tests")
    await yard.a_node(name=OTHER)

    await yard.reconciled()
    assert list((await yard.routes(replica.deployment_id))[-1].endpoints) == []
    [leaving] = (await yard.get_deployment(ACME, "digits")).replicas
    assert (leaving.state, leaving.reason) == (ReplicaState.WARMING, "node-1 is drained")

    yard.clock.seconds += ROUTES_SETTLE.total_seconds()
    await yard.reconciled()
    [stopping] = (await yard.get_deployment(ACME, "digits")).replicas
    assert stopping.state is ReplicaState.STOPPING
    await yard.replica_ended(replica.id)
    await yard.reconciled()
    assert [placed for placed, _ in await yard.cycle()] == [replica.id]
    [moved] = (await yard.get_deployment(ACME, "digits")).replicas
    assert (moved.node_id, moved.failure_count) == (OTHER, 0)
    await yard.ready(replica.id, "127.0.0.1:9001")
    assert await yard.reconciled() == 0


async def test_a_deployment_that_was_deleted_while_a_replica_left_is_done_with(yard: Yard) -> None:
    replica = await a_served_replica(yard)
    await changing(yard).drain(NODE, by="tests")
    await yard.reconciled()
    await yard.delete_deployment(ACME, "digits")
    yard.clock.seconds += ROUTES_SETTLE.total_seconds()
    await yard.reconciled()
    await yard.replica_ended(replica.id)
    await yard.reconciled()
    assert await yard.reconciled() == 0


async def test_replicas_stay_on_a_node_that_is_open_again(yard: Yard) -> None:
    await a_served_replica(yard)
    await changing(yard).drain(NODE, by="tests")
    await changing(yard).uncordon(NODE, by="tests")
    assert await yard.reconciled() == 0
    [ready] = (await yard.get_deployment(ACME, "digits")).replicas
    assert ready.state is ReplicaState.READY


async def test_a_node_that_nobody_knows_is_not_found(yard: Yard) -> None:
    for how in (changing(yard).cordon, changing(yard).drain, changing(yard).uncordon):
        with pytest.raises(NotFound):
            await how(NodeId("nowhere"), by="tests")
