"""The gateway over gRPC, as far as its list of tenants goes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from grpc.aio import Channel
from modelyard.common.v1 import paging_pb2
from modelyard.gateway.v1 import tenant_events_pb2
from modelyard.gateway.v1 import tenant_service_pb2 as pb
from modelyard.gateway.v1.tenant_service_pb2_grpc import TenantServiceStub

from services.chassis.clock import Clock
from services.chassis.events.sweep import PAGE_SIZE, ListPage
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.identity import TokenSigner
from services.chassis.settings import GrpcClientSettings, IdentitySettings
from services.chassis.tenancy import NO_TENANT, Principal, TenantId, tenant_id

_SERVICE: Final = "model-registry"
_FOLLOWING: Final = Principal(NO_TENANT, _SERVICE, frozenset({"tenants:follow"}))


@asynccontextmanager
async def open_tenant_list(
    gateway: GrpcClientSettings | None, identity: IdentitySettings, clock: Clock
) -> AsyncIterator["GatewayPurgedTenants | None"]:
    """Give the list; None where no setting says where the gateway is."""
    if gateway is None:
        yield None
        return
    signer = TokenSigner.load(_SERVICE, identity, clock)
    async with open_channel(gateway, signer=signer) as channel:
        yield GatewayPurgedTenants(channel, Edge.to("api-gateway"), gateway.deadline)


@dataclass(frozen=True, slots=True)
class GatewayPurgedTenants:
    """Gives those of all tenants that are purged, page by page."""

    channel: Channel
    edge: Edge
    timeout: timedelta

    async def __call__(self, token: str) -> ListPage[TenantId]:
        """Return the page after this token; raises ModelyardError."""
        request = pb.ListTenantsRequest(
            page=paging_pb2.PageRequest(page_size=PAGE_SIZE, page_token=token)
        )
        with acting_as(_FOLLOWING):
            response = await self.edge.call(
                TenantServiceStub(self.channel).ListTenants,
                request,
                timeout=self.timeout,
                idempotent=True,
            )
        purged = [
            tenant_id(tenant.id)
            for tenant in response.tenants
            if tenant.state == tenant_events_pb2.TENANT_STATE_PURGED
        ]
        return ListPage(purged, response.page.next_page_token)
