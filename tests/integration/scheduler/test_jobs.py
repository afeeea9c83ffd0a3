"""Jobs on a real database: submit, show, list, cancel."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import (
    InvalidArgument,
    KeyReused,
    NotFound,
    QueueFull,
)
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.list_attempts import ListAttempts
from services.scheduler.use_cases.jobs.submit_jobs import Submission
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.ports import RequestKey
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, TRACEPARENT, UMBRELLA, a_spec, resources

KEY = RequestKey("key-1", b"hash of the body")


async def submit_with_key(yard: Yard, key: RequestKey = KEY) -> Job:
    return await yard.submit_job(ACME, a_spec(), key=key, traceparent=TRACEPARENT)


async def test_a_submitted_job_is_stored_as_asked_and_told(yard: Yard) -> None:
    job = await yard.a_job(env={"A": "1"}, labels={"team": "x"}, priority=7, queue="nightly")
    assert await yard.job(job.id) == job
    [fact] = await yard.job_facts(job.id)
    assert (fact.version, fact.tenant, fact.name) == (1, ACME, "train")
    assert await yard.event_types(job.id) == ["job.queued"]


async def test_a_fact_is_told_under_the_submissions_trace(yard: Yard) -> None:
    job = await yard.a_job()
    [event] = await yard.events(job.id)
    assert event["traceparent"].split("-")[1] == TRACEPARENT.split("-")[1]


async def test_an_unknown_image_is_refused_with_those_that_are_known(yard: Yard) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await yard.a_job(image="modelyard/gone")
    assert refused.value.detail["field"] == "spec.image"
    assert "modelyard/base, modelyard/serve" in refused.value.message


async def test_a_repeated_submission_is_answered_though_its_image_is_gone(yard: Yard) -> None:
    first = await submit_with_key(yard)
    checks = replace(yard.submit_jobs.checks, images=())
    yard.submit_jobs = replace(yard.submit_jobs, checks=checks)
    assert (await submit_with_key(yard)).id == first.id


async def test_a_repeated_submission_makes_one_job(yard: Yard) -> None:
    first = await submit_with_key(yard)
    again = await submit_with_key(yard)
    assert again == first
    assert await yard.event_types(first.id) == ["job.queued"]


async def test_concurrent_twins_make_one_job(yard: Yard) -> None:
    made = await asyncio.gather(*(submit_with_key(yard) for _ in range(8)))
    assert len({job.id for job in made}) == 1


async def test_a_repeated_submission_is_answered_though_the_line_is_full(yard: Yard) -> None:
    first = await submit_with_key(yard)
    await yard.a_job()
    await yard.a_job()
    with pytest.raises(QueueFull):
        await yard.a_job()
    assert (await submit_with_key(yard)).id == first.id


async def test_a_key_with_another_body_is_refused(yard: Yard) -> None:
    await submit_with_key(yard)
    with pytest.raises(KeyReused):
        await submit_with_key(yard, RequestKey("key-1", b"another body"))


async def test_the_line_is_bounded_for_each_tenant_however_many_submit_at_once(yard: Yard) -> None:
    outcomes = await asyncio.gather(*(yard.a_job() for _ in range(9)), return_exceptions=True)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
    assert len(refusals) == 6
    assert refusals[0].retry_after is not None
    await yard.a_job(tenant=UMBRELLA)


async def test_a_refused_submission_leaves_its_key_unused(yard: Yard) -> None:
    for _ in range(3):
        await yard.a_job()
    with pytest.raises(QueueFull):
        await submit_with_key(yard)
    await yard.a_node()
    await yard.cycle()
    assert (await submit_with_key(yard)).state is JobState.QUEUED


async def test_jobs_that_are_submitted_together_are_each_answered_for_themselves(
    yard: Yard,
) -> None:
    first = await submit_with_key(yard)

    def asked(*, tenant: TenantId = ACME, key: RequestKey | None = None, **changes: Any) -> Any:
        return Submission(tenant, a_spec(**changes), key, TRACEPARENT)

    def a_key(name: str) -> RequestKey:
        return RequestKey(name, b"hash")

    answers = await yard.submit_jobs(
        [
            asked(name=""),
            asked(key=KEY),
            asked(key=a_key("refused"), image="modelyard/gone"),
            asked(key=a_key("second")),
            asked(tenant=UMBRELLA, key=KEY),
            asked(),
            asked(key=a_key("too many")),
        ]
    )

    said = [answer.state if isinstance(answer, Job) else answer.code for answer in answers]
    assert said == [
        "INVALID_ARGUMENT",
        "QUEUED",
        "INVALID_ARGUMENT",
        "QUEUED",
        "QUEUED",
        "QUEUED",
        "QUEUE_FULL",
    ]
    made = [answer for answer in answers if isinstance(answer, Job)]
    assert made[0].id == first.id
    assert [job.tenant for job in made] == [ACME, ACME, UMBRELLA, ACME]
    for job in made:
        assert await yard.event_types(job.id) == ["job.queued"]
    # What was refused may be asked again with its key, and with another body.
    await yard.a_node()
    await yard.cycle()
    again = [
        asked(key=RequestKey(name, b"another hash")) for name in ("refused", "too many", "second")
    ]
    answers = await yard.submit_jobs(again)
    assert [isinstance(answer, Job) for answer in answers] == [True, True, False]
    assert isinstance(answers[2], KeyReused)


async def test_groups_of_several_processes_make_one_job_of_twins(yard: Yard) -> None:
    names = [f"key-{number}" for number in range(3)]

    def group(order: Sequence[str]) -> list[Submission]:
        return [Submission(ACME, a_spec(), RequestKey(name, b"x"), None) for name in order]

    answers = await asyncio.gather(
        *(yard.submit_jobs(group(order)) for order in (names, names[::-1], names))
    )

    made = {answer.id for each in answers for answer in each if isinstance(answer, Job)}
    assert len(made) == 3


async def test_a_job_that_no_node_could_hold_is_refused(yard: Yard) -> None:
    await yard.a_job(resources=cores(99))  # no node yet: it may come
    await yard.a_node()
    await yard.a_node(resources(cpu=8, memory=2), name="node-2")
    with pytest.raises(InvalidArgument, match="no node has more than 8000") as refused:
        await yard.a_job(resources=cores(99))
    assert refused.value.detail["field"] == "spec.resources.cpu_millicores"
    with pytest.raises(InvalidArgument, match="memory_bytes 8 GiB") as together:
        await yard.a_job(resources=resources(cpu=8, memory=8))
    assert together.value.detail["field"] == "spec.resources"
    await yard.a_job(resources=resources(cpu=8, memory=2))


async def test_another_tenants_job_is_not_found(yard: Yard) -> None:
    job = await yard.a_job()
    with pytest.raises(NotFound):
        await yard.job(job.id, tenant=UMBRELLA)
    with pytest.raises(NotFound):
        await CancelJob(yard.store)(UMBRELLA, job.id, reason="mine now")
    page = await yard.list_jobs(UMBRELLA, PageRequest())
    assert page.items == []


async def test_jobs_are_listed_newest_first_a_page_at_a_time(yard: Yard) -> None:
    jobs = [await yard.a_job(name=f"job {n}") for n in range(3)]

    first = await yard.list_jobs(ACME, PageRequest.of(2, ""))
    second = await yard.list_jobs(ACME, PageRequest.of(2, first.next_token))

    assert [job.id for job in first.items] == sorted((job.id for job in jobs), reverse=True)[:2]
    assert [job.id for job in second.items] == sorted(job.id for job in jobs)[:1]
    assert second.next_token == ""


async def test_jobs_are_listed_by_state(yard: Yard) -> None:
    kept, cancelled = await yard.a_job(), await yard.a_job()
    await CancelJob(yard.store)(ACME, cancelled.id, reason="")
    queued = await yard.list_jobs(ACME, PageRequest(), states=[JobState.QUEUED])
    assert [job.id for job in queued.items] == [kept.id]


async def test_jobs_are_listed_by_all_labels_that_are_given(yard: Yard) -> None:
    both = await yard.a_job(labels={"team": "vision", "stage": "train", "run": "7"})
    one = await yard.a_job(labels={"team": "vision"})
    await yard.a_job()
    await yard.a_job(labels={"team": "vision", "stage": "train"}, tenant=UMBRELLA)

    async def found(**labels: str) -> list[str]:
        return [job.id for job in (await yard.list_jobs(ACME, PageRequest(), labels=labels)).items]

    assert await found(team="vision") == sorted([one.id, both.id], reverse=True)
    assert await found(team="vision", stage="train") == [both.id]
    assert await found(team="vision", stage="serve") == []


async def test_jobs_are_listed_by_queue(yard: Yard) -> None:
    default, nightly = await yard.a_job(), await yard.a_job(queue="nightly")
    await yard.a_job(queue="nightly", tenant=UMBRELLA)

    async def found(queue: str | None) -> list[str]:
        return [job.id for job in (await yard.list_jobs(ACME, PageRequest(), queue=queue)).items]

    assert await found(None) == sorted([default.id, nightly.id], reverse=True)
    assert await found("default") == [default.id]
    assert await found("nightly") == [nightly.id]
    assert await found("weekly") == []


async def test_a_queue_that_no_job_can_have_is_not_looked_for(yard: Yard) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await yard.list_jobs(ACME, PageRequest(), queue="Nightly")
    assert refused.value.detail["field"] == "queue"


async def test_pages_of_labelled_jobs_skip_the_others_and_none_of_theirs(yard: Yard) -> None:
    yard.submit_jobs = replace(
        yard.submit_jobs, checks=replace(yard.submit_jobs.checks, queued_jobs_max=10)
    )
    jobs = [await yard.a_job(labels={"even": str(number % 2 == 0)}) for number in range(7)]
    await CancelJob(yard.store)(ACME, jobs[2].id, reason="")

    pages: list[list[str]] = []
    token = ""
    while token or not pages:
        page = await yard.list_jobs(
            ACME, PageRequest.of(1, token), states=[JobState.QUEUED], labels={"even": "True"}
        )
        pages.append([job.id for job in page.items])
        token = page.next_token

    assert pages == [[jobs[number].id] for number in (6, 4, 0)]


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({"Team": "vision"}, "labels"),
        ({"team": "x" * 257}, "labels.team"),
        ({"team": "\0"}, "labels.team"),
        ({f"label-{number}": "" for number in range(33)}, "labels"),
    ],
    ids=["name", "length", "NUL", "count"],
)
async def test_labels_that_no_job_may_have_are_not_looked_for(
    yard: Yard, labels: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await yard.list_jobs(ACME, PageRequest(), labels=labels)
    assert refused.value.detail["field"] == field


async def test_cancelling_a_queued_job_ends_it_at_once(yard: Yard) -> None:
    job = await yard.a_job()
    cancelled = await CancelJob(yard.store)(ACME, job.id, reason="user asked")
    assert await yard.job(job.id) == cancelled
    assert cancelled.state is JobState.CANCELLED
    assert await yard.event_types(job.id) == ["job.queued", "job.cancelled"]


async def test_cancelling_a_placed_job_asks_its_runner(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()

    stopping = await CancelJob(yard.store)(ACME, job.id, reason="user asked")
    again = await CancelJob(yard.store)(ACME, job.id, reason="again")

    assert stopping.state is JobState.STOPPING
    assert again == stopping
    [work] = await yard.open_work()
    assert work.stop == stopping.stop
    assert await yard.used() == job.spec.resources  # held until the runtime has confirmed


async def test_concurrent_cancellations_are_told_once(yard: Yard) -> None:
    job = await yard.a_job()
    cancel = CancelJob(yard.store)
    await asyncio.gather(*(cancel(ACME, job.id, reason="x") for _ in range(5)))
    assert await yard.event_types(job.id) == ["job.queued", "job.cancelled"]


@pytest.mark.parametrize("reason", ["x" * 257, "two\nlines"])
async def test_a_reason_out_of_bounds_is_refused(yard: Yard, reason: str) -> None:
    job = await yard.a_job()
    with pytest.raises(InvalidArgument, match="reason"):
        await CancelJob(yard.store)(ACME, job.id, reason=reason)


async def requeued(yard: Yard, job: Job) -> None:
    """End a job's attempt, and let the job stand in line again."""
    [work] = await yard.open_work()
    await yard.end(work.attempt.id)
    async with yard.store.system(because="test") as tx:
        stopped, fact = (await tx.jobs.get_any(job.id)).requeued(reason="again", at=tx.now)
        await tx.jobs.save(stopped)
        tx.emit(fact)


async def test_attempts_are_listed_from_the_first_on_a_page_at_a_time(yard: Yard) -> None:
    await yard.a_node()
    job, other = await yard.a_job(), await yard.a_job(resources=cores(4))
    for _ in range(2):
        await yard.cycle()
        await requeued(yard, job)
    await yard.cycle()
    list_attempts = ListAttempts(yard.store)

    first = await list_attempts(ACME, job.id, PageRequest.of(2, ""))
    second = await list_attempts(ACME, job.id, PageRequest.of(2, first.next_token))

    assert [each.number for each in first.items] == [1, 2]
    assert [each.number for each in second.items] == [3]
    assert second.next_token == ""
    ended, is_open = first.items[0], second.items[0]
    assert (ended.state, ended.ended_at is not None) == (AttemptState.CLOSED, True)
    assert (is_open.state, is_open.ended_at) == (AttemptState.CREATED, None)
    assert (await list_attempts(ACME, other.id, PageRequest())).items == []


async def test_attempts_of_another_tenants_job_are_not_found(yard: Yard) -> None:
    job = await yard.a_job()
    with pytest.raises(NotFound):
        await ListAttempts(yard.store)(UMBRELLA, job.id, PageRequest())
