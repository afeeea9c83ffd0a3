"""Every error of the closed list, through both of its mappings."""

from collections.abc import Iterator
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from services.chassis import errors
from services.chassis.errors import ErrorCode, ModelyardError
from services.chassis.rpc.status import CODES, DOMAIN, from_call_error, is_callees_fault, to_status
from services.chassis.web.problem import STATUSES, problem_of

SECOND = timedelta(seconds=1)
EXAMPLES: list[ModelyardError] = [
    errors.InvalidArgument("spec.name", "must not be empty"),
    errors.PayloadTooLarge("body", bytes_max=1024),
    errors.Unauthenticated(),
    errors.PermissionDenied("jobs:write"),
    errors.TenantSuspended("acme", reason="unpaid"),
    errors.NotFound("job", "job_1"),
    errors.AlreadyExists("model", "digits"),
    errors.Conflict("job", "job_1"),
    errors.VersionMismatch("tenant", "acme", current=3, expected=2),
    errors.KeyReused(),
    errors.InProgress(),
    errors.FailedPrecondition("the job has ended", detail={"state": "SUCCEEDED"}),
    errors.QuotaExceeded("gpus", limit=2, used=2),
    errors.QueueFull("default", limit=3, retry_after=SECOND),
    errors.RateLimited("tenant", retry_after=SECOND),
    errors.Unavailable("database"),
    errors.DeadlineExceeded("model-registry"),
    errors.Unimplemented("this is not offered here"),
    errors.UpstreamFailed("the model server of digits failed with 500"),
    errors.Internal("err_1"),
]
every_error = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def called(
    code: grpc.StatusCode, details: str = "", trailing: grpc.aio.Metadata | None = None
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code,
        grpc.aio.Metadata(),
        trailing if trailing is not None else grpc.aio.Metadata(),
        details=details,
    )


def arrived(error: ModelyardError) -> ModelyardError:
    """Send an error through gRPC's status and back."""
    status = to_status(error)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    code = CODES[error.code]
    return from_call_error(called(code, status.message, trailing), callee="callee")


def subclasses(kind: type[ModelyardError]) -> Iterator[type[ModelyardError]]:
    for sub in kind.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield sub
            yield from subclasses(sub)


def test_every_error_has_an_example_here() -> None:
    assert {type(error) for error in EXAMPLES} == set(subclasses(ModelyardError))


def test_every_code_is_in_both_mappings_and_has_one_class() -> None:
    assert set(CODES) == set(STATUSES) == set(ErrorCode)
    assert sorted(error.code for error in EXAMPLES) == sorted(ErrorCode)


def test_a_code_that_was_released_stays_what_callers_know() -> None:
    assert problem_of(errors.UpstreamFailed("it failed")).body["code"] == "MODEL_SERVER_FAILED"
    assert arrived(errors.UpstreamFailed("it failed")).code is ErrorCode.UPSTREAM_FAILED


@every_error
def test_an_error_comes_back_from_grpc_as_it_was(error: ModelyardError) -> None:
    back = arrived(error)

    assert type(back) is type(error)
    assert back.message == str(back) == error.message
    assert back.detail == error.detail
    assert back.retry_after == error.retry_after
    assert back.retryable == error.retryable


@every_error
def test_an_error_becomes_a_problem_document(error: ModelyardError) -> None:
    problem = problem_of(error)

    assert 400 <= problem.status <= 599
    assert problem.body["status"] == problem.status
    assert problem.body["code"] == error.code.value
    assert problem.body["detail"] == error.message
    is_told = error.retry_after is not None or problem.status in {429, 503}
    assert ("Retry-After" in problem.headers) == is_told


def test_a_problem_names_the_field_and_how_long_to_wait() -> None:
    field = problem_of(errors.InvalidArgument("spec.name", "must not be empty"))
    wait = problem_of(errors.RateLimited("tenant", retry_after=timedelta(milliseconds=1200)))
    soon = problem_of(errors.RateLimited("tenant", retry_after=timedelta(0)))
    who = problem_of(errors.Unauthenticated())

    assert field.body["errors"] == [{"field": "spec.name", "problem": "must not be empty"}]
    assert wait.headers["Retry-After"] == "2"
    assert soon.headers["Retry-After"] == "1"
    assert who.headers["WWW-Authenticate"] == "Bearer"


def test_a_change_for_another_version_is_told_which_one_there_is() -> None:
    there = problem_of(errors.VersionMismatch("tenant", "acme", current=3, expected=2))
    gone = problem_of(errors.VersionMismatch("member", "anna", current=None, expected=2))

    assert (there.status, there.body["current_version"]) == (412, 3)
    assert (gone.status, "current_version" in gone.body) == (412, False)


def test_a_status_stays_within_what_metadata_can_carry() -> None:
    detail = {f"field_{number}": "é" * 10_000 for number in range(100)}

    status = to_status(errors.FailedPrecondition("é" * 10_000, detail=detail))

    assert len(status.SerializeToString()) < 6_000


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect", errors.Unavailable),
        (grpc.StatusCode.CANCELLED, "", errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", errors.DeadlineExceeded),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "SERVER: Received message larger than max (5242892 vs. 4194304)",
            errors.PayloadTooLarge,
        ),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Sent message larger than max (5242892 vs. 4194304)",
            errors.PayloadTooLarge,
        ),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Concurrent RPC limit exceeded!",
            errors.Unavailable,
        ),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", errors.Unimplemented),
        (grpc.StatusCode.UNAUTHENTICATED, "", errors.Unauthenticated),
        (grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: hunter2", errors.Internal),
        (grpc.StatusCode.DATA_LOSS, "hunter2", errors.Internal),
    ],
)
def test_grpcs_own_answers_are_read_by_their_code_and_never_quoted(
    code: grpc.StatusCode, details: str, kind: type[ModelyardError]
) -> None:
    error = from_call_error(called(code, details), callee="model-registry")

    assert type(error) is kind
    assert "hunter2" not in error.message
    assert error.detail.get("bytes_max") in (None, "4194304")


def test_a_strangers_details_are_not_taken_for_ours() -> None:
    status = to_status(errors.NotFound("job", "job_1"))
    info = error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="somewhere.else")
    status.details[0].Pack(info)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))

    error = from_call_error(
        called(grpc.StatusCode.NOT_FOUND, status.message, trailing), callee="callee"
    )

    assert info.domain != DOMAIN
    assert type(error) is errors.Internal


def test_the_callee_is_blamed_for_outages_and_bugs_alone() -> None:
    blamed = {type(error) for error in EXAMPLES if is_callees_fault(error)}

    assert blamed == {errors.Unavailable, errors.DeadlineExceeded, errors.Internal}
