"""Bounds on each field of a job's description."""

from datetime import timedelta
from typing import Any

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.jobs.spec import JobDependency, JobInput, JobOutput, JobTimeouts
from services.scheduler.domain.resources import Resources, requested_resources
from tests.unit.scheduler.builders import DIGEST, a_spec


def refused_field(**changes: Any) -> str:
    with pytest.raises(InvalidArgument) as refusal:
        a_spec(**changes).check()
    return refusal.value.detail["field"]


def after(*job_ids: str) -> tuple[JobDependency, ...]:
    return tuple(JobDependency(JobId(each)) for each in job_ids)


def test_a_full_spec_within_bounds_is_accepted() -> None:
    a_spec(
        env={"EPOCHS": "3"},
        source_digest=DIGEST,
        inputs=(JobInput("data", DIGEST),),
        outputs=(JobOutput("model", "out/model.pkl", "digits"), JobOutput("report", "r.txt")),
        timeouts=JobTimeouts(
            queue=timedelta(days=1),
            start=timedelta(hours=1),
            run=timedelta(seconds=1),
            stop_grace=timedelta(),
        ),
        retries=JobRetries(10, reasons=(FailureReason.KILLED,), exit_codes=(1, 255)),
        priority=100,
        labels={"team": "vision"},
        queue="n" * 63,
        after=after(*(f"job_{n}" for n in range(32))),
    ).check()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "spec.name"),
        ({"name": "x" * 129}, "spec.name"),
        ({"name": "two\nlines"}, "spec.name"),
        ({"image": ""}, "spec.image"),
        ({"image": "a b"}, "spec.image"),
        ({"command": ()}, "spec.command"),
        ({"command": ("x",) * 257}, "spec.command"),
        ({"command": ("x" * 40_000,)}, "spec.command"),
        ({"command": ("a\0b",)}, "spec.command"),
        ({"command": ("",)}, "spec.command[0]"),
        ({"env": {"1X": "a"}}, "spec.env.1X"),
        ({"env": {f"X{n}": "" for n in range(129)}}, "spec.env"),
        ({"env": {"X": "y" * 40_000}}, "spec.env"),
        ({"env": {"X": "a\0b"}}, "spec.env.X"),
        ({"env": {"MODELYARD_ATTEMPT": "9"}}, "spec.env.MODELYARD_ATTEMPT"),
        ({"env": {"TRACEPARENT": ""}}, "spec.env.TRACEPARENT"),
        ({"source_digest": "sha256:abc"}, "spec.source_digest"),
        ({"inputs": (JobInput("a/b", DIGEST),)}, "spec.inputs[0].name"),
        ({"inputs": (JobInput("a", "md5:1"),)}, "spec.inputs[0].digest"),
        ({"inputs": (JobInput("a", DIGEST),) * 2}, "spec.inputs[1].name"),
        ({"outputs": (JobOutput("a", "/etc/passwd"),)}, "spec.outputs[0].path"),
        ({"outputs": (JobOutput("a", "x/../../y"),)}, "spec.outputs[0].path"),
        ({"outputs": (JobOutput("a", "./y"),)}, "spec.outputs[0].path"),
        ({"outputs": (JobOutput("a", "x\\y"),)}, "spec.outputs[0].path"),
        ({"outputs": (JobOutput("a", ""),)}, "spec.outputs[0].path"),
        ({"outputs": (JobOutput("a", "y", "no/slash"),)}, "spec.outputs[0].register_as"),
        ({"outputs": tuple(JobOutput(f"o{n}", "y") for n in range(33))}, "spec.outputs"),
        ({"timeouts": JobTimeouts(run=timedelta())}, "spec.timeouts.run"),
        ({"timeouts": JobTimeouts(run=timedelta(days=8))}, "spec.timeouts.run"),
        ({"timeouts": JobTimeouts(stop_grace=timedelta(hours=1))}, "spec.timeouts.stop_grace"),
        ({"timeouts": JobTimeouts(queue=timedelta())}, "spec.timeouts.queue"),
        ({"timeouts": JobTimeouts(queue=timedelta(days=31))}, "spec.timeouts.queue"),
        ({"timeouts": JobTimeouts(start=timedelta())}, "spec.timeouts.start"),
        ({"timeouts": JobTimeouts(start=timedelta(days=2))}, "spec.timeouts.start"),
        ({"retries": JobRetries(count_max=-1)}, "spec.retries.count_max"),
        ({"retries": JobRetries(count_max=11)}, "spec.retries.count_max"),
        ({"retries": JobRetries(exit_codes=(1, 0))}, "spec.retries.exit_codes[1]"),
        ({"retries": JobRetries(exit_codes=(256,))}, "spec.retries.exit_codes[0]"),
        ({"retries": JobRetries(exit_codes=(1,) * 33)}, "spec.retries.exit_codes"),
        ({"priority": -1}, "spec.priority"),
        ({"priority": 101}, "spec.priority"),
        ({"queue": ""}, "spec.queue"),
        ({"queue": "Nightly"}, "spec.queue"),
        ({"queue": "-nightly"}, "spec.queue"),
        ({"queue": "n" * 64}, "spec.queue"),
        ({"labels": {"Team": "x"}}, "spec.labels"),
        ({"labels": {"team": "x" * 257}}, "spec.labels.team"),
        ({"labels": {f"l{n}": "" for n in range(33)}}, "spec.labels"),
        ({"after": after("")}, "spec.after[0].job_id"),
        ({"after": after("job_1", "a\0b")}, "spec.after[1].job_id"),
        ({"after": after("job_1", "job_2", "job_1")}, "spec.after[2].job_id"),
        ({"after": after(*(f"job_{n}" for n in range(33)))}, "spec.after"),
    ],
)
def test_a_field_out_of_bounds_is_named(changes: dict[str, Any], field: str) -> None:
    assert refused_field(**changes) == field


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("m", "m", "'m' is the path of output 'a', too"),
        ("out", "out/m", "'out/m' of output 'b' lies in 'out' of output 'a'"),
        ("out/m", "out", "'out/m' of output 'a' lies in 'out' of output 'b'"),
    ],
)
def test_outputs_that_hold_the_same_are_refused_and_both_are_named(
    first: str, second: str, why: str
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        a_spec(outputs=(JobOutput("a", first), JobOutput("b", second))).check()
    assert refusal.value.detail == {"field": "spec.outputs[1].path", "problem": why}


def test_outputs_side_by_side_are_accepted() -> None:
    a_spec(outputs=(JobOutput("a", "out/m"), JobOutput("b", "out/m.txt"))).check()


def test_a_time_out_beyond_its_bound_is_told_with_both() -> None:
    wanted = r"must be between 1 s and 7 days; 7 days 12 h was asked for"
    with pytest.raises(InvalidArgument, match=wanted):
        a_spec(timeouts=JobTimeouts(run=timedelta(days=7.5))).check()


@pytest.mark.parametrize(
    ("amounts", "field"),
    [
        ((0, 1 << 30, 0), "spec.resources.cpu_millicores"),
        ((1_000, (6 << 20) - 1, 0), "spec.resources.memory_bytes"),
        ((1_000, 1 << 51, 0), "spec.resources.memory_bytes"),
        ((1_000, 1 << 30, -1), "spec.resources.gpu_count"),
        ((10**9, 1 << 30, 0), "spec.resources.cpu_millicores"),
    ],
)
def test_resources_out_of_bounds_are_named(amounts: tuple[int, int, int], field: str) -> None:
    cpu, memory, gpus = amounts
    with pytest.raises(InvalidArgument) as refusal:
        requested_resources(
            cpu_millicores=cpu, memory_bytes=memory, gpu_count=gpus, field="spec.resources"
        )
    assert refusal.value.detail["field"] == field


def test_least_memory_is_what_a_container_starts_with() -> None:
    def asked(memory_bytes: int) -> Resources:
        return requested_resources(
            cpu_millicores=1, memory_bytes=memory_bytes, gpu_count=0, field="spec.resources"
        )

    assert asked(6 << 20).memory_bytes == 6 << 20
    with pytest.raises(InvalidArgument, match=r"at least 6 MiB: no container starts with less"):
        asked((6 << 20) - 1)


def test_of_two_of_one_name_the_second_is_named_with_the_first() -> None:
    outputs = tuple(JobOutput(name, path) for name, path in (("a", "x"), ("m", "y"), ("m", "z")))
    with pytest.raises(InvalidArgument) as refusal:
        a_spec(outputs=outputs).check()
    told = {"field": "spec.outputs[2].name", "problem": "'m' is the name of outputs[1], too"}
    assert refusal.value.detail == told
