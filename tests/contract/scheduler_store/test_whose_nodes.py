"""Whose work nodes have, told by what is open on them, where they take one tenant's at a time."""

from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt, Owner, OwnerKind
from services.scheduler.domain.fleet.node import HeldWork, Node
from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.resources import Resources
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, ENDING, NODE, NOW, UMBRELLA, resources

OTHER = NodeId("node-2")
CAPACITY = resources(cpu=4, memory=8)
AT_ALL_TIMES = timedelta(days=365)


async def a_node(store: Store, node_id: NodeId = NODE, *, allows_mixed_tenants: bool) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.register(
            node_id, CAPACITY, runtime="process", allows_mixed_tenants=allows_mixed_tenants
        )


async def place(
    store: Store,
    number: int,
    *,
    tenant: TenantId = ACME,
    kind: OwnerKind = OwnerKind.JOB,
    node_id: NodeId = NODE,
) -> None:
    """Do what a cycle does."""
    owner = Owner(kind, f"{kind}_{number}", public_id=f"{kind}_{number}")
    async with store.unit_of_work.system(because="test") as tx:
        node = await tx.nodes.get(node_id)
        attempt, _ = Attempt.created(
            AttemptId(f"att_{number}"),
            tenant,
            owner,
            number=1,
            node_id=node_id,
            resources=resources(),
            at=NOW,
            traceparent=None,
        )
        await tx.nodes.save(node.booked(resources(), by=HeldWork(tenant, kind)))
        await tx.attempts.add([attempt])


async def end(store: Store, number: int) -> None:
    """Do what a runner does."""
    async with store.unit_of_work.system(because="test") as tx:
        attempt, _ = (await tx.attempts.get(AttemptId(f"att_{number}"))).closed(ENDING, at=NOW)
        await tx.attempts.save(attempt)
        await tx.nodes.release(attempt.node_id, attempt.resources)


async def held(store: Store, node_id: NodeId = NODE) -> frozenset[HeldWork]:
    """Return what both ways to read a node for a placement tell of it."""
    async with store.unit_of_work.system(because="test") as tx:
        at_work = await tx.nodes.at_work(silence_max=AT_ALL_TIMES)
        locked = await tx.nodes.get(node_id)
    assert {node.id: node for node in at_work}[node_id] == locked
    return locked.holds


async def doors(store: Store, tenant: TenantId) -> FleetDoors:
    async with store.unit_of_work(tenant) as tx:
        return await tx.fleet.doors_for(resources(), tenant=tenant, silence_max=AT_ALL_TIMES)


async def test_a_node_tells_whose_work_it_has_until_that_has_ended(store: Store) -> None:
    await a_node(store, allows_mixed_tenants=False)
    assert await held(store) == frozenset()

    await place(store, 1)
    await place(store, 2)
    await place(store, 3, kind=OwnerKind.REPLICA)
    jobs, replica = HeldWork(ACME, OwnerKind.JOB), HeldWork(ACME, OwnerKind.REPLICA)
    assert await held(store) == {jobs, replica}

    await end(store, 1)
    await end(store, 3)
    assert await held(store) == {jobs}
    await end(store, 2)
    assert await held(store) == frozenset()


async def test_a_node_on_which_tenants_are_mixed_tells_nobody(store: Store) -> None:
    await a_node(store, allows_mixed_tenants=True)
    await place(store, 1)
    await place(store, 2, tenant=UMBRELLA)
    assert await held(store) == frozenset()
    assert await doors(store, TenantId("third")) == FleetDoors(node_count=1, open_count=1)


async def test_a_node_tells_of_its_own_work_alone(store: Store) -> None:
    for node_id in (NODE, OTHER):
        await a_node(store, node_id, allows_mixed_tenants=False)
    await place(store, 1)
    await place(store, 2, tenant=UMBRELLA, node_id=OTHER)
    assert await held(store) == {HeldWork(ACME, OwnerKind.JOB)}
    assert await held(store, OTHER) == {HeldWork(UMBRELLA, OwnerKind.JOB)}


async def test_a_node_that_mixes_nobody_any_more_tells_of_all_that_it_has(store: Store) -> None:
    await a_node(store, allows_mixed_tenants=True)
    await place(store, 1)
    await place(store, 2, tenant=UMBRELLA)
    await a_node(store, allows_mixed_tenants=False)
    both = {HeldWork(tenant, OwnerKind.JOB) for tenant in (ACME, UMBRELLA)}
    assert await held(store) == both
    shut = FleetDoors(node_count=1, held_count=1)
    assert [await doors(store, tenant) for tenant in (ACME, UMBRELLA)] == [shut, shut]


async def test_what_is_held_is_stored_nowhere(store: Store) -> None:
    await a_node(store, allows_mixed_tenants=False)
    await place(store, 1)
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.save(await tx.nodes.get(NODE))
    await end(store, 1)
    async with store.unit_of_work.system(because="test") as tx:
        nodes, _ = await tx.nodes.first(limit=9)
        assert [shown(node) for node in nodes] == [shown(await tx.nodes.get(NODE))]


def shown(node: Node) -> tuple[bool, frozenset[HeldWork]]:
    return (node.allows_mixed_tenants, node.holds)


async def test_a_node_is_open_to_its_tenant_and_held_to_others(store: Store) -> None:
    await a_node(store, allows_mixed_tenants=False)
    is_open, is_held = FleetDoors(1, open_count=1), FleetDoors(1, held_count=1)
    assert [await doors(store, tenant) for tenant in (ACME, UMBRELLA)] == [is_open, is_open]

    await place(store, 1)
    await place(store, 2)
    assert [await doors(store, tenant) for tenant in (ACME, UMBRELLA)] == [is_open, is_held]
    await end(store, 1)
    assert await doors(store, UMBRELLA) == is_held
    await end(store, 2)
    assert await doors(store, UMBRELLA) == is_open


async def test_a_fingerprint_tells_nodes_at_work_and_bookings_apart_and_no_signs_of_life(
    store: Store,
) -> None:
    async def fingerprint() -> str:
        async with store.unit_of_work.system(because="test") as tx:
            return await tx.nodes.fingerprint_at_work(silence_max=AT_ALL_TIMES)

    async def beats(*, is_runtime_up: bool) -> None:
        async with store.unit_of_work.system(because="test") as tx:
            await tx.nodes.heartbeat(OTHER, is_runtime_up=is_runtime_up)

    seen = [await fingerprint()]
    await a_node(store, allows_mixed_tenants=True)
    seen.append(await fingerprint())
    await a_node(store, OTHER, allows_mixed_tenants=True)
    seen.append(await fingerprint())
    await place(store, 1)
    seen.append(await fingerprint())
    await place(store, 2, node_id=OTHER)
    seen.append(await fingerprint())
    await end(store, 1)
    seen.append(await fingerprint())
    await end(store, 2)
    assert await fingerprint() == seen[2], "as before the first of them came"
    assert len(set(seen)) == len(seen)

    await a_node(store, OTHER, allows_mixed_tenants=False)
    assert await fingerprint() not in seen
    await a_node(store, OTHER, allows_mixed_tenants=True)
    assert await fingerprint() == seen[2]

    await beats(is_runtime_up=True)
    assert await fingerprint() == seen[2]
    await beats(is_runtime_up=False)
    assert await fingerprint() == seen[1]


async def test_what_open_nodes_have_together_is_all_nodes_but_those_that_are_closed(
    store: Store,
) -> None:
    async def capacity() -> Resources:
        async with store.unit_of_work.reading(because="test") as reading:
            return await reading.nodes.capacity_at_work(silence_max=AT_ALL_TIMES)

    assert await capacity() == Resources()
    await a_node(store, allows_mixed_tenants=True)
    await a_node(store, OTHER, allows_mixed_tenants=False)
    assert await capacity() == CAPACITY * 2
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.save((await tx.nodes.get(OTHER)).cordoned(at=NOW))
    assert await capacity() == CAPACITY
