"""The gateway over gRPC, as far as its list of tenants goes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from modelyard.common.v1 import paging_pb2
from modelyard.gateway.v1 import tenant_events_pb2
from modelyard.gateway.v1 import tenant_service_pb2 as pb
from modelyard.gateway.v1.tenant_service_pb2_grpc import TenantServiceStub

from services.chassis.clock import Clock
from services.chassis.events.sweep import PAGE_SIZE, ListPage
from services.chassis.rpc.identity import TokenSigner
from services.chassis.rpc.owner import Owner, open_owner
from services.chassis.settings import GrpcClientSettings, IdentitySettings
from services.chassis.tenancy import TenantId, tenant_id

_SERVICE: Final = "model-registry"
_OWNER: Final = "api-gateway"
_SCOPE: Final = "tenants:follow"


@asynccontextmanager
async def open_tenant_list(
    gateway: GrpcClientSettings | None, identity: IdentitySettings, clock: Clock
) -> AsyncIterator["GatewayPurgedTenants | None"]:
    """Give the list; None where no setting says where the gateway is."""
    if gateway is None:
        yield None
        return
    signer = TokenSigner.load(_SERVICE, identity, clock)
    async with open_owner(gateway, name=_OWNER, scope=_SCOPE, signer=signer) as owner:
        yield GatewayPurgedTenants(owner)


@dataclass(frozen=True, slots=True)
class GatewayPurgedTenants:
    """Gives those of all tenants that are purged, page by page."""

    owner: Owner

    async def __call__(self, token: str) -> ListPage[TenantId]:
        """Return the page after this token; raises ModelyardError."""
        request = pb.ListTenantsRequest(
            page=paging_pb2.PageRequest(page_size=PAGE_SIZE, page_token=token)
        )
        ask = TenantServiceStub(self.owner.channel).ListTenants
        response = await self.owner.ask(ask, request)
        purged = [
            tenant_id(tenant.id)
            for tenant in response.tenants
            if tenant.state == tenant_events_pb2.TENANT_STATE_PURGED
        ]
        return ListPage(purged, response.page.next_page_token)
