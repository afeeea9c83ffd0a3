"""Stop serving."""

from dataclasses import dataclass

from services.chassis.tenancy import TenantId
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.ports import UnitOfWork


@dataclass(frozen=True, slots=True)
class DeleteDeployment:
    """Take a deployment out of routing; the reconciler stops its replicas afterwards."""

    unit_of_work: UnitOfWork

    async def __call__(
        self, tenant: TenantId, id_or_name: str, *, if_version: int | None = None
    ) -> ShownDeployment:
        """Return the deployment after the request; asking again changes nothing.

        Raises NotFound, VersionMismatch.
        """
        async with self.unit_of_work(tenant) as tx:
            deployment = await tx.deployments.find_for_update(id_or_name)
            replicas = (await tx.deployments.replicas([deployment.id]))[deployment.id]
            asked = deployment.asked_to_delete(at=tx.now, if_version=if_version)
            if asked is not None:
                deployment, fact = asked
                deployment = deployment.rerouted()
                await tx.deployments.save(deployment)
                tx.emit(fact)
                tx.emit(deployment.routing_entry(()))
        return ShownDeployment(deployment, replicas)
