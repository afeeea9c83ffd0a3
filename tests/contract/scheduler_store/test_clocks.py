"""What machines compare is told by the database's clock: theirs may be wrong (ADR-0007)."""

from datetime import timedelta

import pytest

from services.chassis.db.lease import HeldLease
from services.scheduler.domain.attempts.attempt import Attempt, Owner, OwnerKind
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from services.scheduler.use_cases.fleet.list_nodes import ListNodes
from services.scheduler.use_cases.ports import UnitOfWork
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, NODE, NOW, a_spec, resources

FAR_OFF = timedelta(minutes=1)
SILENCE_MAX = timedelta(seconds=30)
LONG_AGO = timedelta(microseconds=-1)
"""So short a silence that whoever was heard of before this question is silent."""
TTL = timedelta(minutes=5)

off = pytest.mark.parametrize("ahead", [-FAR_OFF, FAR_OFF], ids=["behind", "ahead"])


async def heard_of(store: Store, *, ahead: timedelta) -> None:
    """Let a runner whose clock is wrong tell that it is alive."""
    lease_name = f"node/{NODE}"
    epoch = await store.leases.take(lease_name, holder="proc_1", ttl=TTL)
    assert epoch is not None
    node = KeepNode(
        store.on_a_machine(ahead=ahead),
        NODE,
        resources(cpu=4, memory=8),
        "process",
        allows_mixed_tenants=True,
    )
    held = HeldLease(lease_name, "proc_1", epoch)
    await node.register(held, is_runtime_up=True)
    await node.heartbeat(held, is_runtime_up=True)


async def counted_alive(unit_of_work: UnitOfWork, *, silence_max: timedelta) -> list[bool]:
    """Return what all who ask for nodes that are alive are told of the one that there is."""
    async with unit_of_work.system(because="test") as tx:
        at_work = await tx.nodes.at_work(silence_max=silence_max)
        alive = await tx.nodes.alive([NODE], silence_max=silence_max)
    async with unit_of_work(ACME) as tenant_tx:
        doors = await tenant_tx.fleet.doors_for(resources(), tenant=ACME, silence_max=silence_max)
    assert doors.node_count == 1
    [listed], _ = await ListNodes(unit_of_work, silence_max)()
    return [bool(at_work), bool(alive), doors.open_count == 1, listed.is_alive]


async def in_line(store: Store) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        spec = a_spec(resources=resources())
        job, _ = Job.queued(JobId("job_1"), ACME, spec, at=NOW, traceparent=None)
        await tx.jobs.add([job])


@off
async def test_who_was_heard_of_is_alive_whatever_its_clock_says(
    store: Store, ahead: timedelta
) -> None:
    await in_line(store)
    await heard_of(store, ahead=ahead)
    assert all(await counted_alive(store.unit_of_work, silence_max=SILENCE_MAX))


@off
async def test_who_was_not_heard_of_is_silent_whatever_its_clock_says(
    store: Store, ahead: timedelta
) -> None:
    await in_line(store)
    await heard_of(store, ahead=ahead)
    assert not any(await counted_alive(store.unit_of_work, silence_max=LONG_AGO))


@off
async def test_who_asks_may_have_a_wrong_clock_too(store: Store, ahead: timedelta) -> None:
    await in_line(store)
    await heard_of(store, ahead=timedelta(0))
    asks = store.on_a_machine(ahead=ahead)
    assert all(await counted_alive(asks, silence_max=SILENCE_MAX))
    assert not any(await counted_alive(asks, silence_max=LONG_AGO))


@off
async def test_how_long_ago_an_attempt_was_placed_is_told_by_no_machine(
    store: Store, ahead: timedelta
) -> None:
    await in_line(store)
    await heard_of(store, ahead=timedelta(0))
    async with store.on_a_machine(ahead=ahead).system(because="test") as tx:
        attempt, _ = Attempt.created(
            AttemptId("att_1"),
            ACME,
            Owner(OwnerKind.JOB, "job_1", public_id="job_1"),
            number=1,
            node_id=NODE,
            resources=resources(),
            at=tx.now,
            traceparent=None,
        )
        await tx.attempts.add([attempt])
    async with store.on_a_machine(ahead=-ahead).reading(because="test") as reading:
        [work] = await reading.attempts.open_on_node(NODE)
    assert timedelta(0) <= work.placed_for < SILENCE_MAX
