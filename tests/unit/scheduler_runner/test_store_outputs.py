"""What a job leaves becomes a manifest."""

import os
from pathlib import PurePath

import pytest

from services.chassis.errors import InvalidArgument, NotFound
from services.scheduler.domain.attempts.runtime import LeftFile
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.jobs.job import OutputManifest
from services.scheduler.domain.jobs.spec import JobOutput
from tests.unit.scheduler_runner.bench import Bench
from tests.unit.scheduler_runner.builders import DIGEST, a_job, some_work

JOB = a_job(outputs=(JobOutput("model", "model", register_as="digits"),))


async def test_outputs_are_stored_file_by_file(bench: Bench) -> None:
    files = [LeftFile("a", PurePath("/out/a")), LeftFile("deep/b", PurePath("/out/deep/b"))]
    bench.runtime.outputs = {"model": files}

    work = some_work(owner=JOB)
    manifests = await bench.store_outputs(work, JOB)

    entries = (FileEntry("a", 5, DIGEST), FileEntry("deep/b", 5, DIGEST))
    assert manifests == (OutputManifest("model", "digits", entries),)
    assert bench.artifacts.stored == [file.file for file in files]
    assert bench.artifacts.stored_as == {work.attempt.id}


async def test_outputs_are_refused_when_one_is_missing(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.store_outputs(some_work(owner=JOB), JOB)


async def test_outputs_are_refused_when_one_is_an_empty_folder(bench: Bench) -> None:
    bench.runtime.outputs = {"model": []}

    with pytest.raises(InvalidArgument, match="'model' is an empty folder"):
        await bench.store_outputs(some_work(owner=JOB), JOB)


@pytest.mark.parametrize("path", ["new\nline", os.fsdecode(b"no utf-8 \xff")])
async def test_outputs_are_refused_when_a_path_can_not_be_told(bench: Bench, path: str) -> None:
    files = [LeftFile("fine", PurePath("/out/fine")), LeftFile(path, PurePath("/out/x"))]
    bench.runtime.outputs = {"model": files}

    with pytest.raises(InvalidArgument, match="of output 'model'"):
        await bench.store_outputs(some_work(owner=JOB), JOB)
    assert bench.artifacts.stored == []


async def test_outputs_are_refused_when_all_together_are_too_many_for_one_event(
    bench: Bench,
) -> None:
    job = a_job(outputs=(JobOutput("a", "a"), JobOutput("b", "b")))
    for path in ("a", "b"):
        bench.runtime.outputs[path] = [LeftFile(f"{n}", PurePath(f"/out/{n}")) for n in range(6)]

    with pytest.raises(InvalidArgument):
        await bench.store_outputs(some_work(owner=job), job)
    assert bench.artifacts.stored == []
