"""A repeated request has one effect, whatever the timing."""

import asyncio

import pytest
import sqlalchemy as sa

from services.chassis.db.idempotency import answer, remember, request_hash
from services.chassis.errors import InProgress, KeyReused
from services.chassis.tenancy import TenantId
from tests.integration.chassis_db.builders import ALPHA, BETA, eventually
from tests.integration.chassis_db.conftest import ACCOUNTS, Store

pytestmark = pytest.mark.integration


async def _open_account(
    store: Store,
    body: bytes = b"acc_1",
    *,
    tenant: TenantId = ALPHA,
    key: str = "key-1",
    before_answer: asyncio.Event | None = None,
    fails: bool = False,
) -> bytes:
    """A use case like any other: remember, do, answer."""
    method = "OpenAccount"
    async with store.unit_of_work(tenant) as tx:
        known = await remember(tx, method=method, key=key, request_hash=request_hash(body))
        if known is not None:
            return known
        identity = f"{tenant}-{body.decode()}"
        await tx.connection.execute(sa.insert(ACCOUNTS).values(id=identity, version=1))
        if before_answer is not None:
            await before_answer.wait()
        if fails:
            raise RuntimeError
        response = f"opened {identity}".encode()
        await answer(tx, method=method, key=key, response=response)
    return response


async def _accounts(store: Store) -> int:
    async with store.engine.connect() as connection:
        return int(await connection.scalar(sa.select(sa.func.count()).select_from(ACCOUNTS)) or 0)


async def _is_waiting(store: Store) -> bool:
    async with store.engine.connect() as connection:
        waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(await connection.scalar(waiting))


async def test_a_repeated_request_gets_the_first_answer_and_no_second_effect(store: Store) -> None:
    first = await _open_account(store)
    assert await _open_account(store) == first == b"opened alpha-acc_1"
    assert await _accounts(store) == 1


async def test_a_key_used_for_another_request_is_refused(store: Store) -> None:
    await _open_account(store, b"acc_1")
    with pytest.raises(KeyReused):
        await _open_account(store, b"acc_2")
    assert await _accounts(store) == 1


async def test_keys_of_tenants_have_nothing_to_do_with_each_other(store: Store) -> None:
    await _open_account(store, tenant=ALPHA)
    assert await _open_account(store, tenant=BETA) == b"opened beta-acc_1"
    assert await _accounts(store) == 2


async def test_a_concurrent_twin_waits_and_gets_the_same_answer(store: Store) -> None:
    go_on = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(_open_account(store, before_answer=go_on))
        await eventually(lambda: _remembers(store))
        twin = tasks.create_task(_open_account(store))
        await eventually(lambda: _is_waiting(store))
        go_on.set()
    assert first.result() == twin.result()
    assert await _accounts(store) == 1


async def test_a_twin_that_takes_too_long_is_in_progress(
    store: Store, impatient_store: Store
) -> None:
    go_on = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(_open_account(store, before_answer=go_on))
        await eventually(lambda: _remembers(store))
        with pytest.raises(InProgress):
            await _open_account(impatient_store)
        go_on.set()
    assert await _open_account(store) == first.result()


async def test_a_twin_becomes_the_first_when_the_first_has_failed(store: Store) -> None:
    with pytest.raises(RuntimeError):
        await _open_account(store, fails=True)
    assert await _open_account(store) == b"opened alpha-acc_1"
    assert await _accounts(store) == 1


async def _remembers(store: Store) -> bool:
    """Tell whether some transaction holds a not yet committed row: its insert has happened."""
    async with store.engine.connect() as connection:
        open_writers = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND backend_xid IS NOT NULL AND query LIKE 'INSERT INTO account%'"
        )
        return bool(await connection.scalar(open_writers))
