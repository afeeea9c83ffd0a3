"""The list of tenants: served by the gateway, read by those who follow tenants' events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient
from modelyard.common.v1.paging_pb2 import PageRequest
from modelyard.gateway.v1 import tenant_events_pb2 as events_pb
from modelyard.gateway.v1 import tenant_service_pb2 as pb
from modelyard.gateway.v1.tenant_service_pb2_grpc import (
    TenantServiceStub,
    add_TenantServiceServicer_to_server,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api_gateway.adapters.postgres.tables import chassis
from services.api_gateway.adapters.postgres.tenants import PostgresTenants
from services.api_gateway.bootstrap import CALLERS, REQUIRED_SCOPES
from services.api_gateway.domain.roles import SCOPES_BY_ROLE
from services.api_gateway.domain.tenant import Plan
from services.api_gateway.entrypoints.facts import event_of
from services.api_gateway.entrypoints.grpc.tenants import TENANT_SERVICE, TenantRpcs
from services.api_gateway.use_cases.create_tenant import CreateTenant
from services.api_gateway.use_cases.manage_keys import NewKeys
from services.api_gateway.use_cases.manage_tenants import ChangeTenant
from services.api_gateway.use_cases.purge_tenants import PurgeTenants
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.clock import SystemClock
from services.chassis.db.lease import LeaseKeeper, PostgresLeases
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import InvalidArgument, PermissionDenied
from services.chassis.events.envelope import record_of
from services.chassis.events.kafka_producer import open_producer
from services.chassis.events.ports import Record
from services.chassis.events.projection import CompactedProjection
from services.chassis.events.sweep import Sweep
from services.chassis.ids import TimeOrderedIds
from services.chassis.purges import ApplyPurges
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import (
    GrpcClientSettings,
    GrpcServerSettings,
    IdentitySettings,
    KafkaSettings,
)
from services.chassis.tenancy import Principal, PurgedTenants, TenantId
from services.log_collector.adapters import gateway_client as of_the_collector
from services.model_registry.adapters import gateway_client as of_the_registry
from services.scheduler.adapters.gateway_client import open_tenant_list
from services.scheduler.domain.tenants.tenant import TenantTable
from services.scheduler.entrypoints.consumers.tenants import ApplyTenants
from tests.integration.model_registry.registry import identity
from tests.support.eventually import eventually
from tests.support.fixtures import TopicFactory

CLOCK = SystemClock()
IDS = TimeOrderedIds(CLOCK)
PLATFORM = Principal(TenantId("default"), "test", frozenset())
ACTIVE, SUSPENDED, DELETING, PURGED = (
    TenantId(name) for name in ("active", "suspended", "to-be-deleted", "gone")
)
SERVICES = ("api-gateway", "scheduler", "model-registry", "log-collector")
TIMEOUT = timedelta(seconds=20)


@dataclass
class Owner:
    """A gateway's tenants, served to services that have these keys."""

    store: PostgresTenants
    change: ChangeTenant
    keys: Path
    port: int = 0

    @property
    def address(self) -> GrpcClientSettings:
        return GrpcClientSettings(address=f"127.0.0.1:{self.port}", deadline=TIMEOUT)

    def identity(self, service: str) -> IdentitySettings:
        return IdentitySettings(
            private_key_file=self.keys / f"{service}.pem", trusted_keys_folder=self.keys / "trusted"
        )

    async def create(self, name: str) -> None:
        await CreateTenant(self.store, NewKeys(CLOCK, IDS, lambda: "s" * 43))(TenantId(name))

    async def list(
        self, principal: Principal, *, service: str = "scheduler", size: int = 0, token: str = ""
    ) -> pb.ListTenantsResponse:
        """Ask as somebody whose token this service has signed."""
        signer = TokenSigner.load(service, self.identity(service), CLOCK)
        request = pb.ListTenantsRequest(page=PageRequest(page_size=size, page_token=token))
        async with open_channel(self.address, callee="api-gateway", signer=signer) as channel:
            with acting_as(principal):
                return await Edge.to("api-gateway").call(
                    TenantServiceStub(channel).ListTenants,
                    request,
                    timeout=TIMEOUT,
                    idempotent=True,
                )


def scheduler_itself() -> Principal:
    return Principal(TenantId(""), "scheduler", frozenset({"tenants:follow"}))


@pytest.fixture
async def owner(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Owner]:
    """Serve one tenant of each state, and the platform's own."""
    (tmp_path / "trusted").mkdir()
    for service in SERVICES:
        private, public = identity()
        (tmp_path / f"{service}.pem").write_bytes(private)
        (tmp_path / "trusted" / f"{service}.pub.pem").write_bytes(public)
    base = PostgresUnitOfWork(engine, chassis, source="/api-gateway", clock=CLOCK, ids=IDS)
    store = PostgresTenants(base, event_of)
    owner = Owner(store, ChangeTenant(store, TenantStanding(store, CLOCK)), tmp_path)
    for name in (PLATFORM.tenant, ACTIVE, SUSPENDED, PURGED):
        await owner.create(name)
    await owner.change.suspend(PLATFORM, SUSPENDED, reason="unpaid")
    await owner.change.delete(PLATFORM, PURGED, grace=timedelta(0))
    held = await LeaseKeeper(
        PostgresLeases(engine, chassis),
        "tenants",
        holder="proc_1",
        ttl=timedelta(minutes=5),
        clock=CLOCK,
    ).acquire()
    assert held is not None
    assert await PurgeTenants(store, 10)(held) == 1
    await owner.create(DELETING)
    await owner.change.delete(PLATFORM, DELETING, grace=timedelta(days=1))
    async with serve(
        GrpcServerSettings(port=0),
        register=partial(add_TenantServiceServicer_to_server, TenantRpcs(store)),
        services=(TENANT_SERVICE,),
        verifier=TokenVerifier.load("api-gateway", owner.identity("api-gateway"), CLOCK),
        required_scopes=REQUIRED_SCOPES,
        callers=CALLERS,
    ) as server:
        owner.port = server.port
        yield owner


async def test_all_tenants_are_told_as_their_events_tell_them(owner: Owner) -> None:
    answer = await owner.list(scheduler_itself())
    assert {tenant.id: tenant.state for tenant in answer.tenants} == {
        PLATFORM.tenant: events_pb.TENANT_STATE_ACTIVE,
        ACTIVE: events_pb.TENANT_STATE_ACTIVE,
        SUSPENDED: events_pb.TENANT_STATE_SUSPENDED,
        DELETING: events_pb.TENANT_STATE_DELETING,
        PURGED: events_pb.TENANT_STATE_PURGED,
    }
    [suspended] = [tenant for tenant in answer.tenants if tenant.id == SUSPENDED]
    known = await owner.store.find(SUSPENDED)
    assert known is not None
    assert suspended.SerializeToString(deterministic=True) == event_of(known).data
    assert answer.page.next_page_token == ""


async def test_the_list_comes_in_pages(owner: Owner) -> None:
    seen, token = list[str](), ""
    for size in (2, 1, 0):
        answer = await owner.list(scheduler_itself(), size=size, token=token)
        seen += [tenant.id for tenant in answer.tenants]
        token = answer.page.next_page_token
    assert (seen, token) == (sorted([PLATFORM.tenant, ACTIVE, SUSPENDED, DELETING, PURGED]), "")


@pytest.mark.parametrize(("size", "token"), [(201, ""), (-1, ""), (0, "No Tenant")])
async def test_a_page_that_cannot_be_is_refused(owner: Owner, size: int, token: str) -> None:
    with pytest.raises(InvalidArgument, match="page"):
        await owner.list(scheduler_itself(), size=size, token=token)


@pytest.mark.parametrize("role", SCOPES_BY_ROLE)
async def test_no_role_of_any_tenant_opens_the_list(owner: Owner, role: str) -> None:
    caller = Principal(ACTIVE, "key:1", SCOPES_BY_ROLE[role])  # type: ignore[index]
    with pytest.raises(PermissionDenied):
        await owner.list(caller, service="api-gateway")


async def test_a_service_that_asks_with_another_scope_is_refused(owner: Owner) -> None:
    with pytest.raises(PermissionDenied):
        await owner.list(Principal(TenantId(""), "scheduler", frozenset({"artifacts:read"})))


@pytest.mark.parametrize(
    ("service", "tenant", "subject"),
    [
        ("api-gateway", "", "api-gateway"),
        ("scheduler", "", "model-registry"),
        ("scheduler", ACTIVE, "scheduler"),
    ],
)
async def test_the_list_is_for_services_that_ask_for_themselves(
    owner: Owner, service: str, tenant: str, subject: str
) -> None:
    asking = Principal(TenantId(tenant), subject, frozenset({"tenants:follow"}))
    with pytest.raises(PermissionDenied):
        await owner.list(asking, service=service)


@asynccontextmanager
async def known_to_the_scheduler(
    owner: Owner, table: TenantTable | None = None
) -> AsyncIterator[tuple[TenantTable, Sweep[events_pb.Tenant]]]:
    """Give a scheduler's picture, a new one by default, and what fills it from the owner's list."""
    table = table or TenantTable(is_whole=False)
    signer = TokenSigner.load("scheduler", owner.identity("scheduler"), CLOCK)
    async with open_tenant_list(owner.address, signer=signer) as page:
        assert page is not None
        take = ApplyTenants(table, lambda: None).take
        yield (
            table,
            Sweep(page, take, what="tenants", interval=timedelta(hours=1), on_done=table.complete),
        )


async def test_a_scheduler_whose_topic_is_empty_knows_who_is_suspended(
    owner: Owner, kafka_broker: str, kafka_topic: TopicFactory
) -> None:
    topic = kafka_topic("tenant", partition_count=1, config={"cleanup.policy": "compact"})
    async with known_to_the_scheduler(owner) as (table, sweep), asyncio.TaskGroup() as tasks:
        settings = KafkaSettings(bootstrap_servers=kafka_broker)
        projection = CompactedProjection(settings, topic, ApplyTenants(table, lambda: None))
        stopping = asyncio.Event()
        tasks.create_task(projection.run(stopping))
        await projection.caught_up()
        assert (table.suspended(), table.missing([SUSPENDED])) == ({}, [SUSPENDED])

        tasks.create_task(sweep.run(stopping))

        async def is_read() -> bool:
            return sweep.is_done

        await eventually(is_read, what="the list is read", within_s=30)
        assert set(table.suspended()) == {SUSPENDED, DELETING, PURGED}
        assert (table.get(SUSPENDED).reason, table.purged()) == ("unpaid", [PURGED])
        assert table.missing([TenantId("new")]) == []
        stopping.set()


async def test_the_newer_version_counts_whether_it_comes_by_event_or_by_list(
    owner: Owner, kafka_broker: str, kafka_topic: TopicFactory
) -> None:
    topic = kafka_topic("tenant", partition_count=1, config={"cleanup.policy": "compact"})
    settings = KafkaSettings(bootstrap_servers=kafka_broker)

    async def tell_event(of: object) -> None:
        record = record_of(event_of(of), event_id=IDS.new("evt"), source="/t", time=CLOCK.now())  # type: ignore[arg-type]
        async with open_producer(settings, client_id="test") as producer:
            await producer.send(type(record)(topic, record.key, record.value, record.headers))

    async with known_to_the_scheduler(owner) as (table, sweep), asyncio.TaskGroup() as tasks:
        stopping = asyncio.Event()
        apply = ApplyTenants(table, lambda: None)
        projection = CompactedProjection(settings, topic, apply)
        tasks.create_task(projection.run(stopping))
        suspended = await owner.store.find(SUSPENDED)
        stale = await owner.list(scheduler_itself())
        resumed = await owner.change.resume(PLATFORM, SUSPENDED)

        # The event overtakes a page that was read before.
        await tell_event(resumed)

        async def has_heard() -> bool:
            return table.get(SUSPENDED).version == resumed.version

        await eventually(has_heard, what="the resumption arrives", within_s=30)
        for tenant in stale.tenants:
            apply.take(tenant)
        assert not table.get(SUSPENDED).is_suspended

        # The list overtakes events that come late.
        await owner.change.suspend(PLATFORM, ACTIVE, reason="unpaid")
        await sweep.turn()
        version = table.get(ACTIVE).version
        for late in (suspended, resumed):
            await tell_event(late)
        await owner.create("last")
        await tell_event(await owner.store.find(TenantId("last")))

        async def has_heard_all() -> bool:
            return table.get(TenantId("last")).version == 1

        await eventually(has_heard_all, what="the last event arrives", within_s=30)
        assert (table.get(ACTIVE).version, table.get(ACTIVE).is_suspended) == (version, True)
        assert not table.get(SUSPENDED).is_suspended
        stopping.set()


@pytest.mark.parametrize("is_frozen", [False, True], ids=["was down", "was frozen"])
async def test_a_scheduler_that_was_away_for_longer_than_the_topic_keeps_sees_the_truth(
    owner: Owner, kafka_broker: str, kafka_topic: TopicFactory, is_frozen: bool
) -> None:
    # Nothing that is only compacted can be deleted by hand.
    kept = {"cleanup.policy": "compact,delete"}
    topic = kafka_topic("tenant", partition_count=1, config=kept)
    settings = KafkaSettings(bootstrap_servers=kafka_broker)

    async def tell(*tenants: TenantId) -> None:
        records = []
        for name in tenants:
            found = await owner.store.find(name)
            assert found is not None
            record = record_of(
                event_of(found), event_id=IDS.new("evt"), source="/t", time=CLOCK.now()
            )
            records.append(Record(topic, record.key, record.value, record.headers))
        async with open_producer(settings, client_id="test") as producer:
            assert await producer.send_all(records) == [None] * len(records)

    @asynccontextmanager
    async def following(table: TenantTable, sweep: Sweep[events_pb.Tenant]) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        apply = ApplyTenants(table, lambda: None)
        projection = CompactedProjection(settings, topic, apply)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(projection.run(stopping))
            tasks.create_task(sweep.run(stopping))
            await projection.caught_up()

            async def is_read() -> bool:
                return sweep.is_done

            await eventually(is_read, what="the list is read", within_s=30)
            yield
            stopping.set()

    await tell(ACTIVE, SUSPENDED, DELETING, PURGED)
    async with known_to_the_scheduler(owner) as (before, sweep), following(before, sweep):
        assert set(before.suspended()) == {SUSPENDED, DELETING, PURGED}

    # Nobody reads, meanwhile all is turned round, and what told of it is gone from the topic.
    await owner.change.suspend(PLATFORM, ACTIVE, reason="away")
    await owner.change.resume(PLATFORM, SUSPENDED)
    await owner.change.plan(PLATFORM, DELETING, Plan(priority_max=7))
    await tell(ACTIVE, SUSPENDED, DELETING)
    await asyncio.to_thread(delete_all_records, kafka_broker, topic)

    kept_picture = before if is_frozen else None
    async with (
        known_to_the_scheduler(owner, kept_picture) as (after, sweep),
        following(after, sweep),
    ):
        assert set(after.suspended()) == {ACTIVE, DELETING, PURGED}
        assert after.get(DELETING).plan.priority_max == 7
        assert after.purged() == [PURGED]
        await owner.change.resume(PLATFORM, ACTIVE)
        await tell(ACTIVE)

        async def has_heard() -> bool:
            return not after.get(ACTIVE).is_suspended

        await eventually(has_heard, what="the topic is followed", within_s=30)


def delete_all_records(kafka_broker: str, topic: str) -> None:
    """Do what retention does once it is over."""
    admin = AdminClient({"bootstrap.servers": kafka_broker})
    everything = TopicPartition(topic, 0, OFFSET_END)
    deleted = admin.delete_records([everything])[everything].result(30)
    assert deleted.low_watermark > 0


@pytest.mark.parametrize(
    ("service", "module"),
    [("model-registry", of_the_registry), ("log-collector", of_the_collector)],
    ids=["registry", "collector"],
)
async def test_the_others_hear_of_purges_from_the_list(
    owner: Owner, service: str, module: object
) -> None:
    purged = PurgedTenants()
    apply = ApplyPurges(purged, lambda: None)
    opened = module.open_tenant_list(owner.address, owner.identity(service), CLOCK)  # type: ignore[attr-defined]
    async with opened as page:
        sweep = Sweep[TenantId](page, apply.add, what="tenants", interval=timedelta(hours=1))
        await sweep.turn()
        assert (sweep.is_done, purged.names()) == (True, [PURGED])


async def test_all_pages_are_swept(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scheduler.adapters.gateway_client.PAGE_SIZE", 1)
    async with known_to_the_scheduler(owner) as (table, sweep):
        await sweep.turn()
        assert set(table.suspended()) == {SUSPENDED, DELETING, PURGED}
        assert table.get(ACTIVE).version == 1


async def test_without_the_owners_address_nothing_is_read(owner: Owner) -> None:
    signer = TokenSigner.load("scheduler", owner.identity("scheduler"), CLOCK)
    async with open_tenant_list(None, signer=signer) as page:
        assert page is None
