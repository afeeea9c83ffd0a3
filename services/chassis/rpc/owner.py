"""Asking the owner of facts for what this service follows: for itself, on behalf of no tenant.

Owns: who asks, and with which right alone. Leaves to each service's adapter the method and what the
answer means.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc.aio

from services.chassis.rpc.client import Edge, Response_co, UnaryMethod, open_channel
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.identity import TokenSigner
from services.chassis.settings import GrpcClientSettings
from services.chassis.tenancy import NO_TENANT, Principal


@asynccontextmanager
async def open_owner(
    settings: GrpcClientSettings, *, name: str, scope: str, signer: TokenSigner
) -> AsyncIterator["Owner"]:
    """Give the owner; `name` is its service's, and its edge's; `scope` all that is asked with."""
    asking = Principal(NO_TENANT, signer.service, frozenset({scope}))
    async with open_channel(settings, callee=name, signer=signer) as channel:
        yield Owner(channel, Edge.to(name), settings.deadline, asking)


@dataclass(frozen=True, slots=True)
class Owner:
    """Another service, as one that follows its facts asks it."""

    channel: grpc.aio.Channel
    edge: Edge
    timeout: timedelta
    asking: Principal

    async def ask(self, method: UnaryMethod[Response_co], request: Any) -> Response_co:
        """Return the answer to a question that changes nothing; raises ModelyardError."""
        with acting_as(self.asking):
            return await self.edge.call(method, request, timeout=self.timeout, idempotent=True)
