"""Turning credentials into principals, and what that asks of the directory."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from services.api_gateway.domain.api_key import ApiKey, PresentedKey, admitted, digest_of
from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.key_uses import KeyUses
from services.api_gateway.use_cases.recent import AGE_MAX
from services.chassis.errors import Unauthenticated, Unavailable
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import Clock

SECRET = "s" * 43
WRONG = "w" * 43
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Directory:
    """Keys in memory; each call waits until `is_answering` is set."""

    keys: dict[str, ApiKey] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    is_answering: asyncio.Event = field(default_factory=asyncio.Event)
    error: Unavailable | None = None

    async def find_key(self, key_id: str) -> ApiKey | None:
        self.asked.append(key_id)
        await self.is_answering.wait()
        if self.error is not None:
            raise self.error
        return self.keys.get(key_id)


def a_key(number: int = 1, **changes: object) -> ApiKey:
    key = ApiKey(
        id=f"key_{number:026}",
        tenant=TenantId("acme"),
        name="ci",
        scopes=frozenset({"jobs:read"}),
        secret_digest=digest_of(SECRET),
        created_at=START,
        expires_at=None,
        revoked_at=None,
    )
    return replace(key, **changes)  # type: ignore[arg-type]


def header(number: int = 1, secret: str = SECRET) -> str:
    return f"Bearer myk_{number:026}_{secret}"


def a_directory(*keys: ApiKey) -> Directory:
    directory = Directory({key.id: key for key in keys})
    directory.is_answering.set()
    return directory


def test_what_was_presented_does_not_show_its_secret() -> None:
    presented = PresentedKey.parse(header())
    assert presented is not None
    assert presented.id in repr(presented)
    assert SECRET not in repr(presented)


async def test_many_requests_with_one_key_ask_the_directory_once() -> None:
    directory = a_directory(a_key())
    directory.is_answering.clear()
    authenticate = Authenticate(directory, Clock())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(authenticate(header()))
        await asyncio.sleep(0)
        directory.is_answering.set()
    assert len(directory.asked) == 1


async def test_what_was_read_is_as_old_as_its_question() -> None:
    directory, clock = a_directory(a_key()), Clock()
    directory.is_answering.clear()
    authenticate = Authenticate(directory, clock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(authenticate(header()))
        await asyncio.sleep(0)
        clock.elapsed_s = AGE_MAX.total_seconds()
        directory.is_answering.set()
    directory.keys[a_key().id] = a_key(revoked_at=START)
    with pytest.raises(Unauthenticated):
        await authenticate(header())


async def test_a_request_that_goes_away_leaves_the_question_to_the_next() -> None:
    directory = a_directory(a_key())
    directory.is_answering.clear()
    authenticate = Authenticate(directory, Clock())
    gone = asyncio.create_task(authenticate(header()))
    waiting = asyncio.create_task(authenticate(header()))
    await asyncio.sleep(0)
    gone.cancel()
    directory.is_answering.set()
    assert (await waiting).tenant == "acme"
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_directory_that_is_away_is_no_wrong_credential() -> None:
    directory = a_directory(a_key())
    directory.error = Unavailable("database")
    authenticate = Authenticate(directory, Clock())
    with pytest.raises(Unavailable):
        await authenticate(header())
    directory.error = None
    assert (await authenticate(header())).subject == f"key:{a_key().id}"


async def test_only_a_key_that_is_there_is_remembered() -> None:
    authenticate = Authenticate(a_directory(a_key()), Clock())
    await authenticate(header())
    with pytest.raises(Unauthenticated):
        await authenticate(header(2))
    assert authenticate.remembers(header())
    assert not authenticate.remembers(header(2))


async def test_only_the_right_secret_of_a_key_in_force_is_a_use_of_it() -> None:
    uses, clock = KeyUses(), Clock(elapsed_s=7)
    authenticate = Authenticate(a_directory(a_key(), a_key(2, revoked_at=START)), clock, uses)
    for refused in (header(1, WRONG), header(2), header(3)):
        with pytest.raises(Unauthenticated):
            await authenticate(refused)
    assert uses.some() == {}
    await authenticate(header())
    assert uses.some() == {a_key().id: clock.now()}


def test_an_unknown_id_is_compared_like_a_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return left == right

    monkeypatch.setattr("services.api_gateway.domain.api_key.hmac.compare_digest", compare)
    assert admitted(None, SECRET, at=START) is None
    assert admitted(a_key(), WRONG, at=START) is None
    assert admitted(a_key(revoked_at=START), SECRET, at=START) is None
    assert admitted(a_key(), SECRET, at=START) is not None
    assert compared == [(32, 32)] * 4


def test_keys_of_before_there_were_roles_say_admin_among_their_scopes() -> None:
    old = a_key(scopes=frozenset({"admin", "tenants:read"}))
    assert old.principal.roles == {Role.ADMIN}
    assert old.principal.scopes == SCOPES_BY_ROLE[Role.ADMIN] | {"tenants:read"}
