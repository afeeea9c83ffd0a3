"""Who submits and cancels jobs, and who empties nodes: each repeats until answered."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from services.chassis.errors import FailedPrecondition, ModelyardError, Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler import bootstrap as scheduler_bootstrap
from services.scheduler.domain.identities import JobId, NodeId
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.jobs.spec import (
    DependencyCondition,
    JobDependency,
    JobOutput,
    JobSpec,
    JobTimeouts,
)
from services.scheduler.domain.queues.queue import DEFAULT_QUEUE
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.ports import RequestKey
from tests.simulation.hosts import SchedulerHost
from tests.simulation.world import IMAGE, NODES, PLANS, TENANTS, World

T = TypeVar("T")

CLIENT_COUNT: Final = 4
JOBS_PER_CLIENT_MAX: Final = 12
ANSWER_S_MAX: Final = 6.0
QUEUES: Final = (DEFAULT_QUEUE, "nightly")


class Clients:
    """The clients of one run; none begins anything when its first part is over."""

    def __init__(self, world: World, schedulers: Sequence[SchedulerHost]) -> None:
        self._world = world
        self._chance = world.chance
        self._schedulers = schedulers
        self._submitted: dict[TenantId, list[JobId]] = defaultdict(list)

    async def run(self) -> None:
        """Let all of them ask for what they want."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENT_COUNT):
                tasks.create_task(self._be_client(number))
            tasks.create_task(self._be_operator())
            tasks.create_task(self._be_keeper())

    async def _be_client(self, number: int) -> None:
        """Submit jobs, each until it is answered, and cancel some."""
        for count in range(JOBS_PER_CLIENT_MAX):
            await asyncio.sleep(self._chance.expovariate(1 / 6))
            if self._world.over.is_set():
                return
            await self._submit(f"{number}-{count}")

    async def _be_operator(self) -> None:
        """Empty a node at times, and open it again, whatever is over meanwhile."""
        while not self._world.over.is_set():
            await asyncio.sleep(self._chance.expovariate(1 / 30))
            await self._close(self._chance.choice(list(NODES)))

    async def _be_keeper(self) -> None:
        """Pause a tenant's queue at times, and resume it, whatever is over meanwhile."""
        while not self._world.over.is_set():
            await asyncio.sleep(self._chance.expovariate(1 / 30))
            await self._pause(self._chance.choice(TENANTS), self._chance.choice(QUEUES))

    async def _pause(self, tenant: TenantId, queue: str) -> None:
        await self._until_answered(
            lambda app: app.queues.pause_queue(tenant, queue, reason="", by="keeper")
        )
        await asyncio.sleep(self._chance.expovariate(1 / 15))
        await self._until_answered(lambda app: app.queues.resume_queue(tenant, queue, by="keeper"))

    async def drain(self, node_id: NodeId) -> None:
        """Empty a node."""
        await self._until_answered(lambda app: app.nodes.change_node.drain(node_id, by="operator"))

    async def uncordon(self, node_id: NodeId) -> None:
        """Open a node."""
        await self._until_answered(
            lambda app: app.nodes.change_node.uncordon(node_id, by="operator")
        )

    async def _close(self, node_id: NodeId) -> None:
        if self._chance.random() < 0.7:
            await self.drain(node_id)
        else:
            await self._until_answered(
                lambda app: app.nodes.change_node.cordon(node_id, by="operator")
            )
        await asyncio.sleep(self._chance.expovariate(1 / 15))
        await self.uncordon(node_id)

    async def _submit(self, name: str) -> None:
        tenant = self._chance.choice(TENANTS)
        spec = self._some_spec(name)
        if (most := PLANS.get(tenant)) is not None:
            fitting = spec.resources.count_in(most, most=spec.task_count)
            spec = replace(spec, task_count=fitting)
        spec = replace(spec, after=self._some_earlier(tenant))
        key = RequestKey(name, hashlib.sha256(name.encode()).digest())
        job_id = await self._until_answered(
            lambda app: app.jobs.submit_job(tenant, spec, key=key, traceparent=None)
        )
        if job_id is None:
            return
        self._submitted[tenant].append(job_id.id)
        self._world.check(lambda: self._world.checkers.answered(f"{tenant}/{name}", job_id.id))
        if self._chance.random() < 0.25:
            await asyncio.sleep(self._chance.expovariate(1 / 4))
            cancelled = await self._until_answered(
                lambda app: app.jobs.cancel_job(tenant, JobId(job_id.id), reason="changed my mind")
            )
            if cancelled is not None:
                self._world.checkers.was_cancelled(cancelled)

    def _some_earlier(self, tenant: TenantId) -> tuple[JobDependency, ...]:
        """Return what a job is to wait for: often nothing, else one or two of the last ones."""
        chance, last = self._chance, self._submitted[tenant][-4:]
        count = chance.choice((0, 0, 1, 2))
        return tuple(
            JobDependency(job_id, chance.choice(list(DependencyCondition)))
            for job_id in chance.sample(last, min(count, len(last)))
        )

    def _some_spec(self, name: str) -> JobSpec:
        chance = self._chance
        seconds, code = chance.choice((0, 1, 3, 8, 20, 100)), chance.choice((0, 0, 0, 1))
        outputs = tuple(
            JobOutput(f"out-{place}", f"out/{place}", register_as=chance.choice(("m", "n")))
            for place in range(chance.choice((0, 1, 1, 2)))
        )
        return JobSpec(
            name=name,
            image=IMAGE,
            command=("run", str(seconds), str(code)),
            inputs=(),
            source_digest=f"sha256:{'0' * 64}" if chance.random() < 0.3 else "",
            outputs=outputs,
            resources=Resources(chance.choice((500, 1_000, 1_000)), 1 << 29),
            timeouts=JobTimeouts(
                queue=chance.choice((None, None, timedelta(seconds=20))),
                start=chance.choice((None, None, timedelta(seconds=15))),
                run=timedelta(seconds=chance.choice((5, 120, 120))),
                stop_grace=timedelta(seconds=chance.choice((0, 2, 8))),
            ),
            retries=JobRetries(
                count_max=chance.choice((0, 1, 3, 3)),
                reasons=chance.choice(((), (FailureReason.KILLED, FailureReason.RUN_TIMEOUT))),
                exit_codes=chance.choice(((), (), (1,))),
            ),
            priority=chance.choice((0, 0, 5)),
            queue=chance.choice(QUEUES),
            task_count=chance.choice((1, 1, 1, 2, 3)),
            array_size=chance.choice((0, 0, 0, 0, 0, 2, 5)),
        )

    async def _until_answered(
        self, act: Callable[[scheduler_bootstrap.App], Awaitable[T]]
    ) -> T | None:
        """Ask one scheduler after another; None when it was refused for good."""
        while True:
            try:
                return await self._ask(act)
            except FailedPrecondition:
                return None
            except ModelyardError as error:
                if not error.retryable and self._world.over.is_set():
                    return None
            await asyncio.sleep(self._chance.expovariate(1))

    async def _ask(self, act: Callable[[scheduler_bootstrap.App], Awaitable[T]]) -> T:
        host = self._chance.choice(self._schedulers)
        process, app = host.process, host.app
        if process is None or app is None:
            raise Unavailable(host.name)
        answer = process.spawn(_serve(act, app))
        done, _ = await asyncio.wait({answer}, timeout=ANSWER_S_MAX)
        if not done:
            answer.cancel()
            answer.add_done_callback(_look_at)
            raise Unavailable(host.name)
        if answer.cancelled() or self._chance.random() < host.odds.lost_back:
            _look_at(answer)
            raise Unavailable(host.name)
        return answer.result()


async def _serve(
    act: Callable[[scheduler_bootstrap.App], Awaitable[T]], app: scheduler_bootstrap.App
) -> T:
    return await act(app)


def _look_at(task: "asyncio.Task[Any]") -> None:
    """Know of a task's failure, which nobody waits for any more."""
    if task.done() and not task.cancelled():
        task.exception()
