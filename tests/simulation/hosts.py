"""The machines of one run, each with a process of a service, one incarnation after another.

Owns: how a process starts and is killed, and by which ways it reaches the rest. What runs inside
is the product: `wire` of both services, their loops, relay and consumers.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, cast

from typing_extensions import override

from services.chassis.db.relay import Relay
from services.chassis.events.consumer import Backoff, EventConsumer, Handler
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import KafkaSettings
from services.model_registry import bootstrap as registry_bootstrap
from services.model_registry.entrypoints.consumers import job_lifecycle
from services.model_registry.entrypoints.protobuf import event_of as registry_event_of
from services.model_registry.use_cases.ports import Blobs
from services.scheduler import bootstrap as scheduler_bootstrap
from services.scheduler.adapters.run_traces import TelemetryRunTraces
from services.scheduler.domain.identities import NodeId
from services.scheduler.entrypoints.consumers import log_stream
from services.scheduler.entrypoints.facts import event_of
from services.scheduler.entrypoints.loops.scheduling import SchedulingLoop
from services.scheduler.settings import (
    AdmissionSettings,
    DeploymentSettings,
    ProcessRuntimeSettings,
    PurgeSettings,
    RetentionSettings,
    RunnerSettings,
    SchedulingSettings,
    Settings,
)
from services.scheduler.use_cases.attempts.ports import NodeFiles, ServerProbe
from services.scheduler.use_cases.ports import ModelCatalog
from tests.simulation.database import Client, Database
from tests.simulation.engine import MemoryArtifacts, MemoryRuntime
from tests.simulation.messages import BadProducer, BadSubscription
from tests.simulation.registry_store import (
    MemoryRegistryUnitOfWork,
)
from tests.simulation.scheduler_store import MemoryUnitOfWork
from tests.simulation.wire import Odds, Wire
from tests.simulation.world import (
    IMAGE,
    ISOLATION_STOP_GRACE,
    LOST_LOOKS_MIN,
    NODE_LOST_AFTER,
    NODES,
    SimClock,
    World,
)
from tests.support.sim_loop import SimProcess

SCHEDULERS: Final = (NodeId("node-1"), NodeId("node-2"), NodeId("node-1"))
"""One node has two runners, which take turns."""
SOONEST_MAX: Final = 3
"""So few that plans often need to look at more."""
REGISTRY_COUNT: Final = 2


class Run(Protocol):
    """A loop of a process."""

    def __call__(self, stopping: asyncio.Event) -> Awaitable[None]: ...


class Host:
    """A machine on which one process of a service runs, one incarnation after another."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.clock = SimClock(world.loop)
        self.odds = Odds()
        """Of its ways to everything."""
        self.process: SimProcess | None = None
        self._world = world
        self._incarnation = 0
        self._awake_since_s = 0.0

    def start(self) -> None:
        """Begin an incarnation."""
        self._incarnation += 1
        self._awake_since_s = self._world.loop.time()
        process = SimProcess(f"{self.name}#{self._incarnation}", self._world.loop)
        self.process = process
        task = process.spawn(self._live(process))
        task.add_done_callback(partial(self._ended, process))

    async def kill(self) -> None:
        """End the incarnation, as SIGKILL does."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            await process.gone()

    @property
    def awake_for_s(self) -> float:
        """Return how long its process has been able to act."""
        if self.process is None or self.process.is_frozen:
            return 0.0
        return self._world.loop.time() - self._awake_since_s

    def freeze(self) -> None:
        """Stop its process where it is, as SIGSTOP does."""
        if self.process is not None:
            self.process.freeze()

    def thaw(self) -> None:
        """Let its process go on."""
        if self.process is not None and self.process.is_frozen:
            self._awake_since_s = self._world.loop.time()
            self.process.thaw()

    def wire(
        self,
        to: str,
        *,
        patience_s: float = 5.0,
        is_database: bool = False,
        is_inside: bool = False,
    ) -> Wire:
        """Return the way from here to a part."""
        return Wire(
            to,
            self._world.chance,
            self.odds,
            patience_s=patience_s,
            is_database=is_database,
            is_inside=is_inside,
        )

    async def _live(self, process: SimProcess) -> None:
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for run in self._loops(process):
                tasks.create_task(cast("Any", run(stopping)))

    def _loops(self, process: SimProcess) -> list[Run]:
        raise AssertionError("each kind of host has its own")

    def _client(self, database: Database, ids: TimeOrderedIds, source: str) -> Client:
        return Client(
            database,
            self.wire("database", patience_s=10, is_database=True),
            source=source,
            clock=self.clock,
            ids=ids,
            transaction=self._world.made.transaction,
        )

    def _relay(self, client: Client, ids: TimeOrderedIds) -> Relay:
        relay = Relay(
            self._world.made.outbox(client),
            client,
            self._producer(),
            holder=ids.new("proc"),
            clock=self.clock,
            idle=client.idle,
        )
        client.add_listener(relay.wake)
        return relay

    def _producer(self) -> BadProducer:
        world = self._world
        return BadProducer(
            world.broker, self.wire("broker"), world.chance, self.odds, world.appended
        )

    def _consumer(
        self, process: SimProcess, handlers: "dict[str, Handler]", *, topic: str, group: str
    ) -> Run:
        async def consume(stopping: asyncio.Event) -> None:
            world = self._world
            async with world.broker.open_subscription(group=group, topics=[topic]) as member:
                consumer = EventConsumer(
                    BadSubscription(member, world.chance, self.odds),
                    handlers,
                    dead_letters=self._producer(),
                    dead_letter_topic=f"modelyard.{group}.dead-letter.v1",
                    service=group,
                    group=group,
                    backoff=Backoff(chance=world.chance.random),
                )
                await consumer.run(stopping)

        return consume

    def _ids(self) -> TimeOrderedIds:
        return TimeOrderedIds(self.clock, self._world.chance.getrandbits)

    def _ended(self, process: SimProcess, task: "asyncio.Task[None]") -> None:
        if process.is_dead:
            with contextlib.suppress(asyncio.CancelledError):
                task.exception()
            return
        error = task.exception()
        self._world.fail(f"{process.name} has ended by itself: {_causes(error)}")


class SchedulerHost(Host):
    """A scheduler, and the runner of a node."""

    def __init__(self, name: str, world: World, node_id: NodeId) -> None:
        super().__init__(name, world)
        self.node_id = node_id
        self.app: scheduler_bootstrap.App | None = None

    @override
    def _loops(self, process: SimProcess) -> list[Run]:
        world, ids = self._world, self._ids()
        client = self._client(world.scheduler, ids, "/scheduler")
        unit_of_work = MemoryUnitOfWork(
            client,
            event_of,
            transaction=world.made.tenant_transaction,
            system_transaction=world.made.system_transaction,
        )
        ports = scheduler_bootstrap.Ports(
            clock=self.clock,
            ids=ids,
            chance=world.chance.random,
            holder=ids.new("proc"),
            unit_of_work=unit_of_work,
            leases=client,
            open_reader=world.open_reader,
            models=cast("ModelCatalog", None),
            artifacts=MemoryArtifacts(world.keep_artifact, self.wire("registry")),
            node_files=cast("NodeFiles", None),
            runtime=MemoryRuntime(
                world.engines[self.node_id], self.wire("container runtime", is_inside=True)
            ),
            probe=cast("ServerProbe", None),
            traces=TelemetryRunTraces(),
            list_tenants=None,
        )
        app = self.app = scheduler_bootstrap.wire(ports, _settings(self.node_id, world))
        unit_of_work.add_listener(app.alarms.ring)
        return [
            app.tenants.run,
            self._scheduling(app.scheduling).run,
            app.suspensions.run,
            app.drains.run,
            app.queue_timeouts.run,
            app.releases.run,
            *([app.ages.run] if app.ages is not None else []),
            app.element_stops.run,
            app.array_ends.run,
            app.losses.run,
            app.submissions.run,
            app.runner.run,
            app.isolation.run,
            app.candidacy.run,
            app.runner.lease.run,
            self._relay(client, ids).run,
            self._consumer(
                process,
                dict(app.log_stream),
                topic=log_stream.TOPIC,
                group=f"scheduler-runner-{self.node_id}",
            ),
        ]

    def _scheduling(self, loop: SchedulingLoop) -> SchedulingLoop:
        room = loop.make_room
        if room is not None:
            unit_of_work, silence_max = room.preempt.unit_of_work, room.preempt.node_silence_max
            room.preempt = self._world.made.preempt_jobs(unit_of_work, silence_max)
        return loop


class RegistryHost(Host):
    """A registry that registers what jobs have left."""

    @override
    def _loops(self, process: SimProcess) -> list[Run]:
        world, ids = self._world, self._ids()
        client = self._client(world.registry, ids, "/model-registry")
        unit_of_work = MemoryRegistryUnitOfWork(
            client, registry_event_of, world.made.registry_transaction
        )
        app = registry_bootstrap.wire(
            registry_bootstrap.Ports(self.clock, ids, unit_of_work, cast("Blobs", None))
        )
        return [
            self._relay(client, ids).run,
            self._consumer(
                process,
                dict(app.handlers),
                topic=job_lifecycle.TOPIC,
                group=registry_bootstrap.SERVICE,
            ),
        ]


@dataclass(frozen=True, slots=True)
class Hosts:
    """All machines of one run."""

    schedulers: list[SchedulerHost]
    registries: list[RegistryHost]

    @classmethod
    def of(cls, world: World) -> "Hosts":
        """Return machines on which nothing runs yet."""
        return cls(
            [
                SchedulerHost(f"scheduler-{number}", world, node_id)
                for number, node_id in enumerate(SCHEDULERS, 1)
            ],
            [RegistryHost(f"registry-{number}", world) for number in range(1, REGISTRY_COUNT + 1)],
        )

    def awake_for_s(self, node_id: NodeId) -> float:
        """Return how long some runner of a node has been able to act."""
        return max(host.awake_for_s for host in self.schedulers if host.node_id == node_id)

    def all(self) -> list[Host]:
        """Return both kinds."""
        return [*self.schedulers, *self.registries]


def _causes(error: BaseException | None) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_causes(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"


def _settings(node_id: NodeId, world: World) -> Settings:
    return Settings.model_construct(
        kafka=KafkaSettings(bootstrap_servers="none"),
        runtime=ProcessRuntimeSettings.model_construct(
            containers_root=Path("none"), images={IMAGE: Path("none")}
        ),
        runner=RunnerSettings.model_construct(
            node_id=node_id,
            cpu_millicores=NODES[node_id],
            memory_bytes=1 << 40,
            node_cache_root=Path("none"),
            isolation_stop_after=world.made.isolation_stop_after,
            isolation_stop_grace=ISOLATION_STOP_GRACE,
        ),
        admission=AdmissionSettings(),
        scheduling=SchedulingSettings(
            node_lost_after=NODE_LOST_AFTER,
            lost_looks_min=LOST_LOOKS_MIN,
            preemption_enabled=world.preempts,
            priority_aging=world.priority_aging,
            cycle_soonest_max=SOONEST_MAX,
        ),
        deployments=DeploymentSettings(),
        purge=PurgeSettings(),
        retention=RetentionSettings(),
        tenants_read_interval=timedelta(hours=1),
    )
