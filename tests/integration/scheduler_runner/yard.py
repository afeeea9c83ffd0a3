"""What a test of the runner gives and sees."""

import asyncio
import io
import json
import sys
import tarfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from modelyard.scheduler.v1.deployment_events_pb2 import RoutingEntry
from modelyard.scheduler.v1.job_events_pb2 import JobTransitioned
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.clock import SystemClock
from services.chassis.db.lease import LeaseKeeper, PostgresLeases
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.adapters.postgres.unit_of_work import PostgresUnitOfWork
from services.scheduler.domain.attempts.attempt import Attempt, container_name
from services.scheduler.domain.attempts.runtime import ContainerPhase, ContainerSpec
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.domain.deployments.deployment import DeploymentSpec
from services.scheduler.domain.deployments.model import ModelPin, ModelReference
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.identities import AttemptId
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.jobs.spec import JobOutput, JobSpec, JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants.tenant import Tenant, TenantTable
from services.scheduler.entrypoints.facts import event_of
from services.scheduler.use_cases.deployments.create_deployment import CreateDeployment
from services.scheduler.use_cases.deployments.delete_deployment import DeleteDeployment
from services.scheduler.use_cases.deployments.reconcile_deployments import ReconcileDeployments
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.checks import JobChecks
from services.scheduler.use_cases.jobs.submit_jobs import Submission, SubmitJobs
from services.scheduler.use_cases.scheduling.leaders_memory import LeadersMemory
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import RunSchedulingCycle
from services.scheduler.use_cases.tenants.stop_suspended_jobs import StopSuspendedJobs
from tests.integration.scheduler.yard import Yard
from tests.integration.scheduler_runner.runner import (
    BASE_IMAGE,
    CAPACITY,
    NODE,
    SERVER_IMAGE,
    FolderArtifacts,
    Runner,
    open_runner,
)
from tests.support.eventually import eventually

T = TypeVar("T")

TENANT = TenantId("acme")
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
WAIT_MAX_S = 40
"""Far beyond what an idle machine needs: a busy one starts a runner's process in ten seconds."""
SMALL = Resources(cpu_millicores=500, memory_bytes=256 << 20)


class RunnerYard:
    """A scheduler on a real database and clock; its runner starts when a test says so."""

    def __init__(self, engine: AsyncEngine, url: str, root: Path) -> None:
        self.engine, self.url, self.root = engine, url, root
        clock = SystemClock()
        ids = TimeOrderedIds(clock)
        database = ChassisUnitOfWork(engine, CHASSIS, source="/scheduler", clock=clock, ids=ids)
        self.store = PostgresUnitOfWork(database, event_of)
        self.artifacts = FolderArtifacts(root / "registry")
        self.model = ModelPin("digits", 1, ())
        self.cancel_job = CancelJob(self.store)
        self.delete_deployment = DeleteDeployment(self.store)
        self.tenants = TenantTable()
        images = {BASE_IMAGE, SERVER_IMAGE}
        self._submit = SubmitJobs(
            self.store,
            ids,
            JobChecks(
                self.tenants,
                queued_jobs_max=10,
                retry_after=timedelta(seconds=1),
                images=images,
            ),
        )
        self._create_deployment = CreateDeployment(
            self.store, self.tenants, self, ids, replicas_max=5, images=images
        )
        self._reconcile = ReconcileDeployments(
            self.store, self.tenants, deployments_per_pass_max=10, routes_settle=timedelta(0)
        )
        self._run_cycle = RunSchedulingCycle(
            self.store,
            self.tenants,
            ids,
            LeadersMemory(self.store, timedelta(hours=24)),
            heads_max=10,
            node_silence_max=timedelta(minutes=5),
            soonest_max=500,
        )
        self._stop_suspended_jobs = StopSuspendedJobs(
            self.store, self.tenants, jobs_per_pass_max=10
        )
        self._scheduling = LeaseKeeper(
            PostgresLeases(engine, CHASSIS),
            "scheduling",
            holder="proc_test",
            ttl=timedelta(minutes=5),
            clock=clock,
        )
        self.runner: Runner

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have a runner at hand, and no container left at the end."""
        async with open_runner(self.engine, self.root) as self.runner:
            async with self.store.system(because="test") as tx:
                await tx.nodes.register(
                    NODE, CAPACITY, runtime="process", allows_mixed_tenants=True
                )
            yield
            for container in await self.runner.runtime.list({}):
                if container.phase is ContainerPhase.RUNNING:
                    await self.runner.runtime.stop(container.name, grace=timedelta(0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the runner run in this process."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.runner.run())
            try:
                yield
            finally:
                self.runner.stopping.set()

    @asynccontextmanager
    async def running_elsewhere(self) -> AsyncIterator[Process]:
        """Let a runner run in a process of its own, which a test may kill."""
        program = "tests.integration.scheduler_runner.runner"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", program, self.url, str(self.root)
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def resolve(self, reference: ModelReference) -> ModelPin:
        """Be the model catalog."""
        return self.model

    async def a_job(
        self,
        program: str,
        *,
        run_timeout_s: float = 60,
        stop_grace_s: float = 5,
        admit: bool = True,
        **changes: Any,
    ) -> Job:
        """Submit a job that runs a Python program, and have it admitted."""
        given: dict[str, Any] = {
            "name": "test",
            "image": BASE_IMAGE,
            "command": ("python", "main.py"),
            "source_digest": self.artifacts.add(TENANT, bundle({"main.py": program})),
            "resources": SMALL,
            "retries": JobRetries(count_max=0),
            "timeouts": JobTimeouts(
                run=timedelta(seconds=run_timeout_s), stop_grace=timedelta(seconds=stop_grace_s)
            ),
        }
        spec = JobSpec(**(given | changes))
        [job] = await self._submit([Submission(TENANT, spec, key=None, traceparent=TRACEPARENT)])
        assert isinstance(job, Job), job
        if admit:
            await self.cycle()
        return await self.job(job)

    async def a_deployment(self, behavior: str, *, replica_count: int = 1) -> ShownDeployment:
        """Deploy a model whose bytes tell the fake server how to behave."""
        digest = self.artifacts.add(TENANT, behavior.encode())
        self.model = ModelPin("digits", 1, (FileEntry("model.joblib", len(behavior), digest),))
        spec = DeploymentSpec(
            name="digits",
            model="models:/digits@champion",
            image=SERVER_IMAGE,
            replica_count=replica_count,
            resources=SMALL,
        )
        shown = await self._create_deployment(TENANT, spec, key=None, traceparent=TRACEPARENT)
        await self.cycle()
        return shown

    async def cycle(self) -> None:
        """Give capacity to those who wait."""
        held = await self._scheduling.acquire()
        assert held is not None
        await self._run_cycle(held)

    async def suspend(self, *, is_suspended: bool = True) -> None:
        """Hear that the tenant is suspended, or resumed, and do what follows from it for jobs."""
        version = self.tenants.get(TENANT).version + 1
        self.tenants.apply(
            Tenant(TENANT, version=version, is_suspended=is_suspended, reason="unpaid")
        )
        held = await self._scheduling.acquire()
        assert held is not None
        await self._stop_suspended_jobs(held)

    async def reconcile(self) -> None:
        """Bring deployments one step closer."""
        held = await self._scheduling.acquire()
        assert held is not None
        await self._reconcile(held)

    async def job(self, job: Job) -> Job:
        async with self.store(TENANT) as tx:
            return await tx.jobs.get(job.id)

    async def replica(self, deployment: ShownDeployment) -> Replica:
        async with self.store(TENANT) as tx:
            return (await tx.deployments.replicas([deployment.deployment.id]))[
                deployment.deployment.id
            ][0]

    async def attempt(self, owner: Job | Replica) -> Attempt:
        assert owner.attempt_id is not None
        return await self.attempt_of(owner.attempt_id)

    async def attempt_of(self, attempt_id: AttemptId) -> Attempt:
        async with self.store.system(because="test") as tx:
            return await tx.attempts.get(attempt_id)

    async def sees(self, look: Callable[[], Awaitable[T | None]], *, what: str) -> T:
        """Return the first thing that is seen."""
        found = await eventually(look, what=what, within_s=WAIT_MAX_S)
        assert found is not None
        return found

    async def becomes(self, job: Job, *states: JobState) -> Job:
        """Wait until a job is in one of these states; return it."""

        async def is_there() -> Job | None:
            found = await self.job(job)
            return found if found.state in states else None

        return await self.sees(is_there, what=f"{job.id} becomes {states}")

    async def replica_becomes(self, deployment: ShownDeployment, state: ReplicaState) -> Replica:
        async def is_there() -> Replica | None:
            found = await self.replica(deployment)
            return found if found.state is state else None

        return await self.sees(is_there, what=f"the replica becomes {state}")

    async def used(self) -> Resources:
        async with self.store.system(because="test") as tx:
            return (await tx.nodes.get(NODE)).used

    async def event_types(self, key: str) -> list[str]:
        return await Yard(self.engine).event_types(key)

    async def job_facts(self, job: Job) -> list[JobTransitioned]:
        return await Yard(self.engine).job_facts(job.id)

    async def routes(self, deployment: ShownDeployment) -> list[RoutingEntry]:
        return await Yard(self.engine).routes(deployment.deployment.id)

    async def open_work(self) -> Sequence[AttemptWork]:
        return await Yard(self.engine).open_work(NODE)

    def output(self, attempt: Attempt) -> str:
        """Return what an attempt wrote to its standard output."""
        log = self.work_folder(attempt).parent / "container.log"
        records = [json.loads(line) for line in log.read_text().splitlines()]
        return "".join(record["log"] for record in records if record["stream"] == "stdout")

    async def said_something(self, job: Job) -> None:
        """Wait until a job has written to its progress file."""

        async def has_said() -> bool:
            attempt = await self.attempt(await self.job(job))
            progress = await self.runner.runtime.read_progress(attempt.container_name, offset=0)
            return bool(progress.data)

        await self.sees(has_said, what="the job says something")

    async def a_stray(self) -> str:
        """Run a container of an attempt that nobody knows."""
        name = container_name(AttemptId("att_unknown"))
        await self.runner.runtime.create(
            ContainerSpec(name, TENANT, BASE_IMAGE, ("python", "-c", "import time; time.sleep(60)"))
        )
        await self.runner.runtime.start(name)
        return name

    def work_folder(self, attempt: Attempt) -> Path:
        """Return the working folder of an attempt's container."""
        return self.root / "containers" / attempt.container_name / "work"

    async def check(self) -> None:
        """Check what must hold whatever happened."""
        await Yard(self.engine).check()


def bundle(files: dict[str, str]) -> bytes:
    """Return a source bundle."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def an_output(path: str, *, register_as: str = "") -> JobOutput:
    return JobOutput(name=path.partition(".")[0], path=path, register_as=register_as)
