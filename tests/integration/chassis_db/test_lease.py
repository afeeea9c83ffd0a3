"""A lease means something: one holder acts, and whoever acts late is refused."""

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from services.chassis.clock import Clock, SystemClock
from services.chassis.db.errors import LeaseLost
from services.chassis.db.lease import HeldLease, LeaseKeeper, PostgresLeases, Seizing
from tests.integration.chassis_db.builders import ALPHA, ManualClock, eventually, running
from tests.integration.chassis_db.conftest import Store

pytestmark = pytest.mark.integration

TTL = timedelta(seconds=10)


def _keeper(store: Store, holder: str, clock: Clock | None = None) -> LeaseKeeper:
    return LeaseKeeper(
        PostgresLeases(store.engine, store.tables),
        "scheduling",
        holder=holder,
        ttl=TTL,
        clock=clock or SystemClock(),
    )


async def _expire(store: Store) -> None:
    """Let the lease run out, without waiting for it."""
    async with store.engine.begin() as connection:
        await connection.execute(
            sa.update(store.tables.lease).values(
                expires_at=sa.func.clock_timestamp() - timedelta(seconds=1)
            )
        )


async def test_a_held_lease_is_refused_to_others_and_renewed_for_its_holder(store: Store) -> None:
    first, second = _keeper(store, "a"), _keeper(store, "b")

    held = await first.acquire()
    assert held is not None
    assert held.epoch == 1
    assert await second.acquire() is None
    assert await first.acquire() == held
    assert first.is_held()
    assert not second.is_held()


async def test_an_expired_lease_goes_to_the_next_with_a_greater_epoch(store: Store) -> None:
    first, second = _keeper(store, "a"), _keeper(store, "b")
    await first.acquire()

    await _expire(store)
    taken = await second.acquire()
    assert taken is not None
    assert taken.epoch == 2
    assert await first.acquire() is None
    assert not first.is_held()


async def test_a_lease_that_expired_untaken_is_still_its_holders(store: Store) -> None:
    first = _keeper(store, "a")
    held = await first.acquire()
    await _expire(store)
    assert await first.acquire() == held


async def test_a_released_lease_is_free_at_once(store: Store) -> None:
    first, second = _keeper(store, "a"), _keeper(store, "b")
    await first.acquire()
    await first.release()
    assert not first.is_held()
    assert await second.acquire() is not None


async def test_a_holder_stops_itself_before_its_lease_runs_out(store: Store) -> None:
    clock = ManualClock()
    keeper = _keeper(store, "a", clock)
    await keeper.acquire()

    clock.advance(7.9)
    assert keeper.is_held()
    clock.advance(0.2)
    assert not keeper.is_held()
    assert keeper.held is None
    await keeper.acquire()
    assert keeper.is_held()


async def test_a_holders_time_counts_from_when_the_renewal_was_sent(store: Store) -> None:
    clock = ManualClock()
    keeper = _keeper(store, "a", clock)

    @event.listens_for(store.engine.sync_engine, "after_cursor_execute")
    def _answer_is_late(*_: object) -> None:
        clock.advance(5)

    await keeper.acquire()  # two statements: the answer comes ten seconds after it was asked
    assert not keeper.is_held()


async def test_a_former_holders_transaction_is_refused(store: Store) -> None:
    first, second = _keeper(store, "a"), _keeper(store, "b")
    held = await first.acquire()
    assert held is not None
    async with store.unit_of_work.system(because="the holder works") as tx:
        await tx.hold(held)

    await _expire(store)
    await second.acquire()
    with pytest.raises(LeaseLost):
        async with store.unit_of_work.system(because="the holder works late") as tx:
            await tx.hold(held)


async def test_a_lease_that_was_seized_is_held_by_nobody_else_until_it_is_taken(
    store: Store,
) -> None:
    first = _keeper(store, "a")
    held = await first.acquire()
    assert held is not None
    seize = Seizing(store.tables)

    async def seized(unheld_for: timedelta) -> HeldLease | None:
        async with store.engine.begin() as connection:
            return await seize(connection, held.name, holder="b", unheld_for=unheld_for)

    assert await seized(timedelta(0)) is None
    await _expire(store)
    assert await seized(timedelta(minutes=1)) is None
    by_another = await seized(timedelta(0))
    assert by_another is not None
    assert by_another.epoch == 2

    with pytest.raises(LeaseLost):
        async with store.unit_of_work(ALPHA) as tx:
            await tx.hold(held)
    async with store.unit_of_work(ALPHA) as tx:
        await tx.hold(by_another)
    again = await first.acquire()
    assert again is not None
    assert again.epoch == 3
    with pytest.raises(LeaseLost):
        async with store.unit_of_work(ALPHA) as tx:
            await tx.hold(by_another)


async def test_each_answer_says_that_somebody_holds_the_lease(store: Store) -> None:
    clock = ManualClock()
    first, second = _keeper(store, "a"), _keeper(store, "b", clock)
    clock.advance(4)
    assert second.unanswered_for == timedelta(seconds=4)
    await first.acquire()
    await second.acquire()
    assert second.unanswered_for == timedelta(0)
    clock.advance(3)
    assert second.unanswered_for == timedelta(seconds=3)


async def test_a_new_holder_waits_for_what_the_old_one_has_begun(store: Store) -> None:
    first, second = _keeper(store, "a"), _keeper(store, "b")
    held = await first.acquire()
    assert held is not None
    await _expire(store)

    async with (
        asyncio.TaskGroup() as tasks,
        store.unit_of_work.system(because="begun in time") as tx,
    ):
        await tx.hold(held)
        taking = tasks.create_task(second.acquire())
        await eventually(lambda: _is_waiting(store))
        assert not taking.done()
    taken = taking.result()
    assert taken is not None
    assert taken.epoch == 2


async def test_a_holder_that_is_paused_in_its_work_lets_go_of_it(store: Store) -> None:
    held = await _keeper(store, "a").acquire()
    assert held is not None
    limit = sa.text("SELECT current_setting('idle_in_transaction_session_timeout')")

    async with store.unit_of_work.system(because="the holder works") as tx:
        usual = await tx.connection.scalar(limit)
        await tx.hold(held)
        assert await tx.connection.scalar(limit) == "5s"

    async with store.unit_of_work.system(because="others work") as tx:
        assert await tx.connection.scalar(limit) == usual != "5s"


async def test_a_busy_holder_does_not_keep_itself_from_renewing(store: Store) -> None:
    keeper = _keeper(store, "a")
    held = await keeper.acquire()
    assert held is not None
    async with store.unit_of_work(ALPHA) as tx:
        await tx.hold(held)
        async with asyncio.TaskGroup() as tasks:  # a task of its own, as the keeper's loop is
            renewal = tasks.create_task(keeper.acquire())
    assert renewal.result() == held


async def _is_waiting(store: Store) -> bool:
    async with store.engine.connect() as connection:
        waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(await connection.scalar(waiting))


async def test_a_keeper_takes_renews_and_gives_back(store: Store) -> None:
    keeper = LeaseKeeper(
        PostgresLeases(store.engine, store.tables),
        "scheduling",
        holder="a",
        ttl=timedelta(seconds=3),
        clock=SystemClock(),
    )
    async with running(keeper.run):
        held = await keeper.wait_held()
        first_expiry = await _expiry(store)

        async def renewed() -> bool:
            return await _expiry(store) > first_expiry

        await eventually(renewed)
    assert held.epoch == 1
    assert not keeper.is_held()
    assert await _keeper(store, "b").acquire() is not None


async def _expiry(store: Store) -> float:
    async with store.engine.connect() as connection:
        expiry = await connection.scalar(sa.select(store.tables.lease.c.expires_at))
    assert expiry is not None
    return float(expiry.timestamp())
