"""`/v1/tenants`: administration of all tenants, for those who administer the platform."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from services.api_gateway.domain import tenant as domain
from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import Body, IsoDuration
from services.api_gateway.entrypoints.rest.paging import PageSize
from services.api_gateway.entrypoints.rest.versions import TAGGED, IfVersion, tag
from services.chassis.errors import NotFound
from services.chassis.tenancy import TENANT_PATTERN, Principal, TenantId

_NAME = f"^{TENANT_PATTERN}$"

TenantName = Annotated[str, Path(pattern=_NAME)]
Administrator = Annotated[Principal, needs("tenants:write")]


def _limit(name: str, description: str | None = None) -> Any:
    least, most = domain.BOUNDS[name]
    return Field(default=None, ge=least, le=most, description=description)


class Plan(Body):
    """How much a tenant may have; null leaves it to the platform's own setting."""

    queued_jobs_max: int | None = _limit("queued_jobs_max")
    replicas_max: int | None = _limit("replicas_max")
    priority_max: int | None = _limit("priority_max")
    requests_max: int | None = _limit(
        "requests_max",
        "The plan's rate, as a number: requests of the tenant in a window of the gateway's"
        " (60 s unless set otherwise), over all gateways. There are no named classes of rates.",
    )
    running_cpu_millicores_max: int | None = _limit("running_cpu_millicores_max")
    running_memory_bytes_max: int | None = _limit("running_memory_bytes_max")
    running_gpu_count_max: int | None = _limit("running_gpu_count_max")

    def to_domain(self) -> domain.Plan:
        """Return the domain's form."""
        return domain.Plan(**self.model_dump())


class NewTenant(Body):
    """What a new tenant is called and may have."""

    id: str = Field(pattern=_NAME)
    plan: Plan = Field(default_factory=Plan)


class Suspension(Body):
    """Why a tenant is suspended; its callers are told."""

    reason: str = Field(min_length=1, max_length=domain.REASON_CHARACTERS_MAX)


class Tenant(BaseModel):
    """A tenant, and whether it may change anything."""

    id: str
    state: domain.TenantState
    version: int
    reason: str
    plan: Plan
    created_at: datetime
    changed_at: datetime
    purge_at: datetime | None = Field(
        description="While DELETING: from when on nothing brings it back."
    )

    @staticmethod
    def of(tenant: domain.Tenant) -> "Tenant":
        """Return the JSON form."""
        return Tenant(
            id=tenant.id,
            state=tenant.state,
            version=tenant.version,
            reason=tenant.reason,
            plan=Plan(**asdict(tenant.plan)),
            created_at=tenant.created_at,
            changed_at=tenant.changed_at,
            purge_at=tenant.purge_at,
        )


class CreatedTenant(BaseModel):
    """A new tenant, and the text of its first key, which may do everything in it."""

    tenant: Tenant
    key: str


class TenantKey(BaseModel):
    """The text of a new key, which may do everything in its tenant."""

    key: str


class TenantList(BaseModel):
    """A page of tenants by name."""

    tenants: list[Tenant]
    next_page_token: str


def tenants_router(edge: Gateway) -> APIRouter:
    """Return the routes on tenants."""
    router = noun_router("/v1/tenants", tag="tenants")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.post(
        "",
        status_code=201,
        response_model=CreatedTenant,
        dependencies=[needs("tenants:write")],
        responses={201: {**TAGGED}},
    )
    @burst
    async def create_tenant(request: Request, response: Response, body: NewTenant) -> CreatedTenant:
        """Make a tenant; its first key's text is shown this once."""
        tenant, key = await gateway(request).create_tenant(
            TenantId(body.id), plan=body.plan.to_domain()
        )
        response.headers["Location"] = f"/v1/tenants/{tenant.id}"
        return CreatedTenant(tenant=_shown(tenant, response), key=key)

    @router.get("", response_model=TenantList, dependencies=[needs("tenants:read")])
    @burst
    async def list_tenants(
        request: Request,
        page_size: PageSize = 50,
        page_token: Annotated[
            str,
            Query(
                pattern=f"^({TENANT_PATTERN})?$",
                description="The previous page's next_page_token.",
            ),
        ] = "",
    ) -> TenantList:
        """Show tenants by name."""
        found = await gateway(request).tenants.page(after=page_token, limit=page_size + 1)
        shown = [Tenant.of(tenant) for tenant in found[:page_size]]
        return TenantList(
            tenants=shown, next_page_token=shown[-1].id if len(found) > page_size else ""
        )

    @router.get(
        "/{tenant_id}",
        response_model=Tenant,
        dependencies=[needs("tenants:read")],
        responses={200: {**TAGGED}},
    )
    @burst
    async def get_tenant(request: Request, response: Response, tenant_id: TenantName) -> Tenant:
        """Show a tenant."""
        found = await gateway(request).tenants.find(TenantId(tenant_id))
        if found is None:
            raise NotFound("tenant", tenant_id)
        return _shown(found, response)

    @router.post("/{tenant_id}/keys", status_code=201, response_model=TenantKey)
    @burst
    async def issue_tenant_key(
        request: Request, administrator: Administrator, tenant_id: TenantName
    ) -> TenantKey:
        """Make another administrator key of a tenant whose own is lost; shown this once.

        Whoever asks has all the scopes of an administrator.
        """
        text = await gateway(request).issue_tenant_key(administrator, TenantId(tenant_id))
        return TenantKey(key=text)

    @router.post("/{tenant_id}/suspend", response_model=Tenant, responses={200: {**TAGGED}})
    @burst
    async def suspend_tenant(
        request: Request,
        response: Response,
        administrator: Administrator,
        tenant_id: TenantName,
        *,
        body: Suspension,
        if_version: IfVersion,
    ) -> Tenant:
        """Take away all but reading: at once here, everywhere within 2 seconds."""
        changed = await gateway(request).change_tenant.suspend(
            administrator, TenantId(tenant_id), reason=body.reason, if_version=if_version
        )
        return _shown(changed, response)

    @router.post("/{tenant_id}/resume", response_model=Tenant, responses={200: {**TAGGED}})
    @burst
    async def resume_tenant(
        request: Request,
        response: Response,
        administrator: Administrator,
        tenant_id: TenantName,
        *,
        if_version: IfVersion,
    ) -> Tenant:
        """Give back what the tenant may; what waited goes on."""
        changed = await gateway(request).change_tenant.resume(
            administrator, TenantId(tenant_id), if_version=if_version
        )
        return _shown(changed, response)

    @router.delete(
        "/{tenant_id}", status_code=202, response_model=Tenant, responses={202: {**TAGGED}}
    )
    @burst
    async def delete_tenant(
        request: Request,
        response: Response,
        administrator: Administrator,
        tenant_id: TenantName,
        *,
        if_version: IfVersion,
        grace: Annotated[
            IsoDuration,
            Query(
                ge=timedelta(0),
                le=domain.GRACE_MAX,
                description="Until then `resume` brings the tenant back; an ISO 8601 duration.",
            ),
        ] = domain.GRACE_DEFAULT,
    ) -> Tenant:
        """Suspend a tenant; after the grace delete all it has. The name is not given again."""
        changed = await gateway(request).change_tenant.delete(
            administrator, TenantId(tenant_id), grace=grace, if_version=if_version
        )
        return _shown(changed, response)

    @router.put("/{tenant_id}/plan", response_model=Tenant, responses={200: {**TAGGED}})
    @burst
    async def plan_tenant(
        request: Request,
        response: Response,
        administrator: Administrator,
        tenant_id: TenantName,
        *,
        body: Plan,
        if_version: IfVersion,
    ) -> Tenant:
        """Set how much the tenant may have, whole: what is left out is the platform's setting."""
        changed = await gateway(request).change_tenant.plan(
            administrator, TenantId(tenant_id), body.to_domain(), if_version=if_version
        )
        return _shown(changed, response)

    return router


def _shown(tenant: domain.Tenant, response: Response) -> Tenant:
    tag(response, tenant.version)
    return Tenant.of(tenant)
