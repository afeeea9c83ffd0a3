"""The gateway over gRPC, as far as its list of tenants goes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from modelyard.common.v1 import paging_pb2
from modelyard.gateway.v1 import tenant_events_pb2
from modelyard.gateway.v1 import tenant_service_pb2 as pb
from modelyard.gateway.v1.tenant_service_pb2_grpc import TenantServiceStub

from services.chassis.events.sweep import PAGE_SIZE, ListPage
from services.chassis.rpc.identity import TokenSigner
from services.chassis.rpc.owner import Owner, open_owner
from services.chassis.settings import GrpcClientSettings

_OWNER: Final = "api-gateway"
_SCOPE: Final = "tenants:follow"


@asynccontextmanager
async def open_tenant_list(
    gateway: GrpcClientSettings | None, *, signer: TokenSigner
) -> AsyncIterator["GatewayTenants | None"]:
    """Give the list; None where no setting says where the gateway is."""
    if gateway is None:
        yield None
        return
    async with open_owner(gateway, name=_OWNER, scope=_SCOPE, signer=signer) as owner:
        yield GatewayTenants(owner)


@dataclass(frozen=True, slots=True)
class GatewayTenants:
    """Gives all tenants page by page, each as its event tells it."""

    owner: Owner

    async def __call__(self, token: str) -> ListPage[tenant_events_pb2.Tenant]:
        """Return the page after this token; raises ModelyardError."""
        request = pb.ListTenantsRequest(
            page=paging_pb2.PageRequest(page_size=PAGE_SIZE, page_token=token)
        )
        ask = TenantServiceStub(self.owner.channel).ListTenants
        response = await self.owner.ask(ask, request)
        return ListPage(response.tenants, response.page.next_page_token)
