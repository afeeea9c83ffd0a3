"""A container stays until its end is recorded."""

from dataclasses import replace

from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.runtime import ContainerPhase as P
from services.scheduler.domain.identities import AttemptId
from tests.unit.scheduler_runner.bench import Bench
from tests.unit.scheduler_runner.builders import NOW, some_work

ATTEMPT = AttemptId("att_1")


async def test_container_goes_once_its_attempt_is_over(bench: Bench) -> None:
    work = bench.store.given(some_work())
    bench.runtime.exited()
    assert await bench.remove(ATTEMPT) is False

    over = replace(work.attempt, state=AttemptState.EXITED, ended_at=NOW)
    bench.store.rows[ATTEMPT] = over
    assert await bench.remove(ATTEMPT) is True
    assert await bench.remove(ATTEMPT) is False


async def test_container_goes_when_nobody_knows_its_attempt(bench: Bench) -> None:
    bench.runtime.exited()

    assert await bench.remove(ATTEMPT) is True


async def test_container_stays_while_it_runs(bench: Bench) -> None:
    bench.runtime.is_(P.RUNNING)

    assert await bench.remove(ATTEMPT) is False


async def test_container_goes_while_a_new_runner_still_waits_for_the_node(bench: Bench) -> None:
    """The event comes once: whoever is told acts, since nothing else acts on it any more."""
    bench.runtime.exited()
    bench.node_lease.held = None

    assert await bench.remove(ATTEMPT) is True
