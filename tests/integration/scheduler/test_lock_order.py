"""Transactions that touch many things at once never wait for each other in a ring."""

import asyncio

from services.chassis.db.lease import HeldLease
from services.scheduler.domain.attempts.attempt import Attempt
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.jobs.job import Job
from services.scheduler.use_cases.deployments.list_routes import ListRoutes
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.paging import PageRequest
from tests.integration.scheduler.yard import Yard
from tests.unit.scheduler.builders import ENDING, UMBRELLA, resources

ROUNDS = 4
ROOMY = resources(cpu=32, memory=64)


async def test_leader_runner_and_callers_get_by_at_once(yard: Yard) -> None:
    await yard.a_node(ROOMY)
    made = [await yard.a_deployment(name=f"d{n}") for n in range(4)]
    await yard.cycle()
    lease = await yard.lease()

    done = asyncio.Event()
    async with asyncio.TaskGroup() as others:
        others.create_task(lead(yard, lease, done))
        others.create_task(call(yard, done))
        async with asyncio.TaskGroup() as replicas:
            for shown in made:
                replicas.create_task(serve_and_fail(yard, shown.replicas[0]))
        done.set()


async def lead(yard: Yard, lease: HeldLease, done: asyncio.Event) -> None:
    republish = RepublishRoutes(yard.store, batch_max=10)
    while not done.is_set():
        yard.clock.seconds += 61  # every restart is due
        await yard.a_node(ROOMY)  # with a heartbeat
        await yard.reconcile(lease)
        await yard.run_cycle(lease)
        await republish(lease)


async def call(yard: Yard, done: asyncio.Event) -> None:
    cancel = CancelJob(yard.store)
    list_routes = ListRoutes(yard.store)
    while not done.is_set():
        job = await yard.a_job(tenant=UMBRELLA)
        await cancel(UMBRELLA, job.id, reason="")
        for work in await yard.open_work():
            if work.attempt.owner.id == job.id:
                await confirm_end(yard, work.attempt, job)
        await list_routes(PageRequest())


async def serve_and_fail(yard: Yard, replica: Replica) -> None:
    """Be a replica that answers, ends, and is placed again by the leader."""
    for _ in range(ROUNDS):
        await yard.ready(replica.id, f"127.0.0.1:{9000 + replica.ordinal}")
        await yard.replica_ended(replica.id)
        async with asyncio.timeout(20):
            while replica.id not in await open_owners(yard):  # noqa: ASYNC110 (told by rows only)
                await asyncio.sleep(0)


async def open_owners(yard: Yard) -> set[str]:
    return {work.attempt.owner.id for work in await yard.open_work()}


async def confirm_end(yard: Yard, attempt: Attempt, job: Job) -> None:
    """Be the runner that closes what was cancelled before its start."""
    async with yard.store.system(because="test") as tx:
        closed, attempt_fact = (await tx.attempts.get(attempt.id)).closed(ENDING, at=tx.now)
        stopping = await tx.jobs.get_any(job.id)
        cancelled, job_fact = stopping.cancelled(reason="confirmed", at=tx.now)
        await tx.attempts.save(closed)
        await tx.jobs.save(cancelled)
        await tx.nodes.release(closed.node_id, closed.resources)
        tx.emit(attempt_fact)
        tx.emit(job_fact)
