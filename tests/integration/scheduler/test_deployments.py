"""Deployments on a real database: create, serve, restart, delete, routes."""

import asyncio

import pytest

from services.chassis.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    QuotaExceeded,
    VersionMismatch,
)
from services.scheduler.domain.deployments.deployment import DeploymentState
from services.scheduler.domain.deployments.model import ModelReference
from services.scheduler.domain.deployments.replica import ReplicaState
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.deployments.list_routes import ListRoutes
from services.scheduler.use_cases.deployments.republish_routes import RepublishRoutes
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.ports import RequestKey
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, TRACEPARENT, UMBRELLA, a_deployment_spec, a_pin

KEY = RequestKey("key-1", b"hash of the body")


async def shown(yard: Yard, id_or_name: str = "digits") -> ShownDeployment:
    return await yard.get_deployment(ACME, id_or_name)


async def a_served_deployment(yard: Yard, *, replica_count: int = 1) -> ShownDeployment:
    await yard.a_node()
    made = await yard.a_deployment(replica_count=replica_count)
    await yard.cycle()
    for replica in made.replicas:
        await yard.ready(replica.id, f"127.0.0.1:{9000 + replica.ordinal}")
    return await shown(yard)


async def test_an_image_without_a_known_server_is_refused(yard: Yard) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await yard.a_deployment(image="modelyard/gone")
    assert refused.value.detail["field"] == "spec.image"


async def test_a_deployment_pins_its_version_and_queues_its_replicas(yard: Yard) -> None:
    await yard.a_node()
    made = await yard.a_deployment(replica_count=2)
    assert yard.catalog.asked == [ModelReference("digits", alias="champion")]
    found = await shown(yard, made.deployment.id)
    assert found == made
    assert found.deployment.model == a_pin()
    assert [replica.state for replica in found.replicas] == [ReplicaState.QUEUED] * 2
    assert await yard.event_types(made.deployment.id) == [
        "deployment.created",
        "replica-endpoints.changed",
    ]
    [entry] = await yard.routes(made.deployment.id)
    assert (entry.name, entry.generation, list(entry.endpoints)) == ("digits", 0, [])


async def test_a_repeated_creation_makes_one_deployment(yard: Yard) -> None:
    async def create() -> ShownDeployment:
        return await yard.create_deployment(
            ACME, a_deployment_spec(), key=KEY, traceparent=TRACEPARENT
        )

    made = await asyncio.gather(*(create() for _ in range(4)))
    assert len({each.deployment.id for each in made}) == 1
    assert await create() == made[0]


async def test_a_living_deployments_name_is_taken(yard: Yard) -> None:
    await yard.a_deployment()
    with pytest.raises(AlreadyExists):
        await yard.a_deployment()


async def test_an_unknown_model_makes_no_deployment(yard: Yard) -> None:
    with pytest.raises(NotFound):
        await yard.a_deployment(model="models:/other@champion")


async def test_replicas_of_a_tenant_are_bounded(yard: Yard) -> None:
    await yard.a_deployment(replica_count=3)
    with pytest.raises(QuotaExceeded, match="2 more asked for, 3 of 4 used") as refused:
        await yard.a_deployment(name="second", replica_count=2)
    assert refused.value.detail["field"] == "spec.replica_count"


async def test_a_deployment_that_no_node_could_hold_is_refused(yard: Yard) -> None:
    await yard.a_node()
    with pytest.raises(InvalidArgument, match="no node has more than 4000") as refused:
        await yard.a_deployment(resources=cores(99))
    assert refused.value.detail["field"] == "spec.resources.cpu_millicores"


async def test_another_tenants_deployment_is_not_found(yard: Yard) -> None:
    made = await yard.a_deployment()
    for name in ("digits", made.deployment.id):
        with pytest.raises(NotFound):
            await yard.get_deployment(UMBRELLA, name)
        with pytest.raises(NotFound):
            await yard.delete_deployment(UMBRELLA, name)


async def test_deployments_are_listed_newest_first(yard: Yard) -> None:
    made = [(await yard.a_deployment(name=f"d{n}")).deployment.id for n in range(3)]
    first = await yard.list_deployments(ACME, PageRequest.of(2, ""))
    second = await yard.list_deployments(ACME, PageRequest.of(2, first.next_token))
    listed = [each.deployment.id for each in [*first.items, *second.items]]
    assert listed == sorted(made, reverse=True)
    assert all(len(each.replicas) == 1 for each in first.items)


async def test_a_ready_replica_is_routed_to_in_the_same_commit(yard: Yard) -> None:
    found = await a_served_deployment(yard, replica_count=2)
    assert found.deployment.state is DeploymentState.SERVING
    entries = await yard.routes(found.deployment.id)
    assert [(each.generation, len(each.endpoints)) for each in entries] == [(0, 0), (1, 1), (2, 2)]
    assert {each.address for each in entries[-1].endpoints} == {"127.0.0.1:9000", "127.0.0.1:9001"}
    assert (await yard.event_types(found.deployment.id)).count("deployment.serving") == 1


async def test_replicas_that_change_at_once_leave_one_true_routing_entry(yard: Yard) -> None:
    await yard.a_node()
    made = await yard.a_deployment(replica_count=4, resources=cores(1))
    await yard.cycle()
    await asyncio.gather(
        *(yard.ready(each.id, f"127.0.0.1:{9000 + each.ordinal}") for each in made.replicas)
    )
    entries = await yard.routes(made.deployment.id)
    assert [each.generation for each in entries] == [0, 1, 2, 3, 4]
    assert len(entries[-1].endpoints) == 4


async def test_an_ended_replica_leaves_the_routes_and_comes_back_later(yard: Yard) -> None:
    found = await a_served_deployment(yard)
    [replica] = found.replicas
    await yard.replica_ended(replica.id)

    assert (await shown(yard)).deployment.state is DeploymentState.PREPARING
    assert list((await yard.routes(found.deployment.id))[-1].endpoints) == []
    assert await yard.reconciled() == 0  # not yet

    yard.clock.seconds = 1
    assert await yard.reconciled() == 1
    [again] = (await shown(yard)).replicas
    assert (again.state, again.restart_count) == (ReplicaState.QUEUED, 1)
    assert len(await yard.cycle()) == 1
    [work] = await yard.open_work()
    assert work.attempt.number == 2


async def test_deletion_leaves_routing_first_then_stops_then_ends(yard: Yard) -> None:
    found = await a_served_deployment(yard)
    [replica] = found.replicas

    deleting = await yard.delete_deployment(ACME, "digits")
    assert deleting.deployment.state is DeploymentState.DELETING
    entry = (await yard.routes(found.deployment.id))[-1]
    assert (entry.deleted, list(entry.endpoints)) == (True, [])

    await yard.reconciled()
    assert (await shown(yard)).replicas[0].state is ReplicaState.READY  # gateways still send

    yard.clock.seconds = 2
    await yard.reconciled()
    [work] = await yard.open_work()
    assert work.stop is not None
    assert await yard.reconciled() == 0  # it is the runner's turn

    await yard.replica_ended(replica.id)
    gone = await shown(yard, found.deployment.id)
    assert gone.deployment.state is DeploymentState.DELETED
    assert await yard.used() == Resources()
    with pytest.raises(NotFound):
        await shown(yard, "digits")
    assert (await yard.event_types(found.deployment.id))[-1] == "deployment.deleted"


async def test_deleting_what_never_ran_needs_no_runner(yard: Yard) -> None:
    made = await yard.a_deployment(replica_count=2)
    await yard.delete_deployment(ACME, "digits")
    await yard.reconciled()
    assert (await shown(yard, made.deployment.id)).deployment.state is DeploymentState.DELETED
    await yard.a_deployment()  # its name is free again


async def test_deleting_again_changes_nothing(yard: Yard) -> None:
    made = await yard.a_deployment()
    first = await yard.delete_deployment(ACME, "digits")
    again = await yard.delete_deployment(ACME, "digits")
    assert again == first
    assert (await yard.event_types(made.deployment.id)).count("deployment.deleting") == 1


async def test_a_deployment_that_moved_on_meanwhile_is_not_deleted(yard: Yard) -> None:
    seen = (await yard.a_deployment()).deployment.version
    [replica] = (await shown(yard)).replicas
    await yard.a_node()
    await yard.cycle()
    await yard.ready(replica.id, "127.0.0.1:9000")
    serving = (await shown(yard)).deployment

    with pytest.raises(VersionMismatch) as refused:
        await yard.delete_deployment(ACME, "digits", if_version=seen)

    assert refused.value.detail["current_version"] == str(serving.version)
    assert (await shown(yard)).deployment == serving
    first = await yard.delete_deployment(ACME, "digits", if_version=serving.version)
    again = await yard.delete_deployment(ACME, "digits", if_version=serving.version)
    assert first.deployment.state is DeploymentState.DELETING
    assert again == first


async def test_what_is_meant_for_a_names_earlier_deployment_fits_no_later_one(yard: Yard) -> None:
    made = (await yard.a_deployment()).deployment
    deleting = (await yard.delete_deployment(ACME, "digits")).deployment
    await yard.reconciled()
    gone = (await shown(yard, made.id)).deployment
    again = (await yard.a_deployment()).deployment
    other = (await yard.a_deployment(name="other")).deployment

    assert (again.version, other.version) == (gone.version + 1, 1)
    for version in (made.version, deleting.version, gone.version):
        with pytest.raises(VersionMismatch):
            await yard.delete_deployment(ACME, "digits", if_version=version)
    assert (await shown(yard)).deployment == again


async def test_a_replica_that_fails_during_deletion_does_not_come_back(yard: Yard) -> None:
    found = await a_served_deployment(yard)
    await yard.delete_deployment(ACME, "digits")
    await yard.replica_ended(found.replicas[0].id)
    yard.clock.seconds = 5
    await yard.reconciled()
    gone = await shown(yard, found.deployment.id)
    assert gone.deployment.state is DeploymentState.DELETED
    assert await yard.reconciled() == 0


async def test_all_tenants_routes_are_listed_with_recent_deletions(yard: Yard) -> None:
    served = await a_served_deployment(yard)
    gone = (await yard.a_deployment(name="gone")).deployment
    await yard.delete_deployment(ACME, "gone")
    await yard.reconciled()
    list_routes = ListRoutes(yard.store)

    first = await list_routes(PageRequest.of(1, ""))
    second = await list_routes(PageRequest.of(1, first.next_token))

    routes = {entry.deployment_id: entry for entry in [*first.items, *second.items]}
    assert len(routes[served.deployment.id].endpoints) == 1
    assert routes[gone.id].deleted
    yard.clock.seconds = 2 * 86_400
    page = await list_routes(PageRequest())
    assert [entry.deployment_id for entry in page.items] == [served.deployment.id]


async def test_routes_are_published_again_with_the_same_generation(yard: Yard) -> None:
    served = await a_served_deployment(yard)
    for n in range(3):
        await yard.a_deployment(name=f"d{n}")
    republish = RepublishRoutes(yard.store, batch_max=2)

    assert await republish(await yard.lease()) == 4

    before, after = (await yard.routes(served.deployment.id))[-2:]
    assert before == after
