"""Members in a real database, and people who come with a real issuer's tokens."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api_gateway.adapters.oidc import open_oidc_issuer
from services.api_gateway.adapters.postgres.keys import PostgresDirectory
from services.api_gateway.adapters.postgres.members import (
    MemberUnitOfWork,
    PostgresMemberDirectory,
)
from services.api_gateway.adapters.postgres.tables import chassis
from services.api_gateway.adapters.postgres.tenants import PostgresTenants
from services.api_gateway.bootstrap import claim_rules_of
from services.api_gateway.domain.member import Member, Person
from services.api_gateway.domain.roles import Role
from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.entrypoints.facts import event_of
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.settings import OidcSettings
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.api_gateway.use_cases.create_tenant import CreateTenant
from services.api_gateway.use_cases.manage_keys import NewKeys
from services.api_gateway.use_cases.manage_members import ListMembers, PutMember, RemoveMember
from services.api_gateway.use_cases.manage_tenants import ChangeTenant
from services.api_gateway.use_cases.memberships import Memberships
from services.api_gateway.use_cases.purge_tenants import PurgeTenants
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.clock import SystemClock
from services.chassis.db.lease import LeaseKeeper
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import FailedPrecondition, NotFound, QuotaExceeded
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import Principal, TenantId
from tests.integration.api_gateway.issuer import AUDIENCE, free_port, id_token, real_issuer
from tests.integration.api_gateway.test_oidc import policy_of
from tests.support.eventually import eventually
from tests.unit.api_gateway.edge import Edge, client_of

CLOCK = SystemClock()
IDS = TimeOrderedIds(CLOCK)
NEW_KEYS = NewKeys(CLOCK, IDS, lambda: "s" * 43)
ACME, BETA = TenantId("acme"), TenantId("beta")
ISSUER = "https://issuer.test"
ADMIN = Principal(ACME, "key:admin", SCOPES)
PLATFORM = Principal(TenantId("default"), "key:platform", SCOPES)
VIEWER, OPERATOR = frozenset({Role.VIEWER}), frozenset({Role.OPERATOR})
HEADER = "Modelyard-Tenant"
WITHIN_S = 30.0


@pytest.fixture
async def base(engine: AsyncEngine) -> PostgresUnitOfWork:
    base = PostgresUnitOfWork(engine, chassis, source="/api-gateway", clock=CLOCK, ids=IDS)
    for tenant in (ACME, BETA):
        await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(tenant)
    return base


@pytest.fixture
def put(base: PostgresUnitOfWork) -> PutMember:
    return PutMember(MemberUnitOfWork(base), CLOCK)


async def members_of(base: PostgresUnitOfWork, tenant: TenantId) -> list[Member]:
    shown = ListMembers(PostgresTenants(base, event_of), MemberUnitOfWork(base))
    return list(await shown(PLATFORM, tenant, after=None, limit=100))


def somebody(subject: str, issuer: str = ISSUER) -> Person:
    return Person(issuer, subject)


async def test_a_member_is_stored_changed_and_removed_in_its_tenant_only(
    base: PostgresUnitOfWork, put: PutMember
) -> None:
    anna = somebody("auth0|12/anna@acme.test ü")
    added = await put(ADMIN, ACME, anna, VIEWER)
    assert await put(ADMIN, ACME, anna, VIEWER) == added
    elsewhere = await put(PLATFORM, BETA, anna, VIEWER)

    changed = await put(ADMIN, ACME, anna, OPERATOR)

    assert (changed.version, changed.roles, changed.added_at) == (2, OPERATOR, added.added_at)
    assert await members_of(base, ACME) == [changed]
    assert await members_of(base, BETA) == [elsewhere]
    remove = RemoveMember(MemberUnitOfWork(base))
    await remove(ADMIN, ACME, anna)
    with pytest.raises(NotFound):
        await remove(ADMIN, ACME, anna)
    assert await members_of(base, ACME) == []
    assert await members_of(base, BETA) == [elsewhere]


async def test_a_person_is_found_by_issuer_and_subject_together(
    base: PostgresUnitOfWork, put: PutMember
) -> None:
    anna, directory = somebody("anna"), PostgresMemberDirectory(base)
    for tenant in (BETA, ACME):
        await put(PLATFORM, tenant, anna, VIEWER)
    await put(PLATFORM, ACME, somebody("anna", "https://other.test"), OPERATOR)

    async def tenants(limit: int, tenant: TenantId | None = None) -> list[str]:
        found = await directory.find_members(anna, tenant=tenant, limit=limit)
        assert {each.roles for each in found} <= {VIEWER}
        return [each.tenant for each in found]

    assert await tenants(2) == [ACME, BETA]
    assert await tenants(1) == [ACME]
    assert await tenants(2, BETA) == [BETA]
    assert await tenants(2, TenantId("nobody")) == []


async def test_members_are_paged_by_issuer_and_subject(
    base: PostgresUnitOfWork, put: PutMember
) -> None:
    names = [("https://a.test", "z"), ("https://b.test", "a"), ("https://b.test", "b")]
    for issuer, subject in names:
        await put(ADMIN, ACME, somebody(subject, issuer), VIEWER)
    shown = ListMembers(PostgresTenants(base, event_of), MemberUnitOfWork(base))

    first = await shown(ADMIN, ACME, after=None, limit=2)
    rest = await shown(ADMIN, ACME, after=first[-1].person, limit=2)

    found = [(each.person.issuer, each.person.subject) for each in [*first, *rest]]
    assert (found, len(first)) == (names, 2)
    with pytest.raises(NotFound):
        await shown(PLATFORM, TenantId("nobody"), after=None, limit=1)


async def test_twins_add_one_member_and_no_more_than_the_bound(
    base: PostgresUnitOfWork,
) -> None:
    put = PutMember(MemberUnitOfWork(base), CLOCK, members_max=3)
    anna = somebody("anna")

    twins = await asyncio.gather(*(put(ADMIN, ACME, anna, VIEWER) for _ in range(4)))
    others = await asyncio.gather(
        *(put(ADMIN, ACME, somebody(f"user {number}"), VIEWER) for number in range(6)),
        return_exceptions=True,
    )

    assert [twin.version for twin in twins] == [1] * 4
    refused = [each for each in others if isinstance(each, BaseException)]
    assert [type(each) for each in refused] == [QuotaExceeded] * 4
    assert len(await members_of(base, ACME)) == 3


async def test_a_purged_tenants_members_go_and_it_gets_no_new_ones(
    base: PostgresUnitOfWork, put: PutMember, engine: AsyncEngine
) -> None:
    store = PostgresTenants(base, event_of)
    for tenant in (ACME, BETA):
        for number in range(5):
            await put(PLATFORM, tenant, somebody(f"user {number}"), VIEWER)
    change = ChangeTenant(store, TenantStanding(store, CLOCK))
    await change.delete(PLATFORM, ACME, grace=timedelta(0))
    keeper = LeaseKeeper(
        engine, chassis, "tenants", holder="proc_1", ttl=timedelta(seconds=60), clock=CLOCK
    )
    lease = await keeper.acquire()
    assert lease is not None
    purge = PurgeTenants(store, 2)

    assert await purge(lease) == 1
    assert await purge.delete_rest(lease) == 6  # five members and the first key

    assert await members_of(base, ACME) == []
    assert len(await members_of(base, BETA)) == 5
    with pytest.raises(FailedPrecondition):
        await put(PLATFORM, ACME, somebody("late"), VIEWER)
    with pytest.raises(NotFound):
        await put(PLATFORM, TenantId("nobody"), somebody("late"), VIEWER)


USERS: Mapping[str, Mapping[str, Any]] = {
    "auth0|anna": {},
    "bob@acme.test": {},
    "emil": {"amr": ["pwd"]},
    "fred": {"amr": ["pwd", "mfa"]},
    # What the issuer claims counts for nothing.
    "mallory": {"tenant": "acme", "roles": ["admin"], "amr": ["mfa"]},
}


@pytest.fixture
def issuer() -> Iterator[str]:
    """Give the address of a real issuer."""
    port = free_port()
    with real_issuer(port, [{"sub": name, **claims} for name, claims in USERS.items()]):
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True)
class Replicas:
    """Two gateways over one database, that take the issuer's tokens."""

    apps: tuple[httpx.AsyncClient, httpx.AsyncClient]
    put: PutMember
    remove: RemoveMember
    issuer: str

    async def token(self, user: str) -> dict[str, str]:
        """Log somebody in; give what they send."""
        token = await asyncio.to_thread(id_token, self.issuer, user)
        return {"Authorization": f"Bearer {token}"}

    async def add(self, user: str, tenant: TenantId, *roles: Role) -> None:
        await self.put(PLATFORM, tenant, Person(self.issuer, user), frozenset(roles))

    async def is_told(self, headers: Mapping[str, str], *expected: object) -> None:
        """Every gateway comes to say this: a status, tenant and roles."""
        for app in self.apps:

            async def said(app: httpx.AsyncClient = app) -> bool:
                answer = await app.get("/v1/whoami", headers=headers)
                who = answer.json()
                return expected in (
                    (answer.status_code,),
                    (answer.status_code, who.get("tenant"), tuple(who.get("roles", ()))),
                )

            await eventually(said, what=f"who somebody is: {expected}", within_s=WITHIN_S)


@pytest.fixture
async def replicas(base: PostgresUnitOfWork, issuer: str) -> AsyncIterator[Replicas]:
    rules = claim_rules_of(OidcSettings(issuer=issuer, audience=AUDIENCE, roles_from="members"))
    tenants, members = PostgresTenants(base, event_of), MemberUnitOfWork(base)
    put, remove = PutMember(members, CLOCK), RemoveMember(members)

    async with open_oidc_issuer(policy_of(issuer), CLOCK) as opened:

        def gateway() -> httpx.AsyncClient:
            memberships = Memberships(PostgresMemberDirectory(base), issuer, CLOCK)
            edge = replace(
                Edge(requests_max=100_000).gateway(),
                authenticate=Authenticate(
                    PostgresDirectory(base),
                    CLOCK,
                    tokens=AuthenticateToken(opened, rules, memberships),
                ),
                standing=TenantStanding(tenants, CLOCK),
                tenants=tenants,
                put_member=put,
                list_members=ListMembers(tenants, members),
                remove_member=remove,
                issuer=issuer,
            )
            return client_of(build_app(edge, ids=IDS))

        async with gateway() as one, gateway() as other:
            yield Replicas((one, other), put, remove, issuer)


async def test_a_member_of_one_tenant_comes_in_until_removed(replicas: Replicas) -> None:
    anna = await replicas.token("auth0|anna")
    await replicas.is_told(anna, 401)
    await replicas.add("auth0|anna", ACME, Role.DEVELOPER)
    await replicas.is_told(anna, 200, "acme", ("developer",))

    await replicas.add("auth0|anna", ACME, Role.VIEWER)
    await replicas.is_told(anna, 200, "acme", ("viewer",))

    await replicas.remove(ADMIN, ACME, Person(replicas.issuer, "auth0|anna"))
    await replicas.is_told(anna, 401)


async def test_a_member_of_two_tenants_says_which(replicas: Replicas) -> None:
    bob = await replicas.token("bob@acme.test")
    await replicas.add("bob@acme.test", ACME, Role.VIEWER)
    await replicas.add("bob@acme.test", BETA, Role.OPERATOR)

    await replicas.is_told(bob, 422)
    await replicas.is_told(bob | {HEADER: "acme"}, 200, "acme", ("viewer",))
    await replicas.is_told(bob | {HEADER: "beta"}, 200, "beta", ("operator",))
    await replicas.is_told(bob | {HEADER: "default"}, 401)

    await replicas.remove(ADMIN, ACME, Person(replicas.issuer, "bob@acme.test"))
    await replicas.is_told(bob, 200, "beta", ("operator",))
    await replicas.is_told(bob | {HEADER: "acme"}, 401)


async def test_a_member_who_administers_comes_with_a_second_factor_only(
    replicas: Replicas,
) -> None:
    for user in ("emil", "fred"):
        await replicas.add(user, ACME, Role.ADMIN)

    fred = await replicas.token("fred")
    await replicas.is_told(fred, 200, "acme", ("admin",))
    await replicas.is_told(await replicas.token("emil"), 401)
    added = await replicas.apps[0].put(
        "/v1/tenants/acme/members",
        params={"subject": "emil"},
        json={"roles": ["viewer"]},
        headers=fred,
    )
    assert (added.status_code, added.json()["changed_by"]) == (200, "user:fred")
    await replicas.is_told(await replicas.token("emil"), 200, "acme", ("viewer",))


async def test_what_the_issuer_claims_of_tenant_and_roles_counts_for_nothing(
    replicas: Replicas,
) -> None:
    mallory = await replicas.token("mallory")

    await replicas.is_told(mallory, 401)
    await replicas.is_told(mallory | {HEADER: "acme"}, 401)
