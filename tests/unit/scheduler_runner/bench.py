"""A runner's use cases on stand-ins."""

from dataclasses import dataclass, field
from datetime import timedelta

from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.use_cases.attempts.clean_up_containers import CleanUpContainers
from services.scheduler.use_cases.attempts.drive_attempt import (
    AttemptMemory,
    DriveAttempt,
    DriveLimits,
)
from services.scheduler.use_cases.attempts.prepare_container import PrepareContainer
from services.scheduler.use_cases.attempts.record_attempt import RecordAttempt
from services.scheduler.use_cases.attempts.remove_container import RemoveContainer
from services.scheduler.use_cases.attempts.store_checkpoint import StoreCheckpoint
from services.scheduler.use_cases.attempts.store_outputs import StoreOutputs
from tests.unit.scheduler_runner.fakes import (
    Artifacts,
    ManualClock,
    NodeLease,
    Probe,
    Runtime,
    Server,
    Store,
    Traces,
)

LIMITS = DriveLimits()
RETRIED_JOBS_MAX = 2


@dataclass
class Bench:
    """Everything that one runner has, within reach of a test."""

    clock: ManualClock = field(default_factory=ManualClock)
    runtime: Runtime = field(default_factory=Runtime)
    artifacts: Artifacts = field(default_factory=Artifacts)
    probe: Probe = field(default_factory=Probe)
    traces: Traces = field(default_factory=Traces)
    node_lease: NodeLease = field(default_factory=NodeLease)
    memory: AttemptMemory = field(default_factory=AttemptMemory)

    def __post_init__(self) -> None:
        self.store = Store(self.clock)
        self.record = RecordAttempt(
            self.store.as_unit_of_work(), retried_jobs_max=RETRIED_JOBS_MAX, chance=lambda: 0.0
        )
        self.prepare = PrepareContainer(
            self.runtime,
            self.artifacts,
            {"modelyard/serve-sklearn": Server()},
            replica_stop_grace=LIMITS.replica_stop_grace,
        )
        self.store_outputs = StoreOutputs(self.runtime, self.artifacts, files_max=10, bytes_max=100)
        self.store_checkpoint = StoreCheckpoint(
            self.runtime, self.artifacts, files_max=10, bytes_max=100
        )
        self.remove = RemoveContainer(self.store.as_unit_of_work(), self.runtime)
        self.clean_up = CleanUpContainers(
            self.store.as_unit_of_work(),
            self.runtime,
            self.node_lease,
            self.clock,
            kept_after_end=timedelta(hours=1),
            unknown_kept=timedelta(seconds=30),
            stray_grace=timedelta(seconds=1),
            batch_max=3,
            together_max=2,
        )
        self._drive = DriveAttempt(
            self.runtime,
            self.prepare,
            self.store_outputs,
            self.store_checkpoint,
            self.record,
            self.probe,
            self.traces,
            self.node_lease,
            self.clock,
            LIMITS,
        )

    async def drive(self, work: AttemptWork) -> timedelta | None:
        """Take one step."""
        return await self._drive(work, self.memory)
