"""Tenants as events: the whole tenant each time, under its own id."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.gateway.v1 import tenant_events_pb2 as pb

from services.api_gateway.domain.tenant import Plan, Tenant, TenantState
from services.chassis.events.envelope import NewEvent

TENANTS: Final = "modelyard.tenant.v1"


def event_of(tenant: Tenant) -> NewEvent:
    """Return the event that tells a tenant as it is now."""
    data = tenant_to_pb(tenant)
    return NewEvent(
        topic=TENANTS,
        key=tenant.id,
        type=f"modelyard.tenant.{tenant.state.lower()}.v1",
        subject=tenant.id,
        tenant=tenant.id,
        data=data.SerializeToString(deterministic=True),
        dataschema=data.DESCRIPTOR.full_name,
    )


def tenant_to_pb(tenant: Tenant) -> pb.Tenant:
    """Return the protobuf form; a state of a newer release counts as suspended."""
    state = tenant.state if tenant.is_known else TenantState.SUSPENDED
    changed_at = Timestamp()
    changed_at.FromDatetime(tenant.changed_at)
    return pb.Tenant(
        id=tenant.id,
        state=pb.TenantState.Value(f"TENANT_STATE_{state}"),
        version=tenant.version,
        reason=tenant.reason,
        plan=_plan_to_pb(tenant.plan),
        changed_at=changed_at,
    )


def _plan_to_pb(plan: Plan) -> pb.Plan:
    return pb.Plan(
        queued_jobs_max=plan.queued_jobs_max,
        replicas_max=plan.replicas_max,
        priority_max=plan.priority_max,
        requests_max=plan.requests_max,
        running_cpu_millicores_max=plan.running_cpu_millicores_max,
        running_memory_bytes_max=plan.running_memory_bytes_max,
        running_gpu_count_max=plan.running_gpu_count_max,
    )
