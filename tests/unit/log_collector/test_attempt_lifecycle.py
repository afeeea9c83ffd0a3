"""Which part of a job's output an attempt's event tells of."""

from typing import cast

import pytest
from modelyard.scheduler.v1 import job_events_pb2 as pb

from services.chassis.errors import InvalidArgument
from services.chassis.events.envelope import Event
from services.chassis.tenancy import TenantId
from services.log_collector.entrypoints.consumers.attempt_lifecycle import TOPIC, handlers
from services.log_collector.use_cases.end_stream import EndStream
from services.log_collector.use_cases.expect_stream import AttemptEvent, ExpectStream
from services.log_collector.use_cases.open_stream import OpenStream
from tests.unit.log_collector.builders import NOW

CREATED = "modelyard.attempt.created.v1"


def an_event(**told: int) -> Event:
    message = pb.AttemptTransitioned(
        attempt_id="att_1",
        tenant="acme",
        owner_kind=pb.ATTEMPT_OWNER_KIND_JOB,
        owner_id="job_1",
        **told,  # type: ignore[arg-type]
    )
    return Event(
        id="evt_1",
        source="/scheduler",
        type=CREATED,
        subject="att_1",
        time=NOW,
        tenant=TenantId("acme"),
        dataschema=message.DESCRIPTOR.full_name,
        data=message.SerializeToString(),
        traceparent=None,
        tracestate=None,
        topic=TOPIC,
        key="att_1",
        partition=0,
        offset=0,
    )


async def heard(event: Event) -> int:
    """Return the place in its job's output at which an attempt's is expected."""
    seen: list[AttemptEvent] = []

    async def expect(heard_of: AttemptEvent) -> None:
        seen.append(heard_of)

    table = handlers(
        cast("ExpectStream", expect), cast("OpenStream", expect), cast("EndStream", expect)
    )
    await table[CREATED](event)
    return seen[0].attempt_number


@pytest.mark.parametrize(
    ("number", "task", "task_count", "place"),
    [(1, 0, 1, 1), (3, 0, 1, 3), (1, 0, 3, 1), (1, 2, 3, 3), (2, 0, 3, 4), (2, 1, 3, 5)],
)
async def test_each_task_of_each_attempt_has_a_place_of_its_own_after_those_before(
    number: int, task: int, task_count: int, place: int
) -> None:
    assert await heard(an_event(number=number, task=task, task_count=task_count)) == place


async def test_what_a_scheduler_of_before_tells_is_of_one_task() -> None:
    assert await heard(an_event(number=2)) == 2


@pytest.mark.parametrize("task", [-1, 3])
async def test_a_task_that_its_job_does_not_have_is_refused(task: int) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await heard(an_event(number=1, task=task, task_count=3))
    assert refusal.value.detail["field"] == "task"
