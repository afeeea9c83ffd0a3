"""Tenants from the compacted topic, and from the owner's list, into the scheduler's table.

A projection: every process of the scheduler reads the whole topic, and admits nothing before it has
caught up. A repeated or older entry is dropped by its version, wherever it comes from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from loguru import logger
from modelyard.gateway.v1 import tenant_events_pb2 as pb

from services.chassis.events.envelope import Event
from services.chassis.tenancy import tenant_id
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants.tenant import Plan, Tenant, TenantTable

TOPIC: Final = "modelyard.tenant.v1"
_TYPES: Final = "modelyard.tenant."
_UNBOUNDED: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class ApplyTenants:
    """Take over one event, and let those look who may have something to do now."""

    tenants: TenantTable
    wake: Callable[[], None]

    def __call__(self, event: Event) -> None:
        """Apply an entry; raises ValueError for one without a state."""
        if not event.type.startswith(_TYPES):
            return
        self.take(pb.Tenant.FromString(event.data))

    def take(self, told: pb.Tenant) -> None:
        """Take over a tenant from an event or from the owner's list; raises ValueError, as above.

        Whichever comes later: a version that is not higher is dropped.
        """
        tenant = from_pb(told)
        if self.tenants.apply(tenant):
            logger.info(
                "tenant changed",
                tenant=tenant.id,
                version=tenant.version,
                is_suspended=tenant.is_suspended,
            )
            self.wake()


def from_pb(tenant: pb.Tenant) -> Tenant:
    """Return the domain's form; a state of a newer release counts as suspended."""
    if tenant.state == pb.TENANT_STATE_UNSPECIFIED:
        raise ValueError("a tenant's event says its state")
    return Tenant(
        id=tenant_id(tenant.id),
        version=tenant.version,
        is_suspended=tenant.state != pb.TENANT_STATE_ACTIVE,
        is_purged=tenant.state == pb.TENANT_STATE_PURGED,
        reason=tenant.reason,
        changed_at=tenant.changed_at.ToDatetime(tzinfo=UTC),
        plan=_plan(tenant.plan),
    )


def _plan(plan: pb.Plan) -> Plan:
    running = (
        plan.running_cpu_millicores_max if plan.HasField("running_cpu_millicores_max") else None,
        plan.running_memory_bytes_max if plan.HasField("running_memory_bytes_max") else None,
        plan.running_gpu_count_max if plan.HasField("running_gpu_count_max") else None,
    )
    is_bounded = any(most is not None for most in running)
    bounds = (_UNBOUNDED if most is None else most for most in running)
    return Plan(
        queued_jobs_max=plan.queued_jobs_max if plan.HasField("queued_jobs_max") else None,
        replicas_max=plan.replicas_max if plan.HasField("replicas_max") else None,
        priority_max=plan.priority_max if plan.HasField("priority_max") else None,
        running_max=Resources(*bounds) if is_bounded else None,
    )
