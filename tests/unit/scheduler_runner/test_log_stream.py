"""What the runner does when a log stream is complete."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from modelyard.logs.v1.log_events_pb2 import LogStreamChanged

from services.chassis.errors import InvalidArgument
from services.chassis.events.envelope import Event
from services.chassis.tenancy import TenantId
from services.scheduler.entrypoints.consumers.log_stream import TOPIC, handlers
from services.scheduler.use_cases.attempts.remove_container import RemoveContainer

COMPLETED = "modelyard.log-stream.completed.v1"


class Removals:
    """Remembers whose containers were to go."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, attempt_id: str) -> bool:
        self.asked.append(attempt_id)
        return True


def _event(data: bytes) -> Event:
    given: dict[str, Any] = dict.fromkeys(Event.__dataclass_fields__)
    given |= {
        "id": "1",
        "type": COMPLETED,
        "tenant": TenantId("acme"),
        "topic": TOPIC,
        "data": data,
        "time": datetime(2026, 11, 22, tzinfo=UTC),
    }
    return Event(**given)


async def test_container_goes_when_its_output_is_stored() -> None:
    removals = Removals()
    handle = handlers(cast("RemoveContainer", removals))[COMPLETED]

    await handle(_event(LogStreamChanged(attempt_id="att_1").SerializeToString()))

    assert removals.asked == ["att_1"]


@pytest.mark.parametrize("data", [b"", b"\xff\xff"])
async def test_event_that_breaks_the_contract_is_refused(data: bytes) -> None:
    handle = handlers(cast("RemoveContainer", Removals()))[COMPLETED]

    with pytest.raises(InvalidArgument):
        await handle(_event(data))
