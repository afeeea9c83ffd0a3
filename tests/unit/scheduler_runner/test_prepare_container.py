"""What a container is made of."""

from dataclasses import replace
from pathlib import PurePath

import pytest

from services.chassis.errors import InvalidArgument, NotFound
from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.attempts.runtime import ContainerSpec, PlacedFile
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import ArrayElement
from services.scheduler.domain.jobs.spec import JobInput
from tests.unit.scheduler_runner.bench import Bench
from tests.unit.scheduler_runner.builders import (
    DIGEST,
    RUN_TIMEOUT,
    a_job,
    a_replica,
    some_work,
)

OTHER = "sha256:" + "1" * 64
NAME = "modelyard-att_1"


async def test_an_element_of_an_array_is_told_which_one_it_is(bench: Bench) -> None:
    element = ArrayElement(JobId("job_array"), 7)
    job = replace(a_job(array_size=100), element=element)
    await bench.prepare(some_work(AttemptState.CREATED, owner=job))
    told = bench.runtime.specs[NAME].environment
    assert {name: told[name] for name in told if "ARRAY" in name} == {
        "MODELYARD_ARRAY_ID": "job_array",
        "MODELYARD_ARRAY_INDEX": "7",
        "MODELYARD_ARRAY_SIZE": "100",
    }


async def test_job_gets_its_bundle_inputs_and_environment(bench: Bench) -> None:
    job = a_job(
        source_digest=DIGEST,
        inputs=(JobInput("train.csv", OTHER), JobInput("same", DIGEST)),
        env={"MINE": "1", "TRACEPARENT": "theirs"},
    )
    await bench.prepare(some_work(AttemptState.CREATED, owner=job, traceparent="ours"))
    spec = bench.runtime.specs[NAME]

    assert bench.artifacts.asked == [DIGEST, OTHER]
    assert spec.source == PurePath("/cache") / DIGEST
    assert spec.inputs == (
        PlacedFile("train.csv", PurePath("/cache") / OTHER),
        PlacedFile("same", PurePath("/cache") / DIGEST),
    )
    assert spec.environment == {
        "MINE": "1",
        "TRACEPARENT": "ours",
        "MODELYARD_JOB_ID": "job_1",
        "MODELYARD_ATTEMPT": "1",
        "MODELYARD_TASK": "0",
        "MODELYARD_TASK_COUNT": "1",
    }
    assert spec.run_time_max is not None
    assert spec.run_time_max > RUN_TIMEOUT
    assert spec.labels["modelyard.attempt"] == "att_1"


async def test_replica_gets_its_model_and_says_where_it_answers(bench: Bench) -> None:
    await bench.prepare(some_work(AttemptState.CREATED, owner=a_replica()))
    spec = bench.runtime.specs[NAME]

    assert spec.command == ("serve", "digits")
    assert spec.files == (PlacedFile("model.joblib", PurePath("/cache") / DIGEST),)
    assert spec.texts == {"settings.json": "{}"}
    assert spec.run_time_max is None
    assert spec.labels["modelyard.port"] == "1"
    assert spec.environment["MODELYARD_DEPLOYMENT_ID"] == "dep_1"


async def test_replica_is_refused_when_its_image_holds_no_known_server(bench: Bench) -> None:
    prepare = replace(bench.prepare, servers={})
    with pytest.raises(InvalidArgument):
        await prepare(some_work(AttemptState.CREATED, owner=a_replica()))


@pytest.mark.parametrize(
    ("missing", "field"),
    [(DIGEST, "source_digest"), (OTHER, "inputs[1].digest")],
)
async def test_artifact_that_is_missing_is_told_by_the_field_that_asks_for_it(
    bench: Bench, missing: str, field: str
) -> None:
    inputs = (JobInput("code", DIGEST), JobInput("data", OTHER), JobInput("again", OTHER))
    job = a_job(source_digest=DIGEST, inputs=inputs)
    bench.artifacts.missing = {missing}

    with pytest.raises(InvalidArgument, match=f"artifact {missing} was not found") as refused:
        await bench.prepare(some_work(AttemptState.CREATED, owner=job))

    assert refused.value.detail["field"] == field


async def test_what_else_is_missing_is_no_field(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_image(_: ContainerSpec) -> None:
        raise NotFound("image", "modelyard/base")

    monkeypatch.setattr(bench.runtime, "create", no_image)
    with pytest.raises(NotFound):
        await bench.prepare(some_work(AttemptState.CREATED, owner=a_job(source_digest=DIGEST)))
