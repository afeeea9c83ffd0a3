"""What names a person, and how a membership changes."""

from datetime import UTC, datetime, timedelta

import pytest

from services.api_gateway.domain.member import Member, Person
from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId

ISSUER = "https://issuer.test/realms/work"
AT = datetime(2026, 1, 1, tzinfo=UTC)
ANNA = Person(ISSUER, "anna")


def a_member(*roles: Role) -> Member:
    return Member.added(TenantId("acme"), ANNA, frozenset(roles), by="key:1", at=AT)


@pytest.mark.parametrize("subject", ["auth0|12", "anna@acme.test", "a/../b", "Ånna Ö", "x" * 200])
def test_a_subject_may_hold_whatever_can_be_read(subject: str) -> None:
    assert Person.named(subject, issuer=ISSUER) == Person(ISSUER, subject)


@pytest.mark.parametrize("subject", ["", "a\nb", "a\0", "x" * 201])
def test_a_subject_that_is_no_name_is_refused_and_the_field_named(subject: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Person.named(subject, issuer=ISSUER)
    assert refused.value.detail["field"] == "subject"


@pytest.mark.parametrize(
    "issuer",
    [None, "", "issuer.test", "http://issuer.test", "https://issuer.test\n", "https://[", "\0"],
)
def test_an_issuer_that_could_be_anybody_is_refused_and_the_field_named(
    issuer: str | None,
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Person.named("anna", issuer=issuer)
    assert refused.value.detail["field"] == "issuer"


def test_other_roles_are_the_next_version_and_the_same_ones_no_change() -> None:
    member = a_member(Role.VIEWER)
    later = AT + timedelta(days=1)

    assert member.given(frozenset({Role.VIEWER}), by="key:2", at=later) == member
    changed = member.given(frozenset({Role.OPERATOR}), by="key:2", at=later)

    assert changed.roles == {Role.OPERATOR}
    assert changed.version == 2
    assert (changed.added_at, changed.changed_at, changed.changed_by) == (AT, later, "key:2")


def test_a_member_has_a_role() -> None:
    member = a_member(Role.VIEWER)
    with pytest.raises(InvalidArgument) as refused:
        a_member()
    assert refused.value.detail["field"] == "roles"
    with pytest.raises(InvalidArgument, match="roles"):
        member.given(frozenset(), by="key:1", at=AT)


@pytest.mark.parametrize("role", Role)
def test_an_administrator_is_who_decides_about_members(role: Role) -> None:
    assert a_member(role).is_administrator == ("members:write" in SCOPES_BY_ROLE[role])
