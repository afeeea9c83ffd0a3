"""One bound for one field: the edge refuses from the same amount on as the field's owner.

Each row is tried at its bound and just beyond it, on the edge's own model and on the owner's
domain, past the edge.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Final, NamedTuple

import pytest
from google.protobuf.json_format import ParseDict
from modelyard.common.v1.files_pb2 import FileEntry
from modelyard.logs.v1.log_service_pb2 import LogFilter
from modelyard.scheduler.v1 import deployment_pb2, job_pb2
from pydantic import BaseModel, TypeAdapter, ValidationError

from services.api_gateway.entrypoints.rest.deployments import DeploymentSpec
from services.api_gateway.entrypoints.rest.jobs import Cancellation, JobSpec
from services.api_gateway.entrypoints.rest.logs import LogQuery
from services.api_gateway.entrypoints.rest.models import NewModel, NewVersion
from services.api_gateway.entrypoints.rest.queues import Pause
from services.api_gateway.entrypoints.rest.stats import WINDOW_DEFAULT, Window
from services.api_gateway.entrypoints.rest.words import field_in_words, in_request_words
from services.chassis.errors import InvalidArgument, PayloadTooLarge
from services.log_collector.entrypoints.protobuf import filter_from_pb
from services.model_registry.domain.naming import (
    checked_description,
    checked_model_name,
    checked_tags,
)
from services.model_registry.entrypoints.protobuf import manifest_from_pb
from services.scheduler.domain.jobs import stats
from services.scheduler.entrypoints.grpc import deployments, jobs
from services.scheduler.use_cases.jobs.cancel_job import check_reason

DIGEST: Final = f"sha256:{'0' * 64}"
KIB: Final = 1 << 10

Body = Mapping[str, Any]


class Row(NamedTuple):
    """A field with values that are just in bounds, and values just out of them."""

    field: str
    within: tuple[Any, ...]
    beyond: tuple[Any, ...]


def named(name: str) -> dict[str, str]:
    return {"name": name, "digest": DIGEST}


def left(name: str = "m", path: str = "m", register_as: str = "") -> dict[str, str]:
    return {"name": name, "path": path, "register_as": register_as}


def needed(job_id: str) -> dict[str, str]:
    return {"job_id": job_id, "condition": "SUCCESS"}


RESOURCES: Final = (
    Row("resources.cpu_millicores", (1, 1_000_000), (0, 1_000_001)),
    Row("resources.memory_bytes", (6 << 20, 1 << 50), ((6 << 20) - 1, (1 << 50) + 1)),
    Row("resources.gpu_count", (0, 1024), (-1, 1025)),
)
JOB: Final = (
    *RESOURCES,
    Row("name", ("n" * 128,), ("", "n" * 129)),
    Row("image", ("i" * 255,), ("", "i" * 256, "/i")),
    Row(
        "command", (["c"], ["c"] * 256, ["c" * 32 * KIB]), ([], ["c"] * 257, ["c" * (32 * KIB + 1)])
    ),
    Row(
        "env",
        ({f"V{n}": "" for n in range(128)}, {"V" * 128: ""}, {"V": "v" * (32 * KIB - 1)}),
        (
            {f"V{n}": "" for n in range(129)},
            {"V" * 129: ""},
            {"V": "v" * (32 * KIB + 1)},
            {"": "v"},
        ),
    ),
    Row("source_digest", ("", DIGEST), (DIGEST[:-1], DIGEST.upper())),
    Row(
        "inputs",
        ([named("n" * 64)], [named(f"n{n}") for n in range(32)]),
        ([named("n" * 65)], [named("-n")], [named("")], [named(f"n{n}") for n in range(33)]),
    ),
    Row(
        "outputs",
        (
            [left("n" * 64, "p" * 512, "r" * 128)],
            [left(f"n{n}", f"p{n}") for n in range(32)],
        ),
        (
            [left("n" * 65)],
            [left(path="p" * 513)],
            [left(path="")],
            [left(register_as="r" * 129)],
            [left(register_as="a/b")],
            [left(f"n{n}", f"p{n}") for n in range(33)],
        ),
    ),
    Row("timeouts.queue", ("PT1S", "P30D"), ("PT0.9S", "P30DT1S")),
    Row("timeouts.start", ("PT1S", "P1D"), ("PT0.9S", "P1DT1S")),
    Row("timeouts.run", ("PT1S", "P7D"), ("PT0.9S", "P7DT1S")),
    Row("timeouts.stop_grace", ("PT0S", "PT10M"), ("-PT1S", "PT10M1S")),
    Row("retries.count_max", (0, 10), (-1, 11)),
    Row(
        "retries.reasons",
        ([], ["killed", "out_of_memory", "outputs", "run_timeout"]),
        (["start"], ["lost"]),
    ),
    Row("retries.exit_codes", ([1, 255], [1] * 32), ([0], [256], [1] * 33)),
    Row("priority", (0, 100), (-1, 101)),
    Row("queue", ("default", "q" * 63, "0-"), ("q" * 64, "Q", "-q", "q_")),
    Row(
        "labels",
        ({f"l{n}": "" for n in range(32)}, {"l" * 63: "v" * 256}),
        ({f"l{n}": "" for n in range(33)}, {"l" * 64: ""}, {"L": ""}, {"l": "v" * 257}),
    ),
    Row(
        "after",
        ([], [needed("j" * 64)], [needed(f"job_{n}") for n in range(32)]),
        (
            [needed("")],
            [needed("j" * 65)],
            [needed("Job")],
            [needed(f"job_{n}") for n in range(33)],
        ),
    ),
    Row("tasks", (1, 512), (513,)),  # the owner takes 0 for 1: it is a field of old requests
    Row("array_size", (None, 1, 10_000), (-1, 10_001)),  # the owner takes 0 for none
)
DEPLOYMENT: Final = (
    *RESOURCES,
    Row("name", ("n" * 63,), ("", "n" * 64, "N", "n-")),
    Row(
        "model",
        (f"models:/{'n' * 128}@{'a' * 255}", f"models:/n/{'9' * 18}"),
        (
            f"models:/{'n' * 129}@a",
            f"models:/n@{'a' * 256}",
            "models:/n@a.b",
            f"models:/n/{'9' * 19}",
            "models:/n/0",
        ),
    ),
    Row("image", ("i" * 255,), ("", "i" * 256)),
    Row("replica_count", (1, 32), (0, 33)),
)
MODEL: Final = (
    Row("name", ("n" * 128,), ("", "n" * 129, "a/b")),
    Row("description", ("", "d" * 5000), ("d" * 5001, "\0")),
    Row(
        "tags",
        (
            {f"t{n}": "" for n in range(100)},
            {"t" * 250: "v" * 100_000},
        ),
        ({f"t{n}": "" for n in range(101)}, {"t" * 251: ""}, {"": ""}, {"t": "v" * 100_001}),
    ),
)


def a_file(path: str = "p", size_bytes: int = 0, digest: str = DIGEST) -> dict[str, Any]:
    return {"path": path, "size_bytes": size_bytes, "digest": digest}


VERSION: Final = (
    Row(
        "files",
        ([a_file("p" * 512)], [a_file(f"p{n}") for n in range(1000)]),
        (
            [],
            [a_file("p" * 513)],
            [a_file("")],
            [a_file(size_bytes=-1)],
            [a_file(digest="md5:0")],
            [a_file(f"p{n}") for n in range(1001)],
        ),
    ),
)
REASON: Final = (Row("reason", ("r" * 256,), ("r" * 257,)),)
LOGS: Final = (Row("contains", ("", "c" * 1024), ("c" * 1025,)),)

Owner = Callable[[dict[str, Any]], object]


def scheduler_takes_job(body: dict[str, Any]) -> None:
    if "timeouts" in body:
        body["timeouts"] = {name: seconds_of(text) for name, text in body["timeouts"].items()}
    for each in body.get("after", ()):
        each["condition"] = f"JOB_DEPENDENCY_CONDITION_{each['condition']}"
    if "tasks" in body:
        body["task_count"] = body.pop("tasks")
    jobs.spec_from_pb(ParseDict(body, job_pb2.JobSpec())).check()


def scheduler_takes_deployment(body: dict[str, Any]) -> None:
    deployments.spec_from_pb(ParseDict(body, deployment_pb2.DeploymentSpec())).check()


def scheduler_takes_reason(body: dict[str, Any]) -> None:
    check_reason(body["reason"])


def registry_takes_model(body: dict[str, Any]) -> None:
    checked_model_name(body["name"])
    checked_description(body.get("description", ""))
    checked_tags(body.get("tags", {}))


def registry_takes_version(body: dict[str, Any]) -> None:
    manifest_from_pb(ParseDict(file, FileEntry()) for file in body["files"])


def log_collector_takes_filter(body: dict[str, Any]) -> None:
    filter_from_pb(LogFilter(**body))


class Noun(NamedTuple):
    """A body of the edge, and who takes what it says."""

    edge: type[BaseModel]
    valid: Body
    owner: Owner
    rows: tuple[Row, ...]


NOUNS: Final = (
    Noun(JobSpec, {"name": "n", "image": "i", "command": ["c"]}, scheduler_takes_job, JOB),
    Noun(
        DeploymentSpec,
        {"name": "n", "model": "models:/n/1", "image": "i", "replica_count": 1},
        scheduler_takes_deployment,
        DEPLOYMENT,
    ),
    Noun(Cancellation, {}, scheduler_takes_reason, REASON),
    Noun(Pause, {}, scheduler_takes_reason, REASON),
    Noun(NewModel, {"name": "n"}, registry_takes_model, MODEL),
    Noun(NewVersion, {}, registry_takes_version, VERSION),
    Noun(LogQuery, {}, log_collector_takes_filter, LOGS),
)


def cases(which: str) -> list[Any]:
    return [
        pytest.param(noun, row.field, value, id=f"{noun.edge.__name__}.{row.field}-{place}")
        for noun in NOUNS
        for row in noun.rows
        for place, value in enumerate(getattr(row, which))
    ]


@pytest.mark.parametrize(("noun", "field", "value"), cases("within"))
def test_both_take_what_is_at_its_bound(noun: Noun, field: str, value: object) -> None:
    body = body_with(noun, field, value)
    noun.edge.model_validate(body)
    noun.owner(body)


@pytest.mark.parametrize(("noun", "field", "value"), cases("beyond"))
def test_both_refuse_what_is_beyond_its_bound(noun: Noun, field: str, value: object) -> None:
    body = body_with(noun, field, value)
    with pytest.raises(ValidationError) as at_edge:
        noun.edge.model_validate(body)
    with pytest.raises((InvalidArgument, PayloadTooLarge)) as at_owner:
        noun.owner(body)

    [first, *_] = at_edge.value.errors()
    assert field_in_words(first["type"], ("body", *first["loc"])).startswith(field)
    assert in_request_words(at_owner.value).detail["field"].startswith(field)


@pytest.mark.parametrize("noun", [NOUNS[0], NOUNS[1]], ids=lambda noun: noun.edge.__name__)
def test_each_field_has_a_row(noun: Noun) -> None:
    assert {row.field for row in noun.rows} == set(leaves(noun.edge))


@pytest.mark.parametrize(
    ("window", "is_taken"),
    [("PT0.9S", False), ("PT1S", True), ("P30D", True), ("P30DT1S", False)],
)
def test_both_look_back_over_the_same_windows(window: str, *, is_taken: bool) -> None:
    length: timedelta = TypeAdapter(timedelta).validate_python(window)
    at_edge = nullcontext() if is_taken else pytest.raises(ValidationError)
    with at_edge:
        TypeAdapter(Window).validate_python(window)
    at_owner = nullcontext() if is_taken else pytest.raises(InvalidArgument, match="window")
    with at_owner:
        stats.check_window(length)
    assert WINDOW_DEFAULT == stats.WINDOW_DEFAULT


def leaves(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{name}.{leaf}" for leaf in leaves(inner))
        else:
            yield name


def body_with(noun: Noun, field: str, value: object) -> dict[str, Any]:
    outer, _, inner = field.partition(".")
    if outer != "resources":
        return {**noun.valid, outer: {inner: value} if inner else value}
    fitting = {"cpu_millicores": 1, "memory_bytes": 1 << 30, "gpu_count": 0}
    return {**noun.valid, "resources": fitting | {inner: value}}


def seconds_of(text: str) -> str:
    length: timedelta = TypeAdapter(timedelta).validate_python(text)
    return f"{length.total_seconds():.6f}s"
