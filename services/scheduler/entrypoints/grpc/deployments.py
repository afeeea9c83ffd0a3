"""DeploymentService: translates, calls one use case, translates back."""

from dataclasses import dataclass

from modelyard.scheduler.v1 import (
    deployment_explanation_pb2,
    deployment_pb2,
    job_explanation_pb2,
)
from modelyard.scheduler.v1 import (
    deployment_service_pb2 as pb,
)
from modelyard.scheduler.v1.deployment_service_pb2_grpc import DeploymentServiceServicer
from typing_extensions import override

from services.chassis.rpc.context import Context, principal
from services.chassis.telemetry.tracing import current_traceparent, trace_id_of
from services.scheduler.domain.deployments.deployment import DeploymentSpec
from services.scheduler.domain.deployments.replica import Replica
from services.scheduler.domain.scheduling.explanation import DeploymentExplanation
from services.scheduler.entrypoints.grpc.messages import (
    basis_to_pb,
    model_to_pb,
    name_from_pb,
    page_from_pb,
    request_key_of,
    resources_from_pb,
    resources_to_pb,
    route_to_pb,
    timestamp_to_pb,
)
from services.scheduler.use_cases.deployments.create_deployment import CreateDeployment
from services.scheduler.use_cases.deployments.delete_deployment import DeleteDeployment
from services.scheduler.use_cases.deployments.explain_deployment import ExplainDeployment
from services.scheduler.use_cases.deployments.get_deployment import GetDeployment
from services.scheduler.use_cases.deployments.list_deployments import ListDeployments
from services.scheduler.use_cases.deployments.list_routes import ListRoutes
from services.scheduler.use_cases.deployments.shown import ShownDeployment


@dataclass(frozen=True, slots=True)
class DeploymentRpcs(DeploymentServiceServicer):
    """Answers `modelyard.scheduler.v1.DeploymentService` for the caller's tenant.

    ListRoutes alone spans tenants; its scope, `routes:read`, is given to the gateway only.
    """

    create_deployment: CreateDeployment
    get_deployment: GetDeployment
    explain_deployment: ExplainDeployment
    list_deployments: ListDeployments
    delete_deployment: DeleteDeployment
    list_routes: ListRoutes

    @override
    async def CreateDeployment(
        self, request: pb.CreateDeploymentRequest, context: Context
    ) -> pb.CreateDeploymentResponse:
        """Start serving a model version."""
        shown = await self.create_deployment(
            principal().tenant,
            spec_from_pb(request.spec),
            key=request_key_of(context, request),
            traceparent=current_traceparent(),
        )
        return pb.CreateDeploymentResponse(deployment=deployment_to_pb(shown))

    @override
    async def GetDeployment(
        self, request: pb.GetDeploymentRequest, context: Context
    ) -> pb.GetDeploymentResponse:
        """Show one deployment, by id or name."""
        shown = await self.get_deployment(
            principal().tenant, name_from_pb(request.deployment, kind="deployment")
        )
        return pb.GetDeploymentResponse(deployment=deployment_to_pb(shown))

    @override
    async def ExplainDeployment(
        self, request: pb.ExplainDeploymentRequest, context: Context
    ) -> pb.ExplainDeploymentResponse:
        """Say what holds a deployment's replicas."""
        explanation = await self.explain_deployment(
            principal().tenant, name_from_pb(request.deployment, kind="deployment")
        )
        return pb.ExplainDeploymentResponse(explanation=explanation_to_pb(explanation))

    @override
    async def ListDeployments(
        self, request: pb.ListDeploymentsRequest, context: Context
    ) -> pb.ListDeploymentsResponse:
        """Show the tenant's deployments."""
        page = await self.list_deployments(principal().tenant, page_from_pb(request.page))
        response = pb.ListDeploymentsResponse(
            deployments=[deployment_to_pb(shown) for shown in page.items]
        )
        response.page.next_page_token = page.next_token
        return response

    @override
    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: Context
    ) -> pb.DeleteDeploymentResponse:
        """Stop serving."""
        shown = await self.delete_deployment(
            principal().tenant,
            name_from_pb(request.deployment, kind="deployment"),
            if_version=request.if_version or None,
        )
        return pb.DeleteDeploymentResponse(deployment=deployment_to_pb(shown))

    @override
    async def ListRoutes(
        self, request: pb.ListRoutesRequest, context: Context
    ) -> pb.ListRoutesResponse:
        """Show where all deployments of all tenants answer."""
        page = await self.list_routes(page_from_pb(request.page))
        response = pb.ListRoutesResponse(routes=[route_to_pb(entry) for entry in page.items])
        response.page.next_page_token = page.next_token
        return response


def spec_from_pb(spec: deployment_pb2.DeploymentSpec) -> DeploymentSpec:
    """Return what is asked for; absent resources are the service's default."""
    return DeploymentSpec(
        name=spec.name,
        model=spec.model,
        image=spec.image,
        replica_count=spec.replica_count,
        resources=resources_from_pb(spec.resources if spec.HasField("resources") else None),
    )


def deployment_to_pb(shown: ShownDeployment) -> deployment_pb2.Deployment:
    """Return a deployment with its replicas as callers see them."""
    deployment = shown.deployment
    spec = deployment.spec
    return deployment_pb2.Deployment(
        id=deployment.id,
        spec=deployment_pb2.DeploymentSpec(
            name=spec.name,
            model=spec.model,
            image=spec.image,
            replica_count=spec.replica_count,
            resources=resources_to_pb(spec.resources),
        ),
        state=deployment_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{deployment.state}"),
        model=model_to_pb(deployment.model),
        replicas=[replica_to_pb(replica) for replica in shown.replicas],
        version=deployment.version,
        reason=deployment.reason,
        created_at=timestamp_to_pb(deployment.created_at),
        trace_id=trace_id_of(deployment.traceparent),
    )


def explanation_to_pb(
    explanation: DeploymentExplanation,
) -> deployment_explanation_pb2.DeploymentExplanation:
    """Return why a deployment's replicas wait, as of its transaction."""
    deployment, reason = explanation.deployment, explanation.reason
    return deployment_explanation_pb2.DeploymentExplanation(
        deployment_id=deployment.id,
        state=deployment_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{deployment.state}"),
        waiting_count=explanation.waiting_count,
        hold=job_explanation_pb2.JobHold.Value(f"JOB_HOLD_{reason.hold}"),
        because=reason.because,
        helped_by=reason.helped_by,
        estimated_start_at=timestamp_to_pb(explanation.estimated_start_at),
        estimate_basis=basis_to_pb(reason.basis),
    )


def replica_to_pb(replica: Replica) -> deployment_pb2.Replica:
    """Return one copy."""
    return deployment_pb2.Replica(
        id=replica.id,
        state=deployment_pb2.ReplicaState.Value(f"REPLICA_STATE_{replica.state}"),
        reason=replica.reason,
        attempt_id=replica.attempt_id or "",
        restart_count=replica.restart_count,
    )
