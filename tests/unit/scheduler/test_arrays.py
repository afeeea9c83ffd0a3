"""An array: what is split off it, and how it ends by its elements."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.array import after_all, all_counts
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.job import ArrayElement, EndedPhase, Job, JobState, Phase
from services.scheduler.domain.jobs.spec import ARRAY_SIZE_MAX, JobTimeouts
from services.scheduler.domain.transitions import IllegalTransition
from tests.unit.scheduler.builders import ACME, NODE, NOW, TRACEPARENT, a_job, a_spec, later

S = JobState


def an_array(size: int = 3, **spec: Any) -> Job:
    job, _ = Job.queued(
        JobId("job_array"), ACME, a_spec(array_size=size, **spec), at=NOW, traceparent=TRACEPARENT
    )
    return job


def split(array: Job, count: int) -> tuple[Job, list[Job]]:
    """Split so many elements off."""
    elements = []
    for number in range(count):
        array, _, element, _ = array.split(JobId(f"job_{number}"), at=later(number))
        elements.append(element)
    return array, elements


@pytest.mark.parametrize("size", [-1, ARRAY_SIZE_MAX + 1])
def test_an_array_has_a_bounded_number_of_elements(size: int) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        a_spec(array_size=size).check()
    assert refusal.value.detail["field"] == "spec.array_size"
    a_spec(array_size=ARRAY_SIZE_MAX).check()


def test_elements_are_split_off_in_order_as_jobs_that_have_waited_with_their_array() -> None:
    array = an_array()
    assert (array.is_array, array.rest_count, array.array_index) == (True, 3, 0)

    rest, moved, element, queued = array.split(JobId("job_1"), at=later(9))

    assert moved is None
    assert (rest.state, rest.rest_count, rest.array_index) == (S.QUEUED, 2, 1)
    assert (rest.version, rest.reason) == (array.version, "1 of 3 elements admitted")
    assert element.element == queued.element == ArrayElement(array.id, 0)
    assert (element.state, element.version, element.created_at) == (S.QUEUED, 1, NOW)
    assert (element.spec, element.traceparent) == (array.spec, TRACEPARENT)
    assert (element.is_array, element.rest_count, element.array_index) == (False, 1, 0)
    assert rest.split(JobId("job_2"), at=later(9))[2].array_index == 1


def test_an_array_runs_from_its_last_element_on_and_holds_nothing_itself() -> None:
    array, elements = split(an_array(), 2)
    array, running, last, _ = array.split(JobId("job_2"), at=later(5))
    assert running is not None
    assert (running.state, running.version) == (S.RUNNING, 2)
    assert (array.rest_count, array.started_at, array.is_placed) == (0, later(5), False)
    assert [each.array_index for each in [*elements, last]] == [0, 1, 2]


def test_what_is_no_array_is_not_split_and_what_is_one_not_admitted() -> None:
    with pytest.raises(AssertionError):
        a_job().split(JobId("job_2"), at=NOW)
    with pytest.raises(IllegalTransition):
        an_array().admitted(AttemptId("att_1"), NODE, at=NOW)


def test_an_array_is_over_once_all_its_elements_are() -> None:
    array, _ = split(an_array(), 3)
    assert after_all(array, {S.SUCCEEDED: 2, S.RUNNING: 1}, at=NOW) is None
    assert after_all(array, {S.SUCCEEDED: 2, S.QUEUED: 1}, at=NOW) is None
    ended = after_all(array, {S.SUCCEEDED: 3}, at=later(60))
    assert ended is not None
    array, fact = ended
    assert (fact.state, fact.version) == (S.SUCCEEDED, 3)
    assert (array.reason, array.ended_at) == ("all 3 elements have succeeded", later(60))


def test_an_array_whose_elements_are_in_line_with_it_is_not_over() -> None:
    array, _ = split(an_array(), 2)
    assert after_all(array, {S.SUCCEEDED: 2}, at=NOW) is None


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({S.FAILED: 1, S.SUCCEEDED: 2}, "of 3 elements 1 failed"),
        ({S.CANCELLED: 1, S.SUCCEEDED: 2}, "of 3 elements 1 cancelled"),
        ({S.FAILED: 1, S.CANCELLED: 2}, "of 3 elements 1 failed, 2 cancelled"),
    ],
)
def test_an_array_fails_with_any_of_its_elements(counts: dict[JobState, int], told: str) -> None:
    array, _ = split(an_array(), 3)
    ended = after_all(array, counts, at=NOW)
    assert ended is not None
    failure = ended[0].failure
    assert ended[0].state is S.FAILED
    assert failure is not None
    assert (failure.reason, failure.message) == (FailureReason.ELEMENTS, told)


def test_an_array_without_elements_is_cancelled_at_once_and_any_other_once_they_have_ended() -> (
    None
):
    asked = an_array().asked_to_stop(reason="enough", at=NOW)
    assert asked is not None
    cancelled, _ = asked
    assert cancelled.state is S.CANCELLED
    assert all_counts(cancelled, {}) == {S.CANCELLED: 3}

    for count in (1, 3):
        array, _ = split(an_array(), count)
        asked = array.asked_to_stop(reason="enough", at=NOW)
        assert asked is not None
        array, _ = asked
        assert array.state is S.STOPPING
        assert after_all(array, {S.STOPPING: count}, at=NOW) is None
        told = all_counts(array, {S.STOPPING: count})
        assert told == +Counter({S.STOPPING: count, S.CANCELLED: 3 - count})
        ended = after_all(array, {S.SUCCEEDED: count}, at=later(9))
        assert ended is not None
        assert (ended[0].state, ended[0].reason) == (S.CANCELLED, "enough")


def test_an_array_that_has_ended_is_not_cancelled() -> None:
    array, _ = split(an_array(), 3)
    ended = after_all(array, {S.SUCCEEDED: 3}, at=NOW)
    assert ended is not None
    with pytest.raises(FailedPrecondition):
        ended[0].asked_to_stop(reason="", at=NOW)


def test_of_an_array_that_stood_in_line_too_long_the_rest_fails_and_the_others_go_on() -> None:
    timeouts = JobTimeouts(queue=timedelta(minutes=1))
    array, fact = an_array(timeouts=timeouts).expired(at=later(60))
    assert fact.state is S.FAILED
    assert all_counts(array, {}) == {S.FAILED: 3}

    array, _ = split(an_array(timeouts=timeouts), 1)
    array, fact = array.expired(at=later(60))
    assert (array.state, fact.version) == (S.RUNNING, 2)
    assert array.reason == "2 elements stood in line for longer than 1 min"
    assert all_counts(array, {S.RUNNING: 1}) == {S.RUNNING: 1, S.FAILED: 2}
    assert after_all(array, {S.RUNNING: 1}, at=NOW) is None
    ended = after_all(array, {S.SUCCEEDED: 1}, at=NOW)
    assert ended is not None
    assert ended[0].failure is not None
    assert ended[0].failure.reason is FailureReason.QUEUE_TIMEOUT


def test_all_elements_are_told_also_those_that_are_no_jobs_yet() -> None:
    array, _ = split(an_array(5), 2)
    assert all_counts(array, {S.RUNNING: 1, S.QUEUED: 1}) == {S.RUNNING: 1, S.QUEUED: 4}
    assert all_counts(an_array(5), {}) == {S.QUEUED: 5}


def test_all_elements_are_told_once_though_some_were_split_off_after_a_look_at_their_array() -> (
    None
):
    array, _ = split(an_array(), 1)
    assert all_counts(array, {S.RUNNING: 3}) == {S.RUNNING: 3}


def test_an_array_some_of_whose_elements_nobody_knows_any_more_has_not_succeeded() -> None:
    array, _ = split(an_array(), 3)
    ended = after_all(array, {S.SUCCEEDED: 1}, at=NOW)
    assert ended is not None
    assert (ended[0].state, ended[0].reason) == (S.FAILED, "of 3 elements 2 failed")


def test_an_array_that_was_to_fail_and_is_cancelled_has_no_failure() -> None:
    array, _ = split(an_array(timeouts=JobTimeouts(queue=timedelta(minutes=1))), 1)
    array, _ = array.expired(at=later(60))
    asked = array.asked_to_stop(reason="enough", at=later(61))
    assert asked is not None
    ended = after_all(asked[0], {S.CANCELLED: 1}, at=later(62))
    assert ended is not None
    cancelled, fact = ended
    assert (cancelled.state, cancelled.failure, fact.failure) == (S.CANCELLED, None, None)


def test_an_array_that_stops_in_line_was_never_started() -> None:
    array, _ = split(an_array(), 1)
    asked = array.asked_to_stop(reason="enough", at=later(61))
    assert asked is not None
    array, stopping = asked
    assert stopping.ended_phase is None
    ended = after_all(array, {S.CANCELLED: 1}, at=later(62))
    assert ended is not None
    assert ended[1].ended_phase == EndedPhase(Phase.QUEUED, NOW, later(62))
