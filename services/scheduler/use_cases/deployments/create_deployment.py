"""Start serving a model version."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import QuotaExceeded
from services.chassis.ids import Ids
from services.chassis.tenancy import TenantId
from services.scheduler.domain.deployments.deployment import Deployment, DeploymentSpec
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.identities import DeploymentId, ReplicaId
from services.scheduler.domain.jobs.spec import check_image_known
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.ports import ModelCatalog, RequestKey, Tenants, UnitOfWork

METHOD: Final = "CreateDeployment"


@dataclass(frozen=True, slots=True)
class CreateDeployment:
    """Pin the model's version, then put the replicas in line: what follows is the cycle's.

    An alias is resolved once, here: a deployment never changes the bytes that it serves.
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    catalog: ModelCatalog
    ids: Ids
    replicas_max: int
    """How many replicas all of a tenant's deployments may have together, where its plan does not
    say."""
    images: Collection[str]
    """Those that the nodes' runtime knows, and that hold a model server."""

    async def __call__(
        self,
        tenant: TenantId,
        spec: DeploymentSpec,
        *,
        key: RequestKey | None,
        traceparent: str | None,
    ) -> ShownDeployment:
        """Return the new deployment, or for a repeated request the one that the first made."""
        # 1. The description is within its bounds.
        reference = spec.check()
        # 2. Ask the registry before any transaction is open.
        model = await self.catalog.resolve(reference)
        deployment_id = DeploymentId(self.ids.new("dep"))
        async with self.unit_of_work(tenant) as tx:
            # 3. A repeated request is answered as before.
            if key is not None:
                made = await tx.answers.remember(METHOD, key, deployment_id)
                if made is not None:
                    earlier = await tx.deployments.find(made)
                    replicas = await tx.deployments.replicas([earlier.id])
                    return ShownDeployment(earlier, replicas[earlier.id])
            # 4. Its tenant may start something; there is an image and a machine for it, and quota.
            known = self.tenants.get(tenant)
            known.check_active()
            known.plan.check_resources(spec.resources, field="spec.resources")
            check_image_known(spec.image, self.images, field="spec.image")
            reach = await tx.fleet.reach_for(spec.resources)
            reach.check(spec.resources, field="spec.resources")
            limit = known.plan.replicas_max
            limit = self.replicas_max if limit is None else limit
            used = await tx.deployments.wanted_replica_count()
            if used + spec.replica_count > limit:
                raise QuotaExceeded(
                    "replicas",
                    limit=limit,
                    used=used,
                    asked=spec.replica_count,
                    field="spec.replica_count",
                )
            # 5. The deployment, its replicas in line, and its empty routing entry.
            deployment, created = Deployment.created(
                deployment_id,
                tenant,
                spec,
                model,
                at=tx.now,
                traceparent=traceparent,
                earlier_version=await tx.deployments.version_of_name(spec.name),
            )
            replicas_in_line = [
                Replica.queued(
                    ReplicaId(self.ids.new("rep")), tenant, deployment.id, ordinal=ordinal
                )
                for ordinal in range(spec.replica_count)
            ]
            await tx.deployments.add(deployment, replicas_in_line)
            tx.emit(created)
            tx.emit(deployment.routing_entry(()))
        return ShownDeployment(deployment, replicas_in_line)
