"""How an explanation is told."""

from datetime import datetime, timedelta

import pytest

from services.scheduler.domain.scheduling.explanation import Explanation, Hold, Reason
from tests.unit.scheduler.builders import NOW, a_job


def estimated(at: datetime, starts_in: timedelta | None) -> datetime | None:
    reason = Reason(Hold.RESOURCES, "no node has room for it", starts_in=starts_in)
    return Explanation(a_job(), reason, at).estimated_start_at


@pytest.mark.parametrize(
    ("past", "minutes"), [(0.0, 60), (1e-6, 61), (59.999999, 61), (60.0, 61), (60.000001, 62)]
)
def test_an_instant_is_told_to_the_next_full_minute(past: float, minutes: int) -> None:
    at = NOW + timedelta(seconds=past)
    assert estimated(at, timedelta(hours=1)) == NOW + timedelta(minutes=minutes)


def test_no_instant_is_told_where_nobody_can_tell() -> None:
    assert estimated(NOW, None) is None
