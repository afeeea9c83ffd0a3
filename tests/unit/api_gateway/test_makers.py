"""Keys end with the rights of the person behind them."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.api_gateway.domain.member import Person
from services.api_gateway.domain.roles import Role
from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.domain.token_claims import ClaimRules
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.api_gateway.use_cases.makers import Makers
from services.api_gateway.use_cases.manage_members import PutMember, RemoveMember
from services.api_gateway.use_cases.memberships import Memberships
from services.chassis.errors import Unauthenticated
from services.chassis.tenancy import Principal
from tests.unit.api_gateway.edge import TENANT, Edge

ISSUER = "https://issuer.test"
MEMBERS = f"/v1/tenants/{TENANT}/members"
RULES = ClaimRules("tenant", "roles", False, frozenset(), frozenset())
REMEMBERED_S = 2.0


class Issuer:
    """Takes a name for a token."""

    async def claims(self, token: str) -> Mapping[str, object]:
        if token.startswith("myk_"):
            raise Unauthenticated
        return {"sub": token, "tenant": TENANT, "roles": ["admin"]}


def bearing(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


@dataclass(frozen=True)
class Yard:
    """A tenant whose people come with tokens."""

    edge: Edge
    client: httpx.AsyncClient
    """By default with a key that nobody is behind."""

    async def put(self, subject: str, *roles: str) -> httpx.Response:
        """Let somebody be a member."""
        return await self.client.put(
            MEMBERS, params={"subject": subject}, json={"roles": list(roles)}
        )

    async def remove(self, subject: str, **more: str) -> None:
        answer = await self.client.delete(MEMBERS, params={"subject": subject, **more})
        assert answer.status_code == 204

    async def issue(self, by: str, **rights: Any) -> httpx.Response:
        """Make a key with a credential."""
        body = {"name": "x", **(rights or {"role": "viewer"})}
        return await self.client.post("/v1/api-keys", json=body, headers=bearing(by))

    async def issued(self, by: str, **rights: Any) -> str:
        answer = await self.issue(by, **rights)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["text"])

    async def statuses(self, *credentials: str) -> list[int]:
        """Tell what is answered once nothing of before is remembered any more."""
        self.edge.clock.elapsed_s += REMEMBERED_S
        answers = [
            await self.client.get("/v1/whoami", headers=bearing(each)) for each in credentials
        ]
        return [answer.status_code for answer in answers]

    def count(self) -> int:
        return len(self.edge.keys.keys)


@pytest.fixture
async def yard() -> AsyncIterator[Yard]:
    edge = Edge()
    edge.tokens = AuthenticateToken(Issuer(), RULES, Memberships(edge.members, ISSUER, edge.clock))
    async with edge.client(key=await edge.key()) as client:
        yield Yard(edge, client)


@pytest.fixture
async def claiming() -> AsyncIterator[Yard]:
    """The same, where the issuer says what people may."""
    edge = Edge()
    edge.tokens, edge.makers = AuthenticateToken(Issuer(), RULES), Makers(ISSUER)
    async with edge.client(key=await edge.key()) as client:
        yield Yard(edge, client)


async def test_a_key_tells_the_person_behind_it_however_far(yard: Yard) -> None:
    await yard.put("anna", "admin")
    first = (await yard.issue("anna", role="admin")).json()
    second = (await yard.issue(first["text"])).json()

    anna = {"issuer": ISSUER, "subject": "anna"}
    assert (first["key"]["created_by"], first["key"]["person"]) == ("user:anna", anna)
    assert second["key"]["created_by"] == f"key:{first['key']['id']}"
    assert second["key"]["person"] == anna


async def test_whoever_is_removed_takes_along_the_keys_they_are_behind(yard: Yard) -> None:
    for subject in ("anna", "bob"):
        await yard.put(subject, "admin")
    first = await yard.issued("anna", role="admin")
    second, others = await yard.issued(first), await yard.issued("bob")
    assert await yard.statuses(first, second, others) == [200, 200, 200]

    await yard.remove("anna", issuer="https://other.test")
    assert await yard.statuses(first, second, others) == [200, 200, 200]
    await yard.remove("anna")

    assert await yard.statuses(first, second, others) == [401, 401, 200]
    listed = (await yard.client.get("/v1/api-keys")).json()["keys"]
    revoked = [key["person"]["subject"] for key in listed if key["revoked_at"] is not None]
    assert revoked == ["anna", "anna"]


async def test_lesser_roles_end_the_keys_that_may_do_more(yard: Yard) -> None:
    for subject in ("anna", "bob"):
        await yard.put(subject, "admin")
    admin, deploying, reading = [
        await yard.issued("anna", **rights)
        for rights in ({"role": "admin"}, {"scopes": ["deployments:write"]}, {"role": "viewer"})
    ]
    assert (await yard.put("anna", "admin", "viewer")).status_code == 200
    assert await yard.statuses(admin, deploying, reading) == [200, 200, 200]

    await yard.put("anna", "operator")
    assert await yard.statuses(admin, deploying, reading) == [401, 200, 200]
    await yard.put("anna", "developer")
    assert await yard.statuses(admin, deploying, reading) == [401, 401, 200]


async def test_a_refused_removal_ends_no_key(yard: Yard) -> None:
    await yard.put("anna", "admin")
    text = await yard.issued("anna")
    refused = await yard.client.delete(MEMBERS, params={"subject": "anna"}, headers=bearing("anna"))
    assert refused.status_code == 409
    assert await yard.statuses(text) == [200]


async def test_who_rotates_a_key_takes_it_over(yard: Yard) -> None:
    for subject in ("anna", "bob"):
        await yard.put(subject, "admin")
    made = (await yard.issue("anna")).json()
    path = f"/v1/api-keys/{made['key']['id']}/rotate"
    successor = (await yard.client.post(path, json={}, headers=bearing("bob"))).json()
    assert successor["key"]["created_by"] == "user:bob"

    await yard.remove("anna")

    assert await yard.statuses(made["text"], successor["text"]) == [401, 200]


async def test_who_was_ended_makes_no_key_while_a_gateway_remembers_them(yard: Yard) -> None:
    for subject in ("anna", "bob", "carol"):
        await yard.put(subject, "admin")
    through = await yard.issued("anna", role="admin")
    for credential in ("anna", "bob", "carol", through):
        await yard.issued(credential)
    before = yard.count()

    await yard.remove("anna")
    await yard.put("bob", "developer")
    late = [await yard.issue(credential) for credential in ("anna", through, "bob")]

    # All three are let in still: they are remembered.
    assert [answer.status_code for answer in late] == [401, 401, 403]
    assert (await yard.issue("carol")).status_code == 201
    assert yard.count() == before + 1


async def test_a_late_rotation_is_refused_as_well(yard: Yard) -> None:
    for subject in ("anna", "bob"):
        await yard.put(subject, "admin")
    made = (await yard.issue("bob")).json()
    await yard.issued("anna")
    before = yard.count()

    await yard.remove("anna")
    path = f"/v1/api-keys/{made['key']['id']}/rotate"
    late = await yard.client.post(path, json={}, headers=bearing("anna"))

    assert (late.status_code, yard.count()) == (401, before)


async def test_where_claims_let_people_in_their_keys_are_ended_by_a_removal(claiming: Yard) -> None:
    text = await claiming.issued("anna", role="admin")
    person = claiming.edge.keys.keys["key_" + text.split("_")[1]].person
    assert person == Person(ISSUER, "anna")

    await claiming.remove("anna")

    # The token itself is the issuer's to end.
    assert await claiming.statuses(text, "anna") == [401, 200]


async def test_of_a_key_of_before_nobody_is_known(yard: Yard) -> None:
    [key] = yard.edge.keys.keys.values()
    old = replace(key, created_by=None, person=None, created_at=key.created_at - timedelta(days=1))
    yard.edge.keys.keys[key.id] = old
    [listed] = (await yard.client.get("/v1/api-keys")).json()["keys"]
    assert (listed["created_by"], listed["person"]) == (None, None)


async def test_a_tenants_row_is_locked_once_when_one_of_its_own_changes_a_member() -> None:
    edge = Edge()
    by = Principal(TENANT, f"key:key_{(await edge.key()).split('_')[1]}", SCOPES)
    person = Person(ISSUER, "anna")
    before = edge.tenants.lookups

    await PutMember(edge.unit_of_work, edge.clock, edge.makers)(
        by, TENANT, person, frozenset({Role.VIEWER})
    )
    assert edge.tenants.lookups == before + 1
    await RemoveMember(edge.unit_of_work, edge.makers)(by, TENANT, person)
    assert edge.tenants.lookups == before + 2
