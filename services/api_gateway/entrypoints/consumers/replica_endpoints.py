"""Routing entries from the compacted topic into the gateway's table.

The table is a projection: every replica of the gateway reads the whole topic, and is ready only
once it has caught up. A repeated or older entry is dropped by its generation.
"""

from dataclasses import dataclass
from typing import Final

from loguru import logger
from modelyard.scheduler.v1 import deployment_events_pb2 as pb

from services.api_gateway.domain.routing import Endpoint, Route, RoutingTable
from services.api_gateway.telemetry import ROUTES
from services.chassis.events.envelope import Event
from services.chassis.tenancy import TenantId

TOPIC: Final = "modelyard.replica.endpoints.v1"
TYPE: Final = "modelyard.replica-endpoints.changed.v1"


@dataclass(frozen=True, slots=True)
class ApplyReplicaEndpoints:
    """Take over one event; called in the order of the topic."""

    routes: RoutingTable

    def __call__(self, event: Event) -> None:
        """Apply an entry; types of a newer producer are passed over."""
        if event.type != TYPE:
            return
        route = from_pb(pb.RoutingEntry.FromString(event.data))
        if self.routes.apply(route):
            ROUTES.set(self.routes.route_count)
            logger.info(
                "route changed",
                deployment_id=route.deployment_id,
                generation=route.generation,
                endpoint_count=len(route.endpoints),
            )


def from_pb(entry: pb.RoutingEntry) -> Route:
    """Return the domain's form of an entry."""
    return Route(
        deployment_id=entry.deployment_id,
        tenant=TenantId(entry.tenant),
        name=entry.name,
        generation=entry.generation,
        endpoints=tuple(Endpoint(e.replica_id, e.address) for e in entry.endpoints),
        is_deleted=entry.deleted,
    )
