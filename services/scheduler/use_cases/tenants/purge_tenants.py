"""Delete what purged tenants have here."""

from dataclasses import dataclass, field

from loguru import logger

from services.chassis.errors import ModelyardError
from services.chassis.purges import Round
from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import DeploymentId
from services.scheduler.use_cases.deployments.delete_deployment import DeleteDeployment
from services.scheduler.use_cases.ports import Lease, Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class PurgeTenants:
    """Delete jobs, attempts, deployments, replicas, pauses and answers of PURGED tenants.

    What runs is not touched: the suspension stops it, and a later pass takes what it was.

    Who could act late: a scheduler that has not heard yet and stores a job; a cycle that admits one
    with an older picture; a pass that was cut off. What refuses it: this looks at what is, again
    and again, for as long as the tenant is told as PURGED, which has no end; a job is admitted or
    deleted under its row's lock, never both.
    """

    unit_of_work: UnitOfWork
    tenants: Tenants
    delete_deployment: DeleteDeployment
    owners_per_pass_max: int
    round: Round = field(default_factory=Round)
    """Of deployments, each of which is asked to end by itself."""

    async def __call__(self, lease: Lease) -> int:
        """Run one pass; return how much it did, 0 when nothing was left to do for now."""
        # 1. While nobody is purged nothing is asked.
        purged, limit = self.tenants.purged(), self.owners_per_pass_max
        if not purged:
            return 0
        # 2. Deployments end as if their tenant had asked: gateways hear of it, replicas stop.
        async with self.unit_of_work.system(because="a purge ends any tenant's deployments") as tx:
            living = await tx.leavings.living_deployments(
                purged, offset=self.round.passed_over, limit=limit
            )
        are_ending = [await self._is_ending(*each) for each in living]
        self.round.passed(found=len(living), failed=are_ending.count(False), limit=limit)
        # 3. What has ended goes, in one transaction.
        async with self.unit_of_work.system(because="a purge deletes any tenant's rows") as tx:
            await tx.hold(lease)
            return (
                sum(are_ending)
                + await tx.leavings.delete_jobs(purged, limit=limit)
                + await tx.leavings.delete_deployments(purged, limit=limit)
                + await tx.leavings.delete_pauses(purged, limit=limit)
                + await tx.leavings.delete_answers(purged, limit=limit)
            )

    async def _is_ending(self, tenant: TenantId, deployment_id: DeploymentId) -> bool:
        """Ask for a deployment's end; one that can't be asked holds up nothing else."""
        try:
            await self.delete_deployment(tenant, deployment_id)
        except ModelyardError as error:
            logger.warning(
                "purged deployment not ended", deployment_id=deployment_id, error=error.message
            )
            return False
        return True
