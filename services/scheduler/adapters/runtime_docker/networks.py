"""One network a tenant: its containers reach nobody; only this machine reaches them.

Owns: making a tenant's network before its first container, and deleting it after its last one. The
network is internal (no way out, and none to other networks) and keeps its containers apart. What
keeps them from this machine itself is a rule of its firewall, see docs/how-to/isolation.md.

Always holds: several may make a tenant's network at once. Within a process one does it for all. Two
processes make two: containers are apart in each, and both are deleted after the last container.

Who could act late: a `create` that was given a network which is deleted before the start. The start
is then refused, and the container made anew.
"""

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.chassis.single_flight import SingleFlight
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_docker.engine import Engine, EngineFailed

INTERFACE_PREFIX: Final = "myd-"
"""Of each network's bridge on this machine: the firewall's rule goes by it."""
TENANT_LABEL: Final = "modelyard.tenant"
UNUSED_MIN: Final = timedelta(seconds=15)
"""How long a network is left alone after somebody asked for it: the container is still coming."""


class TenantNetworks:
    """The networks of one scope on one engine."""

    def __init__(self, engine: Engine, scope: Mapping[str, str]) -> None:
        """Use the networks that bear these labels."""
        self._engine = engine
        self._scope = scope
        self._found_or_made = SingleFlight(self._find_or_make)
        self._known: dict[TenantId, str] = {}
        """Their ids; one that somebody deletes fails a start, and is forgotten then."""
        self._asked_at: dict[TenantId, float] = {}
        """On the monotonic clock; the sweep drops those of long ago."""

    async def ensure(self, tenant: TenantId) -> str:
        """Return the id of a tenant's network, which is made if there is none."""
        self._asked_at[tenant] = time.monotonic()
        if tenant not in self._known:
            self._known[tenant] = await self._found_or_made(tenant)
        return self._known[tenant]

    async def _find_or_make(self, tenant: TenantId) -> str:
        labels = {**self._scope, TENANT_LABEL: tenant}
        if found := await self._engine.networks(labels):
            return str(found[0]["Id"])
        try:
            return await self._engine.create_network(_config(labels))
        except (NotFound, FailedPrecondition, InvalidArgument) as error:
            # As "not found" it says that no addresses are left: no doing of the job that asks.
            raise EngineFailed(error.message) from error

    def forget(self, tenant: TenantId) -> None:
        """Look for a tenant's network anew the next time."""
        self._known.pop(tenant, None)

    async def delete_unused(self, *, unused_min: timedelta) -> None:
        """Delete the networks of tenants that have no container left."""
        lately = time.monotonic() - unused_min.total_seconds()
        self._asked_at = {tenant: at for tenant, at in self._asked_at.items() if at > lately}
        networks = await self._engine.networks(self._scope)
        if not networks:
            return
        containers = await self._engine.list(self._scope)
        used = {container["Labels"].get(TENANT_LABEL) for container in containers}
        for network in networks:
            tenant = TenantId(network["Labels"].get(TENANT_LABEL, ""))
            if tenant in used or tenant in self._asked_at:
                continue
            self.forget(tenant)
            with suppress(NotFound, FailedPrecondition):  # gone already, or its tenant is back
                await self._engine.delete_network(network["Id"])


def _config(labels: Mapping[str, str]) -> Mapping[str, object]:
    # Names that nothing had before: an engine that is killed while it makes a network keeps the
    # bridge's name taken, and it connects nothing to one of two networks of one name.
    name = secrets.token_hex(4)
    return {
        "Name": f"modelyard-{name}",
        "Driver": "bridge",
        "Internal": True,
        "Labels": dict(labels),
        "Options": {
            "com.docker.network.bridge.name": f"{INTERFACE_PREFIX}{name}",
            "com.docker.network.bridge.enable_icc": "false",
        },
    }
