"""Where deployments answer.

Owns: the table from (tenant, deployment name) to replicas and the choice among them. Fed by the
compacted topic of replica endpoints; an entry with a lower generation than the known one is
dropped, so repeated and reordered records do no harm. Entries of different deployments come in any
order: an older one of the same name may be heard of, alive and deleted, after its successor.
Choice: fewest requests in flight, then round robin; a replica that refused a connection is left out
for `EJECTED_FOR` unless none other is left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from services.chassis.errors import NotFound, Unavailable
from services.chassis.tenancy import TenantId

EJECTED_FOR: Final = timedelta(seconds=2)


class NoReplica(Unavailable):
    """No replica of a deployment takes a request; trying again helps once one does."""

    def __init__(self, name: str, *, because: str = "") -> None:
        super().__init__(f"deployment {name}", because=because)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica's address, "host:port"."""

    replica_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Route:
    """A deployment's whole routing entry."""

    deployment_id: str
    tenant: TenantId
    name: str
    generation: int
    endpoints: tuple[Endpoint, ...]
    is_deleted: bool = False


@dataclass(slots=True)
class RoutingTable:
    """The gateway's current view; one per process, changed on the event loop only."""

    _by_deployment: dict[str, Route] = field(default_factory=dict)
    _by_name: dict[tuple[TenantId, str], set[str]] = field(default_factory=dict)
    _in_flight: dict[str, int] = field(default_factory=dict)
    _ejected_until: dict[str, float] = field(default_factory=dict)
    _turn: int = 0

    @property
    def route_count(self) -> int:
        """How many deployments can be asked."""
        return len(self._by_name)

    def apply(self, route: Route) -> bool:
        """Take over an entry; False when it is not newer than the known one."""
        known = self._by_deployment.get(route.deployment_id)
        if known is not None and known.generation >= route.generation:
            return False
        self._by_deployment[route.deployment_id] = route
        named = self._by_name.setdefault((route.tenant, route.name), set())
        if route.is_deleted:
            named.discard(route.deployment_id)
        else:
            named.add(route.deployment_id)
        if not named:
            del self._by_name[route.tenant, route.name]
        return True

    def route(self, tenant: TenantId, name: str) -> Route:
        """Return the tenant's newest route of this name (ids go up); raises NotFound."""
        named = self._by_name.get((tenant, name))
        if named is None:
            raise NotFound("deployment", name)
        return self._by_deployment[max(named)]

    def choose(self, tenant: TenantId, name: str, *, tried: frozenset[str], at: float) -> Endpoint:
        """Return the replica to ask next, not one that was tried.

        `at` is monotonic seconds. Raises NotFound, or NoReplica when none is left.
        """
        candidates = [e for e in self.route(tenant, name).endpoints if e.replica_id not in tried]
        if not candidates:
            raise NoReplica(name)
        healthy = [e for e in candidates if self._ejected_until.get(e.replica_id, at) <= at]
        pool = healthy or candidates
        self._turn += 1
        start = self._turn % len(pool)
        return min(pool[start:] + pool[:start], key=lambda e: self._in_flight.get(e.replica_id, 0))

    def eject(self, replica_id: str, *, at: float) -> None:
        """Leave a replica out for a while: it refused a connection."""
        self._ejected_until = {r: until for r, until in self._ejected_until.items() if until > at}
        self._ejected_until[replica_id] = at + EJECTED_FOR.total_seconds()

    @contextmanager
    def in_flight(self, replica_id: str) -> Iterator[None]:
        """Count a request against its replica while it lasts."""
        self._in_flight[replica_id] = self._in_flight.get(replica_id, 0) + 1
        try:
            yield
        finally:
            left = self._in_flight[replica_id] - 1
            if left:
                self._in_flight[replica_id] = left
            else:
                del self._in_flight[replica_id]
