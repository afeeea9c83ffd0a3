"""Pass one inference request to a replica that answers.

Promise: a request reaches at most one replica's program. Late actor: a replica that got the request
and answers after we gave up. What refuses it: only a request of which no byte was sent goes to
another replica (`NotSent`); after that its failure is the caller's to see.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.api_gateway.domain.routing import NoReplica, RoutingTable
from services.chassis.clock import Clock
from services.chassis.tenancy import TenantId


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """An Open Inference Protocol request, as it came: its path under the replica, headers, body."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """A replica's answer, as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NotSent(Exception):
    """No connection, or an open breaker: nothing of the request reached the replica."""


class Replicas(Protocol):
    """HTTP to replicas."""

    async def send(self, address: str, request: InferenceRequest) -> InferenceResponse:
        """Send once. Raises NotSent, Unavailable, DeadlineExceeded or PayloadTooLarge."""
        ...


@dataclass(frozen=True, slots=True)
class Infer:
    """Choose a replica, send, and try another one where nothing was sent."""

    routes: RoutingTable
    replicas: Replicas
    clock: Clock
    tries_max: int = 3

    async def __call__(
        self, tenant: TenantId, name: str, request: InferenceRequest
    ) -> InferenceResponse:
        """Return the replica's answer.

        Raises NotFound for a deployment that the tenant has not, NoReplica when none of its
        replicas takes the request.
        """
        tried: frozenset[str] = frozenset()
        failure = NoReplica(name)
        for _ in range(self.tries_max):
            try:
                endpoint = self.routes.choose(tenant, name, tried=tried, at=self.clock.monotonic())
            except NoReplica as error:
                failure = error
                break
            tried |= {endpoint.replica_id}
            try:
                with self.routes.in_flight(endpoint.replica_id):
                    return await self.replicas.send(endpoint.address, request)
            except NotSent:
                self.routes.eject(endpoint.replica_id, at=self.clock.monotonic())
        raise failure
