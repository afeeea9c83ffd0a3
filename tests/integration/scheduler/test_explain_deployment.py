"""Why a deployment's replicas wait: what holds the first of them, and about when it starts."""

from datetime import timedelta

import pytest

from services.chassis.errors import NotFound
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.scheduling.causes import Hold
from services.scheduler.domain.scheduling.explanation import DeploymentExplanation
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, UMBRELLA, resources

HOUR = timedelta(hours=1)


async def explained(yard: Yard, name: str = "digits") -> DeploymentExplanation:
    return await yard.explain_deployment(ACME, name)


def is_about(told: DeploymentExplanation, length: timedelta) -> bool:
    starts_in = told.reason.starts_in
    return starts_in is not None and length - timedelta(minutes=1) < starts_in <= length


async def test_a_replica_whose_turn_it_is_waits_for_nothing(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_deployment(replica_count=2)
    told = await explained(yard)
    assert (told.reason.hold, told.reason.because) == (Hold.NONE, "it is its turn")
    assert (told.waiting_count, told.reason.starts_in) == (2, timedelta(0))


async def test_a_deployment_of_which_none_waits_tells_where_it_is(yard: Yard) -> None:
    await yard.a_node()
    made = await yard.a_deployment()
    await yard.cycle()
    told = await explained(yard)
    assert (told.reason.hold, told.waiting_count) == (Hold.NONE, 0)
    assert told.reason.because == "created"

    await yard.delete_deployment(ACME, "digits", if_version=None)
    told = await yard.explain_deployment(ACME, made.deployment.id)
    assert (told.reason.because, told.waiting_count) == ("deletion was asked for", 0)


async def test_a_replica_starts_when_the_jobs_in_its_room_are_over(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job(resources=cores(3), timeouts=JobTimeouts(run=HOUR))
    await yard.cycle()
    await yard.a_deployment(resources=cores(2))
    told = await explained(yard)
    assert told.reason.hold is Hold.RESOURCES
    assert told.reason.because == (
        "no node has room for it: the best one is short of cpu_millicores 1000"
    )
    assert is_about(told, HOUR)


async def test_a_replica_that_fits_waits_for_one_before_it_that_does_not(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job(resources=cores(1), timeouts=JobTimeouts(run=HOUR))
    await yard.cycle()
    await yard.a_deployment(name="large", resources=cores(4))
    await yard.a_deployment(resources=cores(1))
    told = await explained(yard)
    assert (told.reason.hold, told.reason.because) == (
        Hold.ORDER,
        "there is room, and it is kept for a replica before it that can't start yet",
    )
    assert told.reason.helped_by == "that one's start"


async def test_of_more_replicas_than_find_room_the_first_in_line_is_told(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_deployment(resources=cores(2), replica_count=3)
    await yard.cycle()
    told = await explained(yard)
    assert (told.waiting_count, told.reason.hold) == (1, Hold.RESOURCES)
    assert told.reason.helped_by == "fewer replicas, or more nodes"
    assert told.estimated_start_at is None


async def test_what_holds_a_replica_itself_is_told_before_what_holds_its_place(yard: Yard) -> None:
    await yard.a_deployment(resources=cores(2))
    told = await explained(yard)
    assert (told.reason.hold, told.reason.because) == (Hold.NODES, "there is no node yet")

    yard.tenant(ACME, running_max=resources(cpu=1, memory=8))
    told = await explained(yard)
    assert told.reason.hold is Hold.PLAN
    assert told.reason.because.endswith("it is short of cpu_millicores 1000")

    yard.tenant(ACME, is_suspended=True)
    told = await explained(yard)
    assert (told.reason.hold, told.reason.because) == (
        Hold.TENANT,
        "the tenant is suspended: unpaid",
    )


async def test_a_replica_whose_tenants_earlier_one_takes_the_plan_says_so(yard: Yard) -> None:
    await yard.a_node()
    yard.tenant(ACME, running_max=resources(cpu=2, memory=8))
    await yard.a_deployment(name="before", resources=cores(2))
    await yard.a_deployment(resources=cores(1))
    told = await explained(yard)
    assert told.reason.hold is Hold.PLAN
    assert told.reason.because == "its tenant's replicas before it take what the plan lets it take"


async def test_a_replica_that_failed_waits_before_it_is_tried_again(yard: Yard) -> None:
    await yard.a_node()
    made = await yard.a_deployment()
    await yard.cycle()
    await yard.replica_ended(made.replicas[0].id)
    told = await explained(yard)
    assert (told.reason.hold, told.waiting_count) == (Hold.BACK_OFF, 1)
    assert told.reason.because.startswith("exit code 1; it is tried again from ")


async def test_another_tenants_deployment_is_not_found(yard: Yard) -> None:
    made = await yard.a_deployment()
    for named in ("digits", made.deployment.id):
        with pytest.raises(NotFound):
            await yard.explain_deployment(UMBRELLA, named)
