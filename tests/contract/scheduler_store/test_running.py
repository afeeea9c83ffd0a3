"""Who runs, and could make room for a job of a larger priority."""

from dataclasses import replace
from datetime import timedelta

from services.scheduler.domain.attempts.attempt import Attempt, Owner, OwnerKind
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.job import Job, StopCause
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.scheduling.preemption import Running
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, NODE, NOW, UMBRELLA, a_spec, resources

RUN_MAX = timedelta(hours=2)
GRACE = timedelta(seconds=40)
TIMEOUTS = JobTimeouts(run=RUN_MAX, stop_grace=GRACE)


async def place(store: Store, name: str = "1", *, priority: int = 3) -> None:
    """Place a job as a cycle does."""
    spec = a_spec(priority=priority, resources=resources(), timeouts=TIMEOUTS)
    job, _ = Job.queued(JobId(f"job_{name}"), UMBRELLA, spec, at=NOW, traceparent=None)
    placed, _ = job.admitted(AttemptId(f"att_{name}"), NODE, at=NOW)
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add([job])
        await tx.jobs.get_any(job.id)
        await tx.jobs.save(placed)
        await tx.attempts.add([attempt(name, Owner(OwnerKind.JOB, job.id, public_id=job.id))])


async def serve(store: Store) -> None:
    """Place what is no job's."""
    async with store.unit_of_work.system(because="test") as tx:
        replica = Owner(OwnerKind.REPLICA, "rep_1", public_id="dep_1")
        await tx.attempts.add([replace(attempt("9", replica), tenant=ACME)])


def attempt(name: str, owner: Owner) -> Attempt:
    made, _ = Attempt.created(
        AttemptId(f"att_{name}"),
        UMBRELLA,
        owner,
        number=1,
        node_id=NODE,
        resources=resources(),
        at=NOW,
        traceparent=None,
    )
    return made


async def running(store: Store, *, preemptible_by: int) -> dict[str, Running]:
    async with store.unit_of_work.reading(because="test") as look:
        found = await look.attempts.running(preemptible_by=preemptible_by)
    return {each.id: each for each in found}


async def a_node(store: Store) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.register(
            NODE, resources(cpu=4, memory=8), runtime="process", allows_mixed_tenants=True
        )


async def test_who_runs_is_told_with_what_its_stop_would_free_and_cost(store: Store) -> None:
    await a_node(store)
    await place(store)
    found = (await running(store, preemptible_by=4))["job_1"]
    assert found.ends_in is not None
    assert RUN_MAX - timedelta(minutes=1) < found.ends_in <= RUN_MAX
    assert timedelta(0) <= found.placed_for < timedelta(minutes=1)
    assert found == Running(
        "job_1",
        UMBRELLA,
        {NODE: resources()},
        found.placed_for,
        priority=3,
        attempt_id=AttemptId("att_1"),
        ends_in=found.ends_in,
        stop_grace=GRACE,
    )


async def test_nothing_is_told_where_nobody_has_a_smaller_priority(store: Store) -> None:
    await a_node(store)
    await place(store)
    assert await running(store, preemptible_by=3) == {}


async def test_all_are_told_of_where_somebody_has(store: Store) -> None:
    await a_node(store)
    await place(store, "1", priority=3)
    await place(store, "2", priority=9)
    await serve(store)
    found = await running(store, preemptible_by=4)
    assert {name: each.priority for name, each in found.items()} == {
        "job_1": 3,
        "job_2": 9,
        "rep_1": None,
    }
    assert not found["rep_1"].leaves_anyway


async def test_what_stops_makes_room_by_itself_and_is_no_reason_to_look(store: Store) -> None:
    await a_node(store)
    await place(store)
    async with store.unit_of_work.system(because="test") as tx:
        job = await tx.jobs.get_any(JobId("job_1"))
        asked = job.asked_to_stop(reason="", at=tx.now, cause=StopCause.PREEMPTED)
        assert asked is not None
        await tx.jobs.save(asked[0])
    assert await running(store, preemptible_by=4) == {}
    await place(store, "2")
    found = await running(store, preemptible_by=4)
    assert {name: each.is_stopping for name, each in found.items()} == {
        "job_1": True,
        "job_2": False,
    }
    ends_in = found["job_1"].ends_in
    assert ends_in is not None
    assert timedelta(0) < ends_in <= GRACE


async def test_a_clock_that_is_ahead_makes_no_grace_longer(store: Store) -> None:
    await a_node(store)
    await place(store)
    async with store.unit_of_work.system(because="test") as tx:
        job = await tx.jobs.get_any(JobId("job_1"))
        ahead = tx.now + timedelta(days=1)
        asked = job.asked_to_stop(reason="", at=ahead, cause=StopCause.PREEMPTED)
        assert asked is not None
        await tx.jobs.save(asked[0])
    await place(store, "2")
    ends_in = (await running(store, preemptible_by=4))["job_1"].ends_in
    assert ends_in is not None
    assert ends_in <= GRACE
