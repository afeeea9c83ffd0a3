"""Networks of tenants that an engine makes, or can't."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, ModelyardError, NotFound
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_docker.engine import Engine, EngineFailed
from services.scheduler.adapters.runtime_docker.networks import TenantNetworks

TENANT = TenantId("acme")


@dataclass
class NetworkingEngine:
    """Makes networks until it refuses to."""

    refusal: ModelyardError | None = None
    made: list[str] = field(default_factory=list)

    async def networks(self, _labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
        return [{"Id": each} for each in self.made]

    async def create_network(self, config: Mapping[str, Any]) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.made.append(config["Name"])
        return self.made[-1]


@pytest.mark.parametrize(
    "refusal",
    [
        NotFound("container", "could not find an available address pool"),  # as seen with 20.10
        FailedPrecondition("the pool overlaps with another one"),
        InvalidArgument("container", "the bridge's name is invalid"),
    ],
)
async def test_network_may_come_yet_whatever_the_engine_says_against_it(
    refusal: ModelyardError,
) -> None:
    """What asks for it is a job, which has no part in that."""
    engine = NetworkingEngine(refusal)
    networks = TenantNetworks(cast("Engine", engine), {})

    with pytest.raises(EngineFailed):
        await networks.ensure(TENANT)
    engine.refusal = None

    assert await networks.ensure(TENANT) == engine.made[0]


async def test_tenants_without_a_network_are_forgotten() -> None:
    engine = NetworkingEngine(FailedPrecondition("no addresses are left"))
    networks = TenantNetworks(cast("Engine", engine), {})
    with pytest.raises(EngineFailed):
        await networks.ensure(TENANT)

    await networks.delete_unused(unused_min=timedelta(0))

    assert networks._asked_at == {}
