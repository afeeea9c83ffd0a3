"""A tenant's states, plan and versions; and what is known of it between two looks."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from typing_extensions import override

from services.api_gateway.domain.tenant import TRANSITIONS, Plan, Tenant, TenantState
from services.api_gateway.use_cases.recent import AGE_MAX
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    TenantSuspended,
    Unauthenticated,
)
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import Clock, FakeKeys, FakeTenants

ACME = TenantId("acme")
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SOON = NOW + timedelta(minutes=1)
LATER = NOW + timedelta(hours=1)


def a_tenant(state: TenantState = TenantState.ACTIVE, *, version: int = 7) -> Tenant:
    return replace(
        Tenant.created(ACME, Plan(), at=NOW),
        state=state,
        version=version,
        purge_at=end_of(state),
    )


def end_of(state: TenantState) -> datetime | None:
    return LATER if state is TenantState.DELETING else None


@pytest.mark.parametrize(("state", "to"), list(itertools.product(TenantState, repeat=2)))
def test_a_tenant_moves_only_by_its_table(state: TenantState, to: TenantState) -> None:
    before = a_tenant(state)
    if to not in TRANSITIONS[state]:
        with pytest.raises(FailedPrecondition):
            before.move(to, reason="because", at=SOON, purge_at=end_of(to))
        return
    after = before.move(to, reason="because", at=SOON, purge_at=end_of(to))
    assert (after.state, after.version, after.reason) == (to, 8, "because")
    assert after.purge_at == end_of(to)
    assert (after.created_at, after.changed_at) == (NOW, SOON)


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(TenantState)


def test_a_repeated_request_changes_nothing() -> None:
    suspended = a_tenant().suspended(reason="unpaid", at=LATER)
    assert suspended.suspended(reason="another", at=LATER) is suspended
    active = suspended.resumed(at=LATER)
    assert (active.version, active.reason) == (9, "")
    assert active.resumed(at=LATER) is active
    assert active.planned(Plan(), at=LATER) is active


def test_a_suspended_tenant_says_why() -> None:
    a_tenant().check_active()
    with pytest.raises(TenantSuspended, match="unpaid"):
        a_tenant().suspended(reason="unpaid", at=LATER).check_active()


@pytest.mark.parametrize("reason", ["", "x" * 257, "two\nlines", "\0"])
def test_a_reason_is_one_short_line(reason: str) -> None:
    with pytest.raises(InvalidArgument):
        a_tenant().suspended(reason=reason, at=LATER)


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (Plan(queued_jobs_max=-1), "queued_jobs_max"),
        (Plan(replicas_max=1_000_001), "replicas_max"),
        (Plan(priority_max=101), "priority_max"),
        (Plan(requests_max=0), "requests_max"),
    ],
)
def test_a_plans_field_out_of_bounds_is_named(plan: Plan, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        a_tenant().planned(plan, at=LATER)
    assert refused.value.detail["field"] == field


def test_a_plan_changes_whatever_the_state_and_keeps_it() -> None:
    plan = Plan(queued_jobs_max=0)
    planned = a_tenant(TenantState.SUSPENDED).planned(plan, at=LATER)
    assert (planned.plan, planned.state, planned.version) == (plan, TenantState.SUSPENDED, 8)


def test_a_tenant_whose_grace_is_over_is_gone_though_nobody_has_purged_it_yet() -> None:
    deleted = a_tenant().deleted(grace=timedelta(0), at=NOW)
    assert deleted.is_gone(at=NOW)
    with pytest.raises(FailedPrecondition):
        deleted.resumed(at=NOW)
    with pytest.raises(FailedPrecondition):
        deleted.suspended(reason="x", at=NOW)
    assert deleted.purged(at=NOW).is_gone(at=NOW)


def test_a_deleted_tenant_only_reads_and_can_be_resumed_until_its_grace_is_over() -> None:
    deleting = a_tenant().deleted(grace=timedelta(hours=1), at=NOW)
    assert (deleting.state, deleting.purge_at) == (TenantState.DELETING, LATER)
    with pytest.raises(TenantSuspended, match="it is being deleted"):
        deleting.check_active()
    with pytest.raises(FailedPrecondition):
        deleting.suspended(reason="unpaid", at=NOW)
    with pytest.raises(FailedPrecondition):
        deleting.resumed(at=LATER)
    resumed = deleting.resumed(at=SOON)
    assert (resumed.state, resumed.purge_at) == (TenantState.ACTIVE, None)
    with pytest.raises(AssertionError, match="grace"):
        deleting.purged(at=NOW)


def test_a_repeated_deletion_brings_the_end_forward_and_never_puts_it_off() -> None:
    deleting = a_tenant().deleted(grace=timedelta(hours=1), at=NOW)
    assert deleting.deleted(grace=timedelta(hours=1), at=LATER) is deleting
    sooner = deleting.deleted(grace=timedelta(0), at=NOW)
    assert (sooner.purge_at, sooner.version) == (NOW, 9)


def test_of_a_purged_tenant_only_the_name_is_left_and_nothing_brings_it_back() -> None:
    planned = a_tenant().planned(Plan(replicas_max=1), at=NOW)
    purged = planned.deleted(grace=timedelta(0), at=NOW).purged(at=NOW)
    assert (purged.state, purged.plan, purged.reason) == (TenantState.PURGED, Plan(), "")
    assert purged.purge_at is None
    assert purged.deleted(grace=timedelta(0), at=LATER) is purged
    for refused in (
        lambda: purged.resumed(at=LATER),
        lambda: purged.suspended(reason="x", at=LATER),
        lambda: purged.planned(Plan(), at=LATER),
        purged.check_kept,
    ):
        with pytest.raises(FailedPrecondition):
            refused()


@pytest.mark.parametrize("grace", [timedelta(seconds=-1), timedelta(days=91)])
def test_a_grace_is_bounded(grace: timedelta) -> None:
    with pytest.raises(InvalidArgument) as refused:
        a_tenant().deleted(grace=grace, at=NOW)
    assert refused.value.detail["field"] == "grace"


@dataclass
class SlowTenants(FakeTenants):
    """Tenants whose row is read before `meanwhile` happens, and arrives after it."""

    meanwhile: Callable[[], None] = lambda: None

    @override
    async def find(self, tenant: TenantId) -> Tenant | None:
        found = self.tenants.get(tenant)
        self.meanwhile()
        return found


def a_store(clock: Clock, *tenants: Tenant) -> SlowTenants:
    return SlowTenants(clock, FakeKeys(), {tenant.id: tenant for tenant in tenants})


async def test_a_tenant_is_remembered_for_a_moment() -> None:
    clock = Clock()
    store = a_store(clock, a_tenant())
    standing = TenantStanding(store, clock)
    await standing(ACME)
    store.tenants[ACME] = a_tenant(TenantState.SUSPENDED, version=8)
    assert (await standing(ACME)).is_active
    clock.elapsed_s += AGE_MAX.total_seconds()
    assert not (await standing(ACME)).is_active


async def test_a_change_made_here_is_known_here_at_once() -> None:
    standing = TenantStanding(a_store(Clock(), a_tenant()), Clock())
    await standing(ACME)
    standing.learn(a_tenant(TenantState.SUSPENDED, version=8))
    assert not (await standing(ACME)).is_active


async def test_a_read_that_was_under_way_does_not_undo_a_change() -> None:
    store = a_store(Clock(), a_tenant())
    standing = TenantStanding(store, Clock())
    suspended = a_tenant(TenantState.SUSPENDED, version=8)
    store.meanwhile = lambda: standing.learn(suspended)
    assert await standing(ACME) == suspended
    assert await standing(ACME) == suspended


async def test_nobody_acts_for_a_tenant_that_is_none_or_none_any_more() -> None:
    for store in (a_store(Clock()), a_store(Clock(), a_tenant(TenantState.PURGED))):
        with pytest.raises(Unauthenticated):
            await TenantStanding(store, Clock())(ACME)


def test_of_a_name_that_is_taken_is_told_whether_it_ever_comes_back() -> None:
    deleted = a_tenant().deleted(grace=timedelta(hours=1), at=NOW)
    assert str(deleted.name_taken(at=SOON)) == "tenant acme already exists"
    assert str(deleted.name_taken(at=LATER)) == (
        "tenant acme was deleted, and a deleted tenant's name is not given again"
    )
