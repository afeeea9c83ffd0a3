"""Roles and their scopes."""

from itertools import pairwise

import pytest

from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role, effective_scopes, role_of
from services.api_gateway.domain.scopes import SCOPES
from services.chassis.errors import InvalidArgument


def test_every_role_is_in_the_table_and_grants_scopes_that_exist() -> None:
    assert set(SCOPES_BY_ROLE) == set(Role)
    assert frozenset().union(*SCOPES_BY_ROLE.values()) <= SCOPES


def test_each_role_contains_the_one_before_it_and_something_more() -> None:
    for lower, higher in pairwise(Role):
        assert SCOPES_BY_ROLE[lower] < SCOPES_BY_ROLE[higher]


def test_only_a_platform_administrator_decides_about_tenants() -> None:
    holders = {role for role, scopes in SCOPES_BY_ROLE.items() if "tenants:write" in scopes}
    assert holders == {Role.PLATFORM_ADMIN}
    assert {role for role, scopes in SCOPES_BY_ROLE.items() if "tenants:read" in scopes} == holders


def test_an_operator_may_pause_queues_and_a_developer_may_not() -> None:
    assert "queues:write" in SCOPES_BY_ROLE[Role.OPERATOR]
    assert "queues:write" not in SCOPES_BY_ROLE[Role.DEVELOPER]


def test_roles_and_scopes_add_up_and_unknown_scopes_are_none() -> None:
    both = effective_scopes([Role.VIEWER], frozenset({"inference", "jobs:fly"}))
    assert both == SCOPES_BY_ROLE[Role.VIEWER] | {"inference"}
    assert effective_scopes([], frozenset()) == frozenset()


def test_an_unknown_role_is_refused_with_the_list_of_roles() -> None:
    with pytest.raises(InvalidArgument, match="platform-admin") as refused:
        role_of("root")
    assert refused.value.detail["field"] == "role"
