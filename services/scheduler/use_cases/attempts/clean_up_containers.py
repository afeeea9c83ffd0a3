"""Tidy a node: what nobody waits for any more, and what runs though nobody knows of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.chassis.clock import Clock
from services.chassis.errors import ModelyardError
from services.scheduler.domain.attempts.attempt import attempt_of_container
from services.scheduler.domain.attempts.runtime import ContainerPhase, ContainerStatus
from services.scheduler.use_cases.attempts.ports import ContainerRuntime, NodeLease
from services.scheduler.use_cases.attempts.side_by_side import grace_of_each, side_by_side
from services.scheduler.use_cases.ports import UnitOfWork

_HAS_OUTPUT: Final = frozenset({ContainerPhase.EXITED, ContainerPhase.LOST})
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
"""When an attempt ended that nobody knows."""


@dataclass(frozen=True, slots=True)
class CleanUpContainers:
    """Stop what runs though its attempt is over, and delete what is left of such attempts.

    What has exited keeps its output until that is stored, or for `kept_after_end`. Who could act
    late, and what refuses it: ADR-0013.
    """

    unit_of_work: UnitOfWork
    runtime: ContainerRuntime
    node_lease: NodeLease
    clock: Clock
    kept_after_end: timedelta
    unknown_kept: timedelta
    """How long a container stays at least whose attempt nobody knows."""
    stray_grace: timedelta
    """One pass's time for those that don't heed SIGTERM; many share it."""
    batch_max: int
    """Containers whose attempts one query asks for."""
    together_max: int
    """Containers that are stopped or deleted at a time."""

    async def __call__(self) -> int:
        """Run one pass; return how many containers were stopped or deleted.

        One that can't be dealt with holds up none of the others; their errors are raised at the
        end, as an ExceptionGroup.
        """
        failures: list[Exception] = []
        due: list[tuple[ContainerStatus, datetime]] = []
        for batch in _batches(await self.runtime.list({}), self.batch_max):
            try:
                due += await self._due(batch)
            except ModelyardError as error:
                failures.append(error)
        stray_count = sum(container.phase is ContainerPhase.RUNNING for container, _ in due)
        grace = grace_of_each(self.stray_grace, count=stray_count, together_max=self.together_max)

        async def tidy(found: tuple[ContainerStatus, datetime]) -> bool:
            container, ended_at = found
            return await self._tidy(container.name, ended_at, grace=grace)

        tidied, untidied = await side_by_side(tidy, due, together_max=self.together_max)
        if failures := [*failures, *untidied]:
            raise ExceptionGroup("containers not cleaned up", failures)
        return sum(tidied)

    async def _due(
        self, batch: Sequence[ContainerStatus]
    ) -> list[tuple[ContainerStatus, datetime]]:
        """Return what may have to go, and when their attempts ended."""
        attempt_ids = [attempt_of_container(container.name) for container in batch]
        async with self.unit_of_work.system(because="a node holds any tenant's containers") as tx:
            ends = await tx.attempts.ends(attempt_ids)
        due = []
        for container, attempt_id in zip(batch, attempt_ids, strict=True):
            if attempt_id not in ends and self._is_young(container):
                continue
            ended_at = ends.get(attempt_id, _LONG_AGO)
            if ended_at is not None and not self._is_kept(container, ended_at):
                due.append((container, ended_at))
        return due

    async def _tidy(self, name: str, ended_at: datetime, *, grace: timedelta) -> bool:
        # It may have run and ended between the listing and the record of its attempt's end.
        container = await self.runtime.inspect(name)
        if self.node_lease.held is None or self._is_kept(container, ended_at):
            return False
        if container.phase is ContainerPhase.RUNNING:
            await self.runtime.stop(name, grace=grace)
        else:
            await self.runtime.remove(name)
        return True

    def _is_young(self, container: ContainerStatus) -> bool:
        made_at = container.created_at
        return made_at is not None and made_at > self.clock.now() - self.unknown_kept

    def _is_kept(self, container: ContainerStatus, ended_at: datetime) -> bool:
        is_over = ended_at < self.clock.now() - self.kept_after_end
        return container.phase in _HAS_OUTPUT and not is_over


def _batches(
    containers: Sequence[ContainerStatus], size: int
) -> Iterator[Sequence[ContainerStatus]]:
    for start in range(0, len(containers), size):
        yield containers[start : start + size]
