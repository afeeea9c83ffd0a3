"""How long the latest of a template took, as whoever admits the next one asks."""

from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt, LogLocation, Owner, OwnerKind
from services.scheduler.domain.attempts.ending import AttemptEnding, EndReason
from services.scheduler.domain.identities import AttemptId
from services.scheduler.domain.scheduling.history import RUNS_MAX
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, NODE, NOW, UMBRELLA, resources

SUCCEEDED = AttemptEnding.succeeded()
CANCELLED = AttemptEnding(EndReason.CANCELLED, "")


async def ran(
    store: Store,
    number: int,
    *,
    minutes: int,
    tenant: TenantId = ACME,
    template: str = "train",
    ending: AttemptEnding | None = SUCCEEDED,
    task: int = 0,
) -> None:
    """Store an attempt that took so long; without an ending one that runs still."""
    kind = OwnerKind.JOB if template else OwnerKind.REPLICA
    attempt, _ = Attempt.created(
        AttemptId(f"att_{number}"),
        tenant,
        Owner(kind, f"job_{number}", public_id=f"job_{number}"),
        number=1,
        node_id=NODE,
        resources=resources(),
        at=NOW,
        traceparent=None,
        task=task,
        template=template,
    )
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.register(NODE, resources(), runtime="process", allows_mixed_tenants=True)
        await tx.attempts.add([attempt])
    async with store.unit_of_work.system(because="test") as tx:
        stored = await tx.attempts.get(attempt.id)
        started, _ = stored.started(LogLocation("log"), at=stored.created_at)
        await tx.attempts.save(started)
        if ending is not None:
            at = stored.created_at + timedelta(minutes=minutes)
            code = 0 if ending is SUCCEEDED else 143
            await tx.attempts.save(started.exited(code, ending, at=at)[0])


async def took(
    store: Store, *templates: str, tenant: TenantId = ACME
) -> dict[tuple[TenantId, str], timedelta]:
    async with store.unit_of_work.system(because="test") as tx:
        found = await tx.attempts.took({(tenant, template) for template in templates})
    return {of: timedelta(seconds=round(each.total_seconds())) for of, each in found.items()}


async def test_the_latest_few_of_a_template_are_averaged(store: Store) -> None:
    assert RUNS_MAX == 2
    await ran(store, 1, minutes=10)
    assert await took(store, "train") == {(ACME, "train"): timedelta(minutes=10)}
    await ran(store, 2, minutes=40)
    await ran(store, 3, minutes=20)  # ended before the second one, which began before
    assert await took(store, "train") == {(ACME, "train"): timedelta(minutes=30)}


async def test_each_template_has_its_own(store: Store) -> None:
    await ran(store, 1, minutes=10)
    await ran(store, 2, minutes=20, template="test")
    assert await took(store, "train", "test", "other") == {
        (ACME, "train"): timedelta(minutes=10),
        (ACME, "test"): timedelta(minutes=20),
    }


async def test_another_tenants_is_not_told(store: Store) -> None:
    await ran(store, 1, minutes=10, tenant=UMBRELLA)
    assert await took(store, "train") == {}


async def test_who_did_not_succeed_tells_nothing(store: Store) -> None:
    await ran(store, 1, minutes=10, ending=None)
    await ran(store, 2, minutes=10, ending=CANCELLED)
    assert await took(store, "train") == {}


async def test_of_several_tasks_the_first_one_tells(store: Store) -> None:
    await ran(store, 1, minutes=10)
    await ran(store, 2, minutes=90, task=1)
    assert await took(store, "train") == {(ACME, "train"): timedelta(minutes=10)}


async def test_whose_jobs_nobody_asks_for_is_told_nothing(store: Store) -> None:
    assert await took(store) == {}
