"""What an issuer's claims amount to."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.api_gateway.domain.issuer import check_issuer_url
from services.api_gateway.domain.member import Member, Person
from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.api_gateway.domain.token_claims import ClaimRules, UnusableClaims
from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId

RULES = ClaimRules(
    tenant_claim="tenant",
    roles_claim="roles",
    needs_second_factor=True,
    second_factor_methods=frozenset({"mfa"}),
    second_factor_levels=frozenset({"gold"}),
)
ANNA: dict[str, Any] = {"sub": "anna", "tenant": "acme", "roles": ["developer"]}


def test_claims_name_tenant_and_roles() -> None:
    anna = RULES.principal(ANNA)

    assert (anna.tenant, anna.subject) == ("acme", "user:anna")
    assert anna.roles == {"developer"}
    assert anna.scopes == SCOPES_BY_ROLE[Role.DEVELOPER]


@pytest.mark.parametrize(
    ("roles", "ours"),
    [
        ("viewer operator", {"viewer", "operator"}),
        (["viewer", "offline_access", 7], {"viewer"}),
        (["offline_access"], set()),
        ({"viewer": True}, set()),
        (None, set()),
    ],
)
def test_roles_that_are_not_ours_give_nothing(roles: object, ours: set[str]) -> None:
    anna = RULES.principal({**ANNA, "roles": roles})

    assert anna.roles == ours
    assert bool(anna.scopes) == bool(ours)


def test_claims_may_lie_deeper_or_bear_dots_in_their_names() -> None:
    deep = ClaimRules(
        "https://acme.test/tenant", "realm_access.roles", True, frozenset(), frozenset()
    )
    claims = {
        "sub": "anna",
        "https://acme.test/tenant": "acme",
        "realm_access": {"roles": ["viewer"]},
    }

    anna = deep.principal(claims)

    assert anna.tenant == "acme"
    assert anna.roles == {"viewer"}


@pytest.mark.parametrize(
    "claims",
    [
        {"tenant": None},
        {"tenant": ["acme"]},
        {"tenant": "../acme"},
        {"tenant": ""},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a" * 201},
        {"sub": "a\nb"},
    ],
)
def test_claims_that_name_nobody_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(UnusableClaims):
        RULES.principal({**ANNA, **claims})


@pytest.mark.parametrize("role", ["admin", "platform-admin"])
@pytest.mark.parametrize(
    "proof",
    [
        {},
        {"amr": ["pwd"]},
        {"amr": "mfa"},
        {"amr": ["pwd mfa"]},
        {"acr": "silver"},
        {"acr": ["gold"]},
    ],
)
def test_an_administrator_without_a_second_factor_is_refused(
    role: str, proof: dict[str, Any]
) -> None:
    with pytest.raises(UnusableClaims):
        RULES.principal({**ANNA, "roles": ["viewer", role], **proof})


@pytest.mark.parametrize("proof", [{"amr": ["pwd", "mfa"]}, {"acr": "gold"}])
def test_an_administrator_with_a_second_factor_is_let_in(proof: dict[str, Any]) -> None:
    assert RULES.principal({**ANNA, "roles": ["admin"], **proof}).roles == {"admin"}


def a_member(*roles: Role) -> Member:
    return Member.added(
        TenantId("acme"),
        Person("https://issuer.test", "anna"),
        frozenset(roles),
        by="key:1",
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_of_a_members_claims_only_the_subject_counts_for_tenant_and_roles() -> None:
    claims = {"sub": "anna", "tenant": "globex", "roles": ["platform-admin"]}

    anna = RULES.principal_of(a_member(Role.VIEWER), claims)

    assert (anna.tenant, anna.subject) == ("acme", "user:anna")
    assert anna.roles == {"viewer"}
    assert anna.scopes == SCOPES_BY_ROLE[Role.VIEWER]


@pytest.mark.parametrize("role", [Role.ADMIN, Role.PLATFORM_ADMIN])
def test_a_member_who_administers_needs_a_second_factor(role: Role) -> None:
    member = a_member(Role.VIEWER, role)

    with pytest.raises(UnusableClaims):
        RULES.principal_of(member, {"sub": "anna", "amr": ["pwd"]})
    assert role.value in RULES.principal_of(member, {"sub": "anna", "amr": ["mfa"]}).roles


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.test",
        "ftp://issuer.test",
        "https://",
        "issuer.test",
        "https://me:secret@issuer.test",
        "http://localhost.evil.test",
        "https://[",
    ],
)
def test_an_issuer_over_an_open_network_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        check_issuer_url(url)


@pytest.mark.parametrize("url", ["https://issuer.test/realms/a", "http://127.0.0.1:8080"])
def test_a_protected_issuer_is_taken(url: str) -> None:
    assert check_issuer_url(url) == url
