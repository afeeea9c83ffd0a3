"""Drive one attempt from created to a recorded end, a step at a time."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, assert_never

from services.chassis.amounts import duration_in_words, size_in_words
from services.chassis.clock import Clock
from services.chassis.errors import ModelyardError, Unavailable
from services.scheduler.domain.attempts.next_step import Step, next_step, start_time_left
from services.scheduler.domain.attempts.progress import ProgressTail, Said
from services.scheduler.domain.attempts.runtime import (
    ContainerExit,
    ContainerPhase,
    ContainerStatus,
    EndCause,
)
from services.scheduler.domain.attempts.work import AttemptWork, JobWork, ReplicaWork
from services.scheduler.domain.jobs.failure import (
    LAST_LINES_CHARACTERS_MAX,
    FailureReason,
    JobFailure,
)
from services.scheduler.domain.jobs.job import JobProgress
from services.scheduler.use_cases.attempts.ports import (
    ContainerRuntime,
    NodeLease,
    RunSpan,
    RunTraces,
    ServerProbe,
)
from services.scheduler.use_cases.attempts.prepare_container import (
    LABEL_PORT,
    LABEL_READY_PATH,
    PrepareContainer,
)
from services.scheduler.use_cases.attempts.record_attempt import (
    NOTHING_KEPT,
    Kept,
    Outcome,
    RecordAttempt,
    Succeeded,
)
from services.scheduler.use_cases.attempts.store_checkpoint import StoreCheckpoint
from services.scheduler.use_cases.attempts.store_outputs import StoreOutputs
from services.scheduler.use_cases.ports import Lease

AGAIN: Final = timedelta(0)
"""Look again at once."""


@dataclass(frozen=True, slots=True)
class DriveLimits:
    """How long the runner waits for what, and how often it looks."""

    start_wait_max: timedelta = timedelta(minutes=10)
    """From the first failure on; what keeps an attempt from starting is given up after that."""
    upload_wait_max: timedelta = timedelta(minutes=10)
    """From the first failure on; a registry that can't be reached is waited for so long."""
    ready_wait_max: timedelta = timedelta(seconds=60)
    """From a server's start on until it first answers."""
    probe_failures_max: int = 3
    """In a row; then a server is out of the routing entry, and is stopped."""
    progress_interval: timedelta = timedelta(seconds=1)
    recheck_interval: timedelta = timedelta(seconds=5)
    """Fallback only: of what tells no progress of its job the end alone matters, which is news."""
    warming_interval: timedelta = timedelta(milliseconds=250)
    probe_interval: timedelta = timedelta(seconds=2)
    replica_stop_grace: timedelta = timedelta(seconds=10)
    loss_wait_max: timedelta = timedelta(seconds=5)
    """For the rest of a lost container to end; then it is looked at again: a runtime may have
    answered from the past, and what runs on may be asked to stop."""


@dataclass(slots=True)
class AttemptMemory:
    """What makes driving cheaper and its messages better; losing it in a restart is no harm."""

    progress: ProgressTail = field(default_factory=ProgressTail)
    recorded: Said | None = None
    """What of the progress is recorded."""
    probe_failure_count: int = 0
    start_failure: JobFailure | None = None
    hindered_since: float | None = None
    """When what is tried again now, the start or the upload, first failed: by the monotonic clock,
    since wall time may leap."""
    hindered_by: str | None = None
    """Why the start last failed."""
    has_lost_checkpoint: bool = False
    """The registry has not what an earlier attempt left, so its container was made without."""
    stopped_because: str | None = None
    """Why the runner itself stopped it, if it did."""
    is_running: bool = False
    """The container was seen running: its exit is worth waiting for."""
    left: ContainerStatus | None = None
    """What the last step has made of the container, where the next one need not look."""
    is_moving_files: bool = False
    """The step under way fetches or stores files, which may take long; it may be cut short."""

    @contextmanager
    def moving_files(self) -> Iterator[None]:
        """Say so while the block runs: whoever wants the attempt's end need not wait for it."""
        self.is_moving_files = True
        try:
            yield
        finally:
            self.is_moving_files = False

    @classmethod
    def of_new(cls, work: AttemptWork) -> "AttemptMemory":
        """Return what is known of an attempt that was placed while this runner had the node."""
        return cls(left=ContainerStatus(work.attempt.container_name, ContainerPhase.ABSENT))


@dataclass(frozen=True, slots=True)
class DriveAttempt:
    """Look at an attempt and its container, and take the one step that follows.

    Each effect on the runtime asks for the node's lease first, each record holds it: a runner that
    lost its node stops acting. Raises what may pass (`retryable`): the caller looks again later.
    """

    runtime: ContainerRuntime
    prepare: PrepareContainer
    store_outputs: StoreOutputs
    store_checkpoint: StoreCheckpoint
    record: RecordAttempt
    probe: ServerProbe
    traces: RunTraces
    node_lease: NodeLease
    clock: Clock
    limits: DriveLimits

    async def __call__(self, work: AttemptWork, memory: AttemptMemory) -> timedelta | None:
        """Take a step; return when to look again. None: not before there is news."""
        with self.traces.under(work.traceparent):
            container, memory.left = memory.left, None
            if container is None:
                container = await self.runtime.inspect(work.attempt.container_name)
            step = next_step(work, container, now=self.clock.now())
            memory.is_running = container.phase is ContainerPhase.RUNNING
            return await self._take(step, work, container, memory)

    async def _take(  # noqa: C901 (one line a step)
        self, step: Step, work: AttemptWork, container: ContainerStatus, memory: AttemptMemory
    ) -> timedelta | None:
        match step:
            case Step.PREPARE:
                return await self._prepare(work, memory)
            case Step.START:
                return await self._start(work, memory)
            case Step.GIVE_UP_START:
                return await self._out_of_start_time(work, memory)
            case Step.RECORD_START:
                return await self._record_start(work, container, memory)
            case Step.WATCH if isinstance(work.owner, ReplicaWork):
                return await self._watch_replica(work, work.owner, container, memory)
            case Step.WATCH:
                return await self._watch_job(work, memory)
            case Step.TIME_OUT:
                await self.record.out_of_time(self._lease(), work)
                return None
            case Step.STOP:
                return await self._stop(work)
            case Step.FINISH:
                return await self._finish(work, container, memory)
            case Step.RECORD_LOSS:
                return await self._record_loss(work, container, memory)
            case Step.CLOSE:
                return await self._close(work, memory)
        assert_never(step)

    async def _prepare(self, work: AttemptWork, memory: AttemptMemory) -> timedelta | None:
        lease = self._lease()
        # Where that takes no time it is recorded with the start, in one commit instead of two. The
        # intent, the attempt with its node and its container's name, was committed on admission.
        if self.prepare.fetches_files(work) or memory.hindered_since is not None:
            await self.record.starting(lease, work, hindered_by=memory.hindered_by)
        time_left = start_time_left(work)
        start_time = asyncio.timeout(None if time_left is None else time_left.total_seconds())
        try:
            async with start_time:
                with memory.moving_files():
                    memory.has_lost_checkpoint = not await self.prepare(work)
        except ModelyardError as error:
            return await self._give_up_start(work, memory, error)
        except TimeoutError:
            if not start_time.expired():
                raise
            return await self._out_of_start_time(work, memory)
        memory.left = ContainerStatus(work.attempt.container_name, ContainerPhase.CREATED)
        return AGAIN

    async def _start(self, work: AttemptWork, memory: AttemptMemory) -> timedelta | None:
        lease = self._lease()
        if memory.hindered_by is not None:
            await self.record.starting(lease, work, hindered_by=memory.hindered_by)
        self._lease()  # once more: to record took time, in which it may have gone
        try:
            memory.left = await self.runtime.start(work.attempt.container_name)
        except ModelyardError as error:
            return await self._give_up_start(work, memory, error)
        return AGAIN

    async def _give_up_start(
        self, work: AttemptWork, memory: AttemptMemory, error: ModelyardError
    ) -> timedelta | None:
        """Close the attempt, unless what hinders its start may still pass."""
        memory.hindered_by = error.message
        if self._is_worth_waiting(error, memory, wait_max=self.limits.start_wait_max):
            raise error
        reason = FailureReason.RUNTIME_ERROR if error.retryable else FailureReason.START
        memory.start_failure = JobFailure(reason, error.message)
        return await self._close(work, memory)

    async def _out_of_start_time(
        self, work: AttemptWork, memory: AttemptMemory
    ) -> timedelta | None:
        assert isinstance(work.owner, JobWork), "only jobs bound their start"
        start_max = work.owner.spec.timeouts.start
        assert start_max is not None, "only who bounds it runs out of it"
        told = f"did not start within {duration_in_words(start_max)}"
        if memory.hindered_by is not None:
            told = f"{told}: {memory.hindered_by}"
        memory.start_failure = JobFailure(FailureReason.START_TIMEOUT, told)
        return await self._close(work, memory)

    async def _close(self, work: AttemptWork, memory: AttemptMemory) -> timedelta | None:
        lease = self._lease()
        container = await self.runtime.entomb(work.attempt.container_name)
        if container.phase is not ContainerPhase.TOMBSTONE:
            return AGAIN  # it had been started
        given_up = JobFailure(FailureReason.START, "it was given up before its start")
        await self.record.closed(lease, work, memory.start_failure or given_up)
        return None

    async def _record_start(
        self, work: AttemptWork, container: ContainerStatus, memory: AttemptMemory
    ) -> timedelta | None:
        memory.hindered_since = None
        location = await self.runtime.log_location(container.name)
        started_at = container.started_at or self.clock.now()
        await self.record.started(
            self._lease(),
            work,
            log_location=location,
            at=started_at,
            has_lost_checkpoint=memory.has_lost_checkpoint,
        )
        return None

    async def _watch_job(self, work: AttemptWork, memory: AttemptMemory) -> timedelta | None:
        interval = self.limits.recheck_interval
        if _speaks_for_its_job(work):
            interval = self.limits.progress_interval
            progress = await self._new_progress(work, memory)
            if progress is not None:
                await self.record.progressed(self._lease(), work, progress)
                memory.recorded = memory.progress.said
        assert isinstance(work.owner, JobWork), "replicas are watched in another way"
        assert work.attempt.started_at is not None, "what is watched has started"
        time_left = work.attempt.started_at + work.owner.spec.timeouts.run - self.clock.now()
        return max(AGAIN, min(interval, time_left))

    async def _new_progress(self, work: AttemptWork, memory: AttemptMemory) -> JobProgress | None:
        read = await self.runtime.read_progress(
            work.attempt.container_name, offset=memory.progress.offset
        )
        memory.progress = memory.progress.fed(read.data, next_offset=read.next_offset)
        said = memory.progress.said
        return said.at(self.clock.now()) if said is not None and said != memory.recorded else None

    async def _watch_replica(
        self,
        work: AttemptWork,
        replica: ReplicaWork,
        container: ContainerStatus,
        memory: AttemptMemory,
    ) -> timedelta | None:
        url = f"http://{_address(container)}{container.labels[LABEL_READY_PATH]}"
        is_ready = await self.probe.is_ready(url)
        if replica.address is None:
            return await self._watch_warming(work, container, memory, is_ready=is_ready)
        memory.probe_failure_count = 0 if is_ready else memory.probe_failure_count + 1
        if memory.probe_failure_count < self.limits.probe_failures_max:
            return self.limits.probe_interval
        memory.probe_failure_count = 0
        await self.record.answers_no_more(self._lease(), work)
        return None

    async def _watch_warming(
        self,
        work: AttemptWork,
        container: ContainerStatus,
        memory: AttemptMemory,
        *,
        is_ready: bool,
    ) -> timedelta | None:
        if is_ready:
            await self.record.answers(self._lease(), work, address=_address(container))
            return None
        assert container.started_at is not None, "what is watched has started"
        if self.clock.now() >= container.started_at + self.limits.ready_wait_max:
            memory.stopped_because = "its server does not answer"
            return await self._stop(work)
        return self.limits.warming_interval

    async def _stop(self, work: AttemptWork) -> timedelta | None:
        self._lease()
        grace = (
            work.owner.spec.timeouts.stop_grace
            if isinstance(work.owner, JobWork)
            else self.limits.replica_stop_grace
        )
        await self.runtime.stop(work.attempt.container_name, grace=grace)
        return AGAIN

    async def _finish(
        self, work: AttemptWork, container: ContainerStatus, memory: AttemptMemory
    ) -> timedelta | None:
        end = container.exit
        assert end is not None, "what has exited tells how"
        # 1. The last progress belongs to the job's end.
        progress = await self._new_progress(work, memory) if _speaks_for_its_job(work) else None
        # 2. What it left goes to the registry, before anybody is told that it succeeded.
        with memory.moving_files():
            outcome = await self._outcome(work, end, memory)
            kept = await self._kept(work, outcome, memory)
        # 3. End, capacity and owner in one commit; then its span.
        if await self.record.exited(
            self._lease(), work, end, outcome, progress=progress, kept=kept
        ):
            self._trace(work, end)
        return None

    async def _outcome(
        self, work: AttemptWork, end: ContainerExit, memory: AttemptMemory
    ) -> Outcome:
        if end.code == 0 and end.cause is None and isinstance(work.owner, JobWork):
            if work.should_end or not _speaks_for_its_job(work):
                return Succeeded(())  # nobody asks for its outputs, or not any more
            try:
                return Succeeded(await self.store_outputs(work, work.owner))
            except ModelyardError as error:
                if self._is_worth_waiting(error, memory, wait_max=self.limits.upload_wait_max):
                    raise
                return await self._failure(work, end, FailureReason.OUTPUTS, error.message)
        if end.cause is EndCause.STOP and _nobody_asked(work):
            # Whatever its exit code: nobody let it come to its end.
            told = "its node was cut off, so it was stopped"
            return await self._failure(work, end, FailureReason.LOST, told)
        reason, message = _why(end, memory_bytes=work.attempt.resources.memory_bytes)
        if end.cause is EndCause.STOP:
            message = memory.stopped_because or message
        return await self._failure(work, end, reason, message)

    async def _failure(
        self, work: AttemptWork, end: ContainerExit, reason: FailureReason, message: str
    ) -> JobFailure:
        last_lines = await self._last_lines(work)
        return JobFailure(reason, message, exit_code=end.code, last_lines=last_lines)

    async def _last_lines(self, work: AttemptWork) -> str:
        return await self.runtime.last_lines(
            work.attempt.container_name, bytes_max=LAST_LINES_CHARACTERS_MAX
        )

    async def _record_loss(
        self, work: AttemptWork, container: ContainerStatus, memory: AttemptMemory
    ) -> timedelta | None:
        self._lease()
        rest = asyncio.timeout(self.limits.loss_wait_max.total_seconds())
        try:
            async with rest:
                await self.runtime.wait_exit(work.attempt.container_name)  # nothing of it is left
        except TimeoutError:
            if not rest.expired():
                raise
            return AGAIN
        message, last_lines = "its container is gone, and how it ended is not known", ""
        if container.phase is ContainerPhase.LOST:
            message = "nobody saw it end, and how it ended is not known"
            last_lines = await self._last_lines(work)
        failure = JobFailure(FailureReason.LOST, message, last_lines=last_lines)
        with memory.moving_files():
            kept = await self._kept(work, failure, memory)
        await self.record.lost(self._lease(), work, failure, kept=kept)
        return None

    async def _kept(self, work: AttemptWork, outcome: Outcome, memory: AttemptMemory) -> Kept:
        """Store what the next attempt is to find, if there may be one."""
        if not _may_come_back(work, outcome):
            return NOTHING_KEPT
        try:
            return Kept(await self.store_checkpoint(work))
        except ModelyardError as error:
            if self._is_worth_waiting(error, memory, wait_max=self.limits.upload_wait_max):
                raise
            return Kept(problem=error.message)

    def _is_worth_waiting(
        self, error: ModelyardError, memory: AttemptMemory, *, wait_max: timedelta
    ) -> bool:
        """Tell whether what failed may still pass; a platform that was away costs no patience."""
        now_s = self.clock.monotonic()
        if memory.hindered_since is None:
            memory.hindered_since = now_s
        return error.retryable and now_s < memory.hindered_since + wait_max.total_seconds()

    def _lease(self) -> Lease:
        lease = self.node_lease.held
        if lease is None:
            raise Unavailable("this node's lease")
        return lease

    def _trace(self, work: AttemptWork, end: ContainerExit) -> None:
        if work.traceparent is None:
            return
        attributes: dict[str, str | int] = {
            "modelyard.attempt.id": work.attempt.id,
            "modelyard.attempt.number": work.attempt.number,
            "modelyard.attempt.task": work.attempt.task,
            "modelyard.node.id": work.attempt.node_id,
            "modelyard.container.exit_code": end.code,
        }
        if end.memory_bytes_peak is not None:
            attributes["modelyard.container.memory_bytes_peak"] = end.memory_bytes_peak
        self.traces.record(RunSpan(work.traceparent, end.started_at, end.ended_at, attributes))


def _speaks_for_its_job(work: AttemptWork) -> bool:
    """Tell whether progress and outputs of it are its job's: of several tasks the first one's."""
    return isinstance(work.owner, JobWork) and work.attempt.task == 0


def _may_come_back(work: AttemptWork, outcome: Outcome) -> bool:
    """Tell whether the job may go back in line; how often it has is not known here."""
    if not isinstance(work.owner, JobWork) or not work.is_current or work.attempt.task:
        return False
    retries = work.owner.spec.retries
    if work.stop is not None:
        return work.stop.allows_return(retries, retry_count=0)
    return isinstance(outcome, JobFailure) and retries.allow(
        outcome.reason, outcome.exit_code, retry_count=0
    )


def _nobody_asked(work: AttemptWork) -> bool:
    """Tell whether a job is to go on; then only the loss of its node lets its runner stop it."""
    return isinstance(work.owner, JobWork) and not work.should_end


def _address(container: ContainerStatus) -> str:
    return f"{container.host}:{container.labels[LABEL_PORT]}"


def _why(end: ContainerExit, *, memory_bytes: int) -> tuple[FailureReason, str]:
    """Return what a container's end says about why it ended."""
    match end.cause:
        case EndCause.TIME_LIMIT:
            return FailureReason.RUN_TIMEOUT, "ran longer than its limit"
        case EndCause.MEMORY_LIMIT:
            return (
                FailureReason.OUT_OF_MEMORY,
                f"used more memory than its {size_in_words(memory_bytes)}",
            )
        case EndCause.STOP if end.signal is not None:
            return FailureReason.KILLED, "was stopped"
    if end.signal == signal.SIGKILL:  # a runtime may miss a want of memory right at the start
        return FailureReason.KILLED, f"killed by signal {end.signal}, maybe for want of memory"
    if end.signal is not None:
        return FailureReason.KILLED, f"killed by signal {end.signal}"
    return FailureReason.EXIT_CODE, f"exit code {end.code}"
