"""Which replica a deployment's name leads to."""

import pytest

from services.api_gateway.domain.routing import Endpoint, Route, RoutingTable
from services.chassis.errors import NotFound
from services.chassis.tenancy import TenantId

ACME = TenantId("acme")


def a_route(deployment: str, generation: int, *, is_deleted: bool = False) -> Route:
    endpoints = () if is_deleted else (Endpoint(f"rep_of_{deployment}", "a:1"),)
    return Route(deployment, ACME, "digits", generation, endpoints, is_deleted)


def test_an_older_entry_changes_nothing() -> None:
    table = RoutingTable()
    assert table.apply(a_route("dep_1", 2))
    assert not table.apply(a_route("dep_1", 2))
    assert not table.apply(a_route("dep_1", 1, is_deleted=True))
    assert table.route(ACME, "digits").generation == 2


def test_a_deleted_deployment_is_not_found() -> None:
    table = RoutingTable()
    table.apply(a_route("dep_1", 1))
    table.apply(a_route("dep_1", 2, is_deleted=True))
    with pytest.raises(NotFound):
        table.route(ACME, "digits")


def test_a_name_stays_its_successors_whatever_is_heard_of_its_predecessor() -> None:
    table = RoutingTable()
    table.apply(a_route("dep_2", 1))
    table.apply(a_route("dep_1", 3))
    assert table.route(ACME, "digits").deployment_id == "dep_2"
    table.apply(a_route("dep_1", 4, is_deleted=True))
    assert table.route(ACME, "digits").deployment_id == "dep_2"


def test_a_replica_that_refused_is_left_out_for_a_while_unless_it_is_the_only_one() -> None:
    table = RoutingTable()
    endpoints = (Endpoint("rep_1", "a:1"), Endpoint("rep_2", "b:2"))
    table.apply(Route("dep_1", ACME, "digits", 1, endpoints))
    table.eject("rep_1", at=0.0)
    chosen = {table.choose(ACME, "digits", tried=frozenset(), at=1.0).replica_id for _ in range(4)}
    assert chosen == {"rep_2"}
    only = table.choose(ACME, "digits", tried=frozenset({"rep_2"}), at=1.0)
    assert only.replica_id == "rep_1"
    later = {table.choose(ACME, "digits", tried=frozenset(), at=2.0).replica_id for _ in range(4)}
    assert later == {"rep_1", "rep_2"}
