"""A check answers as a submission would, and writes nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from services.chassis.errors import ModelyardError, QueueFull
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.spec import JobDependency, JobInput
from services.scheduler.use_cases.paging import PageRequest
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, DIGEST, UMBRELLA, a_spec, resources


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"name": ""}, lambda _: None),
        ({"image": "modelyard/gone"}, lambda _: None),
        ({"resources": cores(99)}, lambda _: None),
        ({"resources": resources(cpu=8, memory=8)}, lambda _: None),
        ({"after": (JobDependency(JobId("job_nothing")),)}, lambda _: None),
        ({"priority": 11}, lambda yard: yard.tenant(ACME, priority_max=10)),
        (
            {"resources": cores(2)},
            lambda yard: yard.tenant(ACME, running_max=resources(cpu=1, memory=8)),
        ),
        ({}, lambda yard: yard.tenant(ACME, queued_jobs_max=0)),
        ({}, lambda yard: yard.tenant(ACME, is_suspended=True)),
        # The first of several refusals is the same one, too.
        (
            {"image": "modelyard/gone", "resources": cores(99)},
            lambda yard: yard.tenant(ACME, queued_jobs_max=0),
        ),
        (
            {"after": (JobDependency(JobId("job_nothing")),), "resources": cores(99)},
            lambda yard: yard.tenant(ACME, queued_jobs_max=0),
        ),
    ],
)
async def test_a_check_is_refused_as_a_submission_is(
    yard: Yard, changes: dict[str, Any], given: Callable[[Yard], None]
) -> None:
    await yard.a_node()
    await yard.a_node(resources(cpu=8, memory=2), name="node-2")
    given(yard)
    spec = a_spec(**changes)

    with pytest.raises(ModelyardError) as checked:
        await yard.check_job(ACME, spec)
    with pytest.raises(ModelyardError) as submitted:
        await yard.submit(spec)

    assert type(checked.value) is type(submitted.value)
    assert checked.value.message == submitted.value.message
    assert checked.value.detail == submitted.value.detail
    assert checked.value.retry_after == submitted.value.retry_after


async def test_a_check_of_what_may_be_submitted_writes_nothing(yard: Yard) -> None:
    await yard.a_node()
    spec = a_spec(source_digest=DIGEST, inputs=(JobInput("data", DIGEST),))  # neither is stored
    for _ in range(5):  # more than may stand in line
        await yard.check_job(ACME, spec)
    assert (await yard.list_jobs(ACME, PageRequest())).items == []
    await yard.submit(spec)


async def test_a_check_counts_the_line_of_its_own_tenant(yard: Yard) -> None:
    for _ in range(3):
        await yard.a_job()
    with pytest.raises(QueueFull):
        await yard.check_job(ACME, a_spec())
    await yard.check_job(UMBRELLA, a_spec())
