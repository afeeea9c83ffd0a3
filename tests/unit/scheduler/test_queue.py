"""Queues: what can be one's name, and what a job is told whose queue is paused."""

from dataclasses import replace

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.queues.queue import QUEUE_NAME, Pause, check_queue_name
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.causes import Hold
from services.scheduler.domain.scheduling.explanation import reason_by_itself
from services.scheduler.domain.tenants.tenant import Tenant
from services.scheduler.use_cases.paging import Page, PageRequest
from tests.unit.scheduler.builders import ACME, NOW, a_job, later

PAUSE = Pause("nightly", NOW, "it is day")
TOLD = "its queue nightly is paused since 2026-03-01T12:00:00Z: it is day"
SUSPENDED = Tenant(ACME, version=1, is_suspended=True, reason="unpaid")
NOTHING = Resources()
OPEN = FleetDoors(node_count=1, open_count=1)


@pytest.mark.parametrize("name", ["default", "0", "a-", "n" * 63])
def test_a_queue_has_a_plain_name(name: str) -> None:
    check_queue_name(name, field="queue")


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "n" * 64, "a\n"])
def test_what_can_be_no_queues_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="such as nightly") as refused:
        check_queue_name(name, field="spec.queue")
    assert refused.value.detail["field"] == "spec.queue"


def test_a_pause_is_told_after_a_suspension_and_before_a_back_off() -> None:
    job = replace(a_job(), retry_at=later(60))

    def told(tenant: Tenant, pause: Pause | None) -> Hold:
        reason = reason_by_itself(job, tenant, pause=pause, booked=NOTHING, at=NOW)
        assert reason is not None
        return reason.hold

    assert told(SUSPENDED, PAUSE) is Hold.TENANT
    assert told(Tenant(ACME), PAUSE) is Hold.PAUSED
    assert told(Tenant(ACME), None) is Hold.BACK_OFF


def test_a_pause_says_since_when_and_why_and_what_helps() -> None:
    reason = reason_by_itself(a_job(), Tenant(ACME), pause=PAUSE, booked=NOTHING, at=NOW)
    assert reason is not None
    assert (reason.because, reason.helped_by) == (TOLD, "its queue's resumption")


def test_pages_of_a_list_by_name_go_on_after_the_last_name() -> None:
    token = Page.of(["a-1", "b"], 1, lambda name: name).next_token
    assert PageRequest.of(1, token, places=QUEUE_NAME) == PageRequest(1, "a-1")
    with pytest.raises(InvalidArgument):
        PageRequest.of(1, token)


def test_a_job_is_shown_with_its_queues_pause_while_it_is_in_line() -> None:
    shown = Tenant(ACME).job_shown(a_job(), booked=NOTHING, doors=OPEN, pause=PAUSE)
    assert shown == replace(a_job(), reason=TOLD)
    suspended = SUSPENDED.job_shown(a_job(), booked=NOTHING, doors=OPEN, pause=PAUSE)
    assert "unpaid" in suspended.reason
    running = a_job(state=JobState.RUNNING)
    assert Tenant(ACME).job_shown(running, booked=NOTHING, doors=OPEN, pause=PAUSE) == running
