"""TenantService: the list of tenants for services that follow `modelyard.tenant.v1`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from modelyard.common.v1 import paging_pb2
from modelyard.gateway.v1 import tenant_service_pb2 as pb
from modelyard.gateway.v1.tenant_service_pb2_grpc import TenantServiceServicer
from typing_extensions import override

from services.api_gateway.entrypoints.facts import tenant_to_pb
from services.api_gateway.use_cases.ports import TenantStore
from services.chassis.errors import InvalidArgument
from services.chassis.rpc.context import Context
from services.chassis.tenancy import tenant_id

TENANT_SERVICE: Final = "modelyard.gateway.v1.TenantService"
SCOPES: Final[Mapping[str, str]] = {f"/{TENANT_SERVICE}/ListTenants": "tenants:follow"}
"""No role has this scope and no key can be given it: only services ask with it, for themselves."""

_PAGE_SIZE_DEFAULT: Final = 50
_PAGE_SIZE_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class TenantRpcs(TenantServiceServicer):
    """Answers `modelyard.gateway.v1.TenantService`, which spans tenants."""

    tenants: TenantStore

    @override
    async def ListTenants(
        self, request: pb.ListTenantsRequest, context: Context
    ) -> pb.ListTenantsResponse:
        """Show tenants by name, in whatever state."""
        size, after = _page_from_pb(request.page)
        found = await self.tenants.page(after=after, limit=size + 1)
        shown = found[:size]
        response = pb.ListTenantsResponse(tenants=[tenant_to_pb(tenant) for tenant in shown])
        response.page.next_page_token = shown[-1].id if len(found) > size else ""
        return response


def _page_from_pb(page: paging_pb2.PageRequest) -> tuple[int, str]:
    """Return how many, and after which name; raises InvalidArgument."""
    if not 0 <= page.page_size <= _PAGE_SIZE_MAX:
        raise InvalidArgument("page.page_size", f"must be between 0 and {_PAGE_SIZE_MAX}")
    after = page.page_token and tenant_id(page.page_token, field="page.page_token")
    return page.page_size or _PAGE_SIZE_DEFAULT, after
