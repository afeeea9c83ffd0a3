"""How often a credential may be refused, and that its holder passes all the same."""

import pytest

from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.entrypoints.rest.refusals import source_of
from services.chassis.ids import TimeOrderedIds
from tests.unit.api_gateway.edge import Edge, client_of


def guess(key: str, number: int = 0) -> str:
    """Return a key's text with another secret."""
    return f"{key.rsplit('_', 1)[0]}_{number:043}"


def an_id(number: int) -> str:
    return f"myk_{number:026}_{number:043}"


async def test_one_keys_secret_is_not_guessed_from_many_addresses() -> None:
    edge = Edge(requests_max=2, key_requests_max=5)
    key = await edge.key()
    app = build_app(edge.gateway(), ids=TimeOrderedIds(edge.clock))
    statuses, policies = [], set()
    for number in range(8):
        async with client_of(app, key=guess(key, number), source=f"10.0.0.{number}") as guesser:
            answer = await guesser.get("/v1/jobs")
        statuses.append(answer.status_code)
        if answer.status_code == 429:
            policies.add(answer.json()["detail"])
    assert statuses == [401] * 5 + [429] * 3
    assert policies == {"key: too many requests"}

    async with client_of(app, key=key, source="10.0.0.9") as holder:
        assert (await holder.get("/v1/jobs")).status_code == 200


async def test_ids_that_exist_and_others_are_limited_alike() -> None:
    told = []
    for is_known in (True, False):
        edge = Edge(key_requests_max=2)
        key = guess(await edge.key()) if is_known else an_id(7)
        async with edge.client(key=key) as guesser:
            answers = [await guesser.get("/v1/jobs") for _ in range(4)]
        told.append([(answer.status_code, answer.json()) for answer in answers])
    assert [status for status, _ in told[0]] == [401, 401, 429, 429]
    without_wait = [
        [(status, body | {"retry_after": 0}) for status, body in answers] for answers in told
    ]
    assert without_wait[0] == without_wait[1]


async def test_a_source_over_its_limit_costs_no_look_ups_for_a_moment() -> None:
    edge = Edge(requests_max=3)
    app = build_app(edge.gateway(), ids=TimeOrderedIds(edge.clock))
    neighbour = await edge.key()

    async def status_of(key: str) -> int:
        async with client_of(app, key=key) as client:
            return (await client.get("/v1/whoami")).status_code

    assert await status_of(neighbour) == 200
    assert [await status_of(an_id(number)) for number in range(4)] == [401, 401, 401, 429]
    looked_up = edge.keys.lookups
    assert [await status_of(an_id(number)) for number in range(4, 10)] == [429] * 6
    assert await status_of(neighbour) == 200  # behind the same address, and known
    assert edge.keys.lookups == looked_up

    edge.clock.elapsed_s += 1.0
    assert await status_of(await edge.key()) == 200


async def test_naming_no_tenant_is_limited_like_a_refused_credential() -> None:
    edge = Edge(requests_max=3)
    async with edge.client() as stranger:
        named = {"Modelyard-Tenant": "No Tenant"}
        statuses = [(await stranger.get("/v1/jobs", headers=named)).status_code for _ in range(5)]
    assert statuses == [422] * 3 + [429] * 2


@pytest.mark.parametrize(
    ("client", "source"),
    [
        (("10.1.2.3", 5), "10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("::ffff:10.1.2.3", 5), "10.1.2.3"),
        (("somewhere", 5), "somewhere"),
        (None, "unknown"),
    ],
)
def test_a_source_is_an_address_or_an_ipv6_network(
    client: tuple[str, int] | None, source: str
) -> None:
    assert source_of({"type": "http", "client": client}) == source
