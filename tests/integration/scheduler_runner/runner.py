"""A runner on a real database and real processes, with a folder in place of the registry.

Also a program, so that a test can kill it: `python -m tests.integration.scheduler_runner.runner
DATABASE_URL FOLDER`.
"""

import asyncio
import hashlib
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePath

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import override

from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.lease import LeaseKeeper, PostgresLeases
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.errors import InvalidArgument, NotFound, Unavailable
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import PostgresSettings
from services.chassis.tenancy import TenantId
from services.chassis.waking import Waking
from services.scheduler.adapters.model_server_mlserver import MlServerSklearn
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.adapters.postgres.unit_of_work import PostgresUnitOfWork
from services.scheduler.adapters.run_traces import TelemetryRunTraces
from services.scheduler.adapters.runtime_process.runtime import ProcessRuntime
from services.scheduler.adapters.server_probe import open_server_probe
from services.scheduler.domain.attempts.runtime import ContainerSpec, ContainerStatus
from services.scheduler.domain.identities import AttemptId, NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.entrypoints.facts import event_of
from services.scheduler.entrypoints.loops.runner import RunnerIntervals, RunnerLoop
from services.scheduler.entrypoints.loops.runtime_watch import RuntimeWatch
from services.scheduler.use_cases.attempts.clean_up_containers import CleanUpContainers
from services.scheduler.use_cases.attempts.drive_attempt import DriveAttempt, DriveLimits
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from services.scheduler.use_cases.attempts.ports import StoredFile
from services.scheduler.use_cases.attempts.prepare_container import PrepareContainer
from services.scheduler.use_cases.attempts.record_attempt import RecordAttempt
from services.scheduler.use_cases.attempts.remove_container import RemoveContainer
from services.scheduler.use_cases.attempts.store_checkpoint import StoreCheckpoint
from services.scheduler.use_cases.attempts.store_outputs import StoreOutputs

NODE = NodeId("node-1")
BASE_IMAGE = "modelyard/base"
SERVER_IMAGE = "modelyard/serve-sklearn"
CAPACITY = Resources(cpu_millicores=4_000, memory_bytes=8 << 30)
LEASE_TTL = timedelta(seconds=2)
LIMITS = DriveLimits(
    start_wait_max=timedelta(seconds=3),
    upload_wait_max=timedelta(seconds=3),
    ready_wait_max=timedelta(seconds=30),
    probe_failures_max=2,
    progress_interval=timedelta(milliseconds=50),
    warming_interval=timedelta(milliseconds=50),
    probe_interval=timedelta(milliseconds=50),
    replica_stop_grace=timedelta(seconds=1),
)
INTERVALS = RunnerIntervals(
    heartbeat=timedelta(milliseconds=200), backoff_max=timedelta(milliseconds=200)
)


@dataclass(frozen=True, slots=True)
class FolderArtifacts:
    """A registry that is a folder: files by tenant and digest; down while a file says so."""

    root: Path

    @asynccontextmanager
    async def held(
        self, tenant: TenantId, digests: Sequence[str]
    ) -> AsyncIterator[Mapping[str, PurePath]]:
        self._require_up()
        for digest in digests:
            if not self._path(tenant, digest).exists():
                raise NotFound("artifact", digest)
        yield {digest: self._path(tenant, digest) for digest in digests}

    async def put(self, tenant: TenantId, file: PurePath, *, attempt_id: AttemptId) -> StoredFile:
        self._require_up()
        if (self.root / "refusing").exists():
            raise InvalidArgument("artifact", "is refused")
        data = await asyncio.to_thread(Path(file).read_bytes)
        return StoredFile(self.add(tenant, data), len(data))

    def add(self, tenant: TenantId, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._path(tenant, digest).parent.mkdir(parents=True, exist_ok=True)
        self._path(tenant, digest).write_bytes(data)
        return digest

    def read(self, tenant: TenantId, digest: str) -> bytes:
        return self._path(tenant, digest).read_bytes()

    def be(self, state: str, *, on: bool = True) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / state).touch() if on else (self.root / state).unlink()

    def _require_up(self) -> None:
        if (self.root / "down").exists():
            raise Unavailable("model-registry")

    def _path(self, tenant: TenantId, digest: str) -> Path:
        return self.root / tenant / digest


class EngineRuntime(ProcessRuntime):
    """Processes, behind an engine that can be away: then it answers nothing, and they run on."""

    is_away = False

    @override
    async def ping(self) -> None:
        self._require_engine()

    @override
    async def create(self, spec: ContainerSpec) -> None:
        self._require_engine()
        await super().create(spec)

    @override
    async def start(self, name: str) -> ContainerStatus:
        self._require_engine()
        return await super().start(name)

    @override
    async def inspect(self, name: str) -> ContainerStatus:
        self._require_engine()
        return await super().inspect(name)

    def _require_engine(self) -> None:
        if self.is_away:
            raise Unavailable("container-engine")


@dataclass
class Runner:
    """One runner's parts."""

    loop: RunnerLoop
    lease: LeaseKeeper
    runtime: EngineRuntime
    remove: RemoveContainer
    clean_up: CleanUpContainers
    drive: DriveAttempt
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.lease.run(self.stopping))
            tasks.create_task(self.loop.run(self.stopping))


def images(root: Path) -> Mapping[str, Path]:
    """Return this Python as the base image, and one with a stand-in for MLServer."""
    served = root / "serve-sklearn"
    if not served.exists():
        (served / "bin").mkdir(parents=True)
        (served / "bin" / "python").symlink_to(sys.executable)
        server = served / "bin" / "mlserver"
        shutil.copyfile(Path(__file__).with_name("fake_mlserver.py"), server)
        server.chmod(0o755)
    return {BASE_IMAGE: Path(sys.executable).parent.parent, SERVER_IMAGE: served}


@asynccontextmanager
async def open_runner(
    engine: AsyncEngine, root: Path, *, containers: str = "containers"
) -> AsyncIterator[Runner]:
    """Wire a runner as bootstrap does."""
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    database = ChassisUnitOfWork(engine, CHASSIS, source="/scheduler", clock=clock, ids=ids)
    store = PostgresUnitOfWork(database, event_of)
    runtime = EngineRuntime(root / containers, images=images(root))
    artifacts = FolderArtifacts(root / "registry")
    lease = LeaseKeeper(
        PostgresLeases(engine, CHASSIS),
        f"node/{NODE}",
        holder=ids.new("proc"),
        ttl=LEASE_TTL,
        clock=clock,
    )
    async with open_server_probe(timeout=timedelta(seconds=5)) as probe:
        prepare = PrepareContainer(
            runtime,
            artifacts,
            {SERVER_IMAGE: MlServerSklearn()},
            replica_stop_grace=LIMITS.replica_stop_grace,
        )
        drive = DriveAttempt(
            runtime,
            prepare,
            StoreOutputs(runtime, artifacts, files_max=10, bytes_max=1 << 20),
            StoreCheckpoint(runtime, artifacts, files_max=10, bytes_max=1 << 20),
            RecordAttempt(store, retried_jobs_max=100, chance=lambda: 0.0),
            probe,
            TelemetryRunTraces(),
            lease,
            clock,
            LIMITS,
        )
        remove = RemoveContainer(store, runtime)
        clean_up = CleanUpContainers(
            store,
            runtime,
            lease,
            clock,
            kept_after_end=timedelta(hours=1),
            unknown_kept=timedelta(0),
            stray_grace=timedelta(0),
            batch_max=100,
            together_max=10,
        )
        waking = Waking(timedelta(milliseconds=50))
        database.add_listener(waking.wake)
        node = KeepNode(
            store,
            NODE,
            CAPACITY,
            runtime.capabilities.runtime,
            allows_mixed_tenants=runtime.capabilities.allows_mixed_tenants,
        )
        watch = RuntimeWatch(runtime, timedelta(seconds=2))
        loop = RunnerLoop(node, drive, clean_up, watch, lease, waking, INTERVALS)
        yield Runner(loop, lease, runtime, remove, clean_up, drive)


async def _main(url: str, root: Path) -> None:
    # A paused holder keeps the lease's row locked until the server ends its idle transaction.
    settings = PostgresSettings(
        url=SecretStr(url), idle_in_transaction_timeout=timedelta(seconds=2)
    )
    async with (
        open_engine(settings, application_name="runner") as engine,
        open_runner(engine, root) as runner,
    ):
        await runner.run()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2])))
