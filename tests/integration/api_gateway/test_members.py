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
from services.api_gateway.adapters.postgres.members import PostgresMemberDirectory
from services.api_gateway.adapters.postgres.tables import chassis
from services.api_gateway.adapters.postgres.tenants import PostgresTenants
from services.api_gateway.adapters.postgres.unit_of_work import OneTenantUnitOfWork
from services.api_gateway.bootstrap import claim_rules_of
from services.api_gateway.domain.member import Member, Person
from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.entrypoints.facts import event_of
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.settings import OidcSettings
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.api_gateway.use_cases.create_tenant import CreateTenant
from services.api_gateway.use_cases.makers import Makers
from services.api_gateway.use_cases.manage_keys import IssueKey, ListKeys, NewKeys
from services.api_gateway.use_cases.manage_members import ListMembers, PutMember, RemoveMember
from services.api_gateway.use_cases.manage_tenants import ChangeTenant
from services.api_gateway.use_cases.memberships import Memberships
from services.api_gateway.use_cases.purge_tenants import PurgeTenants
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.clock import SystemClock
from services.chassis.db.lease import LeaseKeeper, PostgresLeases
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import (
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Unauthenticated,
    VersionMismatch,
)
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import Principal, TenantId
from tests.integration.api_gateway.test_oidc import policy_of
from tests.support.eventually import eventually
from tests.support.free_port import free_port
from tests.support.issuer import AUDIENCE, id_token, real_issuer
from tests.unit.api_gateway.edge import Edge, client_of

CLOCK = SystemClock()
IDS = TimeOrderedIds(CLOCK)
NEW_KEYS = NewKeys(CLOCK, IDS, lambda: "s" * 43)
ACME, BETA = TenantId("acme"), TenantId("beta")
ISSUER = "https://issuer.test"
ADMIN = Principal(ACME, "user:admin", SCOPES)
PLATFORM = Principal(TenantId("default"), "key:platform", SCOPES)
TENANT_ADMIN = Principal(ACME, "user:tenant-admin", SCOPES_BY_ROLE[Role.ADMIN])
VIEWER, OPERATOR = frozenset({Role.VIEWER}), frozenset({Role.OPERATOR})
ADMINISTRATOR = frozenset({Role.ADMIN})
HEADER = "Modelyard-Tenant"
WITHIN_S = 30.0


@pytest.fixture
async def base(engine: AsyncEngine) -> PostgresUnitOfWork:
    base = PostgresUnitOfWork(engine, chassis, source="/api-gateway", clock=CLOCK, ids=IDS)
    for tenant in (PLATFORM.tenant, ACME, BETA):
        await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(tenant)
    return base


@pytest.fixture
def put(base: PostgresUnitOfWork) -> PutMember:
    return PutMember(OneTenantUnitOfWork(base), CLOCK, Makers())


async def members_of(base: PostgresUnitOfWork, tenant: TenantId) -> list[Member]:
    shown = ListMembers(PostgresTenants(base, event_of), OneTenantUnitOfWork(base))
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
    remove = RemoveMember(OneTenantUnitOfWork(base), Makers())
    for _ in range(2):
        await remove(ADMIN, ACME, anna)
    assert await members_of(base, ACME) == []
    assert await members_of(base, BETA) == [elsewhere]
    with pytest.raises(NotFound):
        await remove(PLATFORM, TenantId("nobody"), anna)


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
    shown = ListMembers(PostgresTenants(base, event_of), OneTenantUnitOfWork(base))

    first = await shown(ADMIN, ACME, after=None, limit=2)
    rest = await shown(ADMIN, ACME, after=first[-1].person, limit=2)

    found = [(each.person.issuer, each.person.subject) for each in [*first, *rest]]
    assert (found, len(first)) == (names, 2)
    with pytest.raises(NotFound):
        await shown(PLATFORM, TenantId("nobody"), after=None, limit=1)


async def test_twins_add_one_member_and_no_more_than_the_bound(
    base: PostgresUnitOfWork,
) -> None:
    put = PutMember(OneTenantUnitOfWork(base), CLOCK, Makers(), members_max=3)
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


async def test_administrators_who_end_each_other_at_the_same_time_leave_one(
    base: PostgresUnitOfWork, put: PutMember
) -> None:
    remove = RemoveMember(OneTenantUnitOfWork(base), Makers())
    both = [somebody("anna"), somebody("bob")]
    other = [somebody("carol"), somebody("anna", "https://other.test")]
    for _ in range(10):
        for person in both:
            await put(TENANT_ADMIN, ACME, person, ADMINISTRATOR)
        for person in other:
            await put(TENANT_ADMIN, ACME, person, VIEWER)

        ends = await asyncio.gather(
            put(TENANT_ADMIN, ACME, both[0], VIEWER),
            remove(TENANT_ADMIN, ACME, both[1]),
            return_exceptions=True,
        )

        [refused] = [end for end in ends if isinstance(end, BaseException)]
        assert isinstance(refused, FailedPrecondition)
        left = [each for each in await members_of(base, ACME) if each.is_administrator]
        assert [each.person in both for each in left] == [True]


async def test_of_changes_at_once_that_are_for_one_version_one_is_made(
    base: PostgresUnitOfWork, put: PutMember
) -> None:
    remove = RemoveMember(OneTenantUnitOfWork(base), Makers())
    anna = somebody("anna")
    for _ in range(5):
        version = (await put(ADMIN, ACME, anna, VIEWER)).version

        ends = await asyncio.gather(
            put(ADMIN, ACME, anna, OPERATOR, if_version=version),
            remove(ADMIN, ACME, anna, if_version=version),
            return_exceptions=True,
        )

        [refused] = [end for end in ends if isinstance(end, BaseException)]
        assert isinstance(refused, VersionMismatch)


async def test_who_is_added_again_begins_above_all_who_were_removed(
    base: PostgresUnitOfWork, put: PutMember
) -> None:
    remove = RemoveMember(OneTenantUnitOfWork(base), Makers())
    anna, bob = somebody("anna"), somebody("bob")
    for roles in (VIEWER, OPERATOR, VIEWER):
        await put(ADMIN, ACME, anna, roles)
    await put(ADMIN, ACME, bob, VIEWER)
    await put(PLATFORM, BETA, anna, VIEWER)
    for person in (anna, bob):
        await remove(ADMIN, ACME, person)

    assert (await put(ADMIN, ACME, bob, VIEWER)).version == 4
    with pytest.raises(VersionMismatch):
        await put(ADMIN, ACME, anna, OPERATOR, if_version=3)
    assert (await put(ADMIN, ACME, anna, VIEWER)).version == 4
    with pytest.raises(VersionMismatch):
        await put(ADMIN, ACME, anna, OPERATOR, if_version=3)
    assert (await put(PLATFORM, BETA, bob, VIEWER)).version == 1


async def test_the_last_administrator_is_counted_in_its_own_tenant(
    base: PostgresUnitOfWork, put: PutMember
) -> None:
    remove = RemoveMember(OneTenantUnitOfWork(base), Makers())
    anna, bob = somebody("anna"), somebody("bob")
    await put(PLATFORM, ACME, anna, frozenset({Role.PLATFORM_ADMIN}))
    for person in (anna, bob):
        await put(PLATFORM, BETA, person, ADMINISTRATOR)

    with pytest.raises(FailedPrecondition) as refused:
        await remove(TENANT_ADMIN, ACME, anna)
    assert refused.value.detail["field"] == "subject"
    with pytest.raises(FailedPrecondition) as refused:
        await put(TENANT_ADMIN, ACME, anna, VIEWER)
    assert refused.value.detail["field"] == "roles"
    await put(TENANT_ADMIN, ACME, anna, ADMINISTRATOR)

    await remove(PLATFORM, ACME, anna)
    assert await members_of(base, ACME) == []
    assert len(await members_of(base, BETA)) == 2


async def test_whoever_ends_leaves_no_key_that_may_do_more_however_late_it_is_made(
    base: PostgresUnitOfWork, put: PutMember
) -> None:
    unit_of_work = OneTenantUnitOfWork(base)
    issue = IssueKey(unit_of_work, NEW_KEYS, Makers(ISSUER, are_members=True), in_force_max=500)
    remove, people = RemoveMember(unit_of_work, Makers()), {"anna", "bob"}
    remembered = {
        subject: Principal(ACME, f"user:{subject}", SCOPES_BY_ROLE[Role.ADMIN])
        for subject in people
    }
    for _ in range(8):
        for subject in people:
            await put(ADMIN, ACME, somebody(subject), ADMINISTRATOR)
        through, _ = await issue(remembered["anna"], name="through", role=Role.ADMIN)
        kept, _ = await issue(remembered["bob"], name="kept", role=Role.OPERATOR)

        await asyncio.gather(
            remove(ADMIN, ACME, somebody("anna")),
            put(ADMIN, ACME, somebody("bob"), OPERATOR),
            *(
                issue(by, name="late", role=Role.ADMIN)
                for by in (*remembered.values(), through.principal)
            ),
            return_exceptions=True,
        )

        async with unit_of_work(ACME) as tx:
            left = {
                subject: await tx.keys.in_force_of(somebody(subject), at=tx.now)
                for subject in people
            }
        assert left["anna"] == []
        assert kept in left["bob"]
        assert {key.role for key in left["bob"]} == {Role.OPERATOR}
    elsewhere, _ = await ListKeys(unit_of_work)(BETA)
    assert [key for key in elsewhere if key.revoked_at] == []


async def test_who_was_removed_makes_nobody_a_member_while_a_gateway_remembers_them(
    base: PostgresUnitOfWork,
) -> None:
    unit_of_work = OneTenantUnitOfWork(base)
    makers = Makers(ISSUER, are_members=True)
    put, remove = PutMember(unit_of_work, CLOCK, makers), RemoveMember(unit_of_work, makers)
    for subject in ("anna", "bob"):
        await put(PLATFORM, ACME, somebody(subject), ADMINISTRATOR)
    anna = Principal(ACME, "user:anna", SCOPES_BY_ROLE[Role.ADMIN])
    key, _ = await IssueKey(unit_of_work, NEW_KEYS, makers)(anna, name="hers", role=Role.ADMIN)
    await remove(PLATFORM, ACME, somebody("anna"))

    for remembered in (anna, key.principal):
        with pytest.raises(Unauthenticated):
            await put(remembered, ACME, somebody("anna"), ADMINISTRATOR)
        with pytest.raises(Unauthenticated):
            await remove(remembered, ACME, somebody("bob"))
    assert [member.person for member in await members_of(base, ACME)] == [somebody("bob")]

    await put(PLATFORM, ACME, somebody("bob"), OPERATOR)
    bob = Principal(ACME, "user:bob", SCOPES_BY_ROLE[Role.ADMIN])
    with pytest.raises(PermissionDenied):
        await put(bob, ACME, somebody("bob"), ADMINISTRATOR)


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
        PostgresLeases(engine, chassis),
        "tenants",
        holder="proc_1",
        ttl=timedelta(seconds=60),
        clock=CLOCK,
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
    tenants, members = PostgresTenants(base, event_of), OneTenantUnitOfWork(base)
    makers = Makers(issuer, are_members=True)
    put, remove = PutMember(members, CLOCK, makers), RemoveMember(members, makers)

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
                issue_key=IssueKey(members, NEW_KEYS, makers),
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

    await replicas.remove(PLATFORM, ACME, Person(replicas.issuer, "auth0|anna"))
    await replicas.is_told(anna, 401)


async def test_a_member_of_two_tenants_says_which(replicas: Replicas) -> None:
    bob = await replicas.token("bob@acme.test")
    await replicas.add("bob@acme.test", ACME, Role.VIEWER)
    await replicas.add("bob@acme.test", BETA, Role.OPERATOR)

    await replicas.is_told(bob, 422)
    await replicas.is_told(bob | {HEADER: "acme"}, 200, "acme", ("viewer",))
    await replicas.is_told(bob | {HEADER: "beta"}, 200, "beta", ("operator",))
    await replicas.is_told(bob | {HEADER: "default"}, 401)

    await replicas.remove(PLATFORM, ACME, Person(replicas.issuer, "bob@acme.test"))
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


async def test_the_key_that_somebody_made_opens_nothing_once_they_are_removed(
    replicas: Replicas,
) -> None:
    await replicas.add("fred", ACME, Role.ADMIN)
    fred = await replicas.token("fred")
    await replicas.is_told(fred, 200, "acme", ("admin",))
    made = await replicas.apps[0].post(
        "/v1/api-keys", json={"name": "fred's", "role": "developer"}, headers=fred
    )
    assert made.json()["key"]["person"] == {"issuer": replicas.issuer, "subject": "fred"}
    key = {"Authorization": f"Bearer {made.json()['text']}"}
    await replicas.is_told(key, 200, "acme", ("developer",))

    await replicas.remove(PLATFORM, ACME, Person(replicas.issuer, "fred"))
    await replicas.is_told(key, 401)
    await replicas.is_told(fred, 401)


async def test_what_the_issuer_claims_of_tenant_and_roles_counts_for_nothing(
    replicas: Replicas,
) -> None:
    mallory = await replicas.token("mallory")

    await replicas.is_told(mallory, 401)
    await replicas.is_told(mallory | {HEADER: "acme"}, 401)
