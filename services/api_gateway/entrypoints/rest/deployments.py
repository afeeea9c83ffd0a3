"""`/v1/deployments`: model servers that are kept running."""

from datetime import datetime
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Path, Request, Response
from modelyard.scheduler.v1 import deployment_explanation_pb2 as explanation_pb
from modelyard.scheduler.v1 import deployment_pb2 as pb
from modelyard.scheduler.v1 import deployment_service_pb2 as service_pb
from pydantic import BaseModel, Field

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import (
    Body,
    IdempotencyKey,
    ImageName,
    Resources,
    instant,
    instant_if_set,
)
from services.api_gateway.entrypoints.rest.holds import EstimateBasis, Hold, basis_of, hold_of
from services.api_gateway.entrypoints.rest.paging import PageSize, PageToken, page_request
from services.api_gateway.entrypoints.rest.versions import TAGGED, IfVersion, tag

DeploymentRef = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}$", description="Id or name.")]
DeploymentState = Literal["PREPARING", "SERVING", "DELETING", "DELETED"]
ReplicaState = Literal["QUEUED", "WARMING", "READY", "STOPPING", "ENDED"]


class DeploymentSpec(Body):
    """Which model to serve, and how."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
    model: str = Field(
        pattern=r"^models:/[A-Za-z0-9._-]{1,128}(@[A-Za-z0-9_-]{1,255}|/[1-9][0-9]{0,17})$",
        description="models:/name@alias or models:/name/version",
    )
    image: ImageName = "modelyard/serve-sklearn"
    replica_count: int = Field(default=1, ge=1, le=32)
    resources: Resources = Field(default_factory=Resources)

    def to_pb(self) -> pb.DeploymentSpec:
        """Return the protobuf form."""
        return pb.DeploymentSpec(
            name=self.name,
            model=self.model,
            image=self.image,
            replica_count=self.replica_count,
            resources=self.resources.to_pb(),
        )

    @staticmethod
    def from_pb(spec: pb.DeploymentSpec) -> "DeploymentSpec":
        """Return the JSON form."""
        return DeploymentSpec.model_construct(
            name=spec.name,
            model=spec.model,
            image=spec.image,
            replica_count=spec.replica_count,
            resources=Resources.from_pb(spec.resources),
        )


class Replica(BaseModel):
    """One copy of the model server."""

    id: str
    state: ReplicaState
    reason: str
    attempt_id: str
    restart_count: int


class Deployment(BaseModel):
    """A deployment."""

    id: str
    spec: DeploymentSpec
    state: DeploymentState
    reason: str
    model_name: str
    model_version: int
    replicas: list[Replica]
    version: int
    created_at: datetime
    trace_id: str

    @staticmethod
    def from_pb(deployment: pb.Deployment) -> "Deployment":
        """Return the JSON form."""
        return Deployment.model_construct(
            id=deployment.id,
            spec=DeploymentSpec.from_pb(deployment.spec),
            state=_state(deployment.state),
            reason=deployment.reason,
            model_name=deployment.model.model_name,
            model_version=deployment.model.version,
            replicas=[
                Replica.model_construct(
                    id=replica.id,
                    state=cast(
                        "ReplicaState",
                        pb.ReplicaState.Name(replica.state).removeprefix("REPLICA_STATE_"),
                    ),
                    reason=replica.reason,
                    attempt_id=replica.attempt_id,
                    restart_count=replica.restart_count,
                )
                for replica in deployment.replicas
            ],
            version=deployment.version,
            created_at=instant(deployment.created_at),
            trace_id=deployment.trace_id,
        )


class DeploymentExplanation(BaseModel):
    """Why a deployment's replicas wait, of which the first one is told."""

    deployment_id: str
    state: DeploymentState
    waiting_count: int = Field(description="Its replicas in line, or that are tried again later.")
    hold: Hold = Field(
        description="The one thing that holds the first of them: its TENANT, the BACK_OFF before "
        "another try, the tenant's PLAN, NODES that take nothing new, RESOURCES that no node has "
        "free, the ORDER of those before it; NONE where none waits, or it is its turn."
    )
    because: str
    helped_by: str = Field(description="What would help; empty where nothing holds it.")
    estimated_start_at: datetime | None = Field(
        description="Of the first of them, if what runs ends when that is expected, at its run "
        "time limit at the latest, and nobody comes between. Null where nobody can tell."
    )
    estimate_basis: EstimateBasis | None = Field(
        description="What tells when that ends: run time LIMITS alone; or, of some of it, HISTORY: "
        "how long the latest jobs of the same name, image, resources and count of tasks took. Null "
        "where nobody can tell."
    )

    @staticmethod
    def from_pb(told: explanation_pb.DeploymentExplanation) -> "DeploymentExplanation":
        """Return the JSON form."""
        return DeploymentExplanation.model_construct(
            deployment_id=told.deployment_id,
            state=_state(told.state),
            waiting_count=told.waiting_count,
            hold=hold_of(told.hold),
            because=told.because,
            helped_by=told.helped_by,
            estimated_start_at=instant_if_set(told.estimated_start_at),
            estimate_basis=basis_of(told.estimate_basis),
        )


class DeploymentPage(BaseModel):
    """One page of deployments, newest first."""

    deployments: list[Deployment]
    next_page_token: str


def deployments_router(edge: Gateway) -> APIRouter:
    """Return the routes on deployments."""
    router = noun_router("/v1/deployments", tag="deployments")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.post(
        "",
        status_code=202,
        response_model=Deployment,
        dependencies=[needs("deployments:write")],
        responses={202: {**TAGGED}},
    )
    @burst
    async def create_deployment(
        request: Request,
        response: Response,
        body: DeploymentSpec,
        idempotency_key: IdempotencyKey = None,
    ) -> Deployment:
        """Start serving a model version."""
        answer = await gateway(request).deployments.create(
            service_pb.CreateDeploymentRequest(spec=body.to_pb()), key=idempotency_key
        )
        response.headers["Location"] = f"/v1/deployments/{answer.deployment.spec.name}"
        return _shown(answer.deployment, response)

    @router.get("", response_model=DeploymentPage, dependencies=[needs("deployments:read")])
    @burst
    async def list_deployments(
        request: Request, page_size: PageSize = 50, page_token: PageToken = ""
    ) -> DeploymentPage:
        """Show the tenant's deployments."""
        answer = await gateway(request).deployments.list(
            service_pb.ListDeploymentsRequest(page=page_request(page_size, page_token))
        )
        return DeploymentPage(
            deployments=[Deployment.from_pb(found) for found in answer.deployments],
            next_page_token=answer.page.next_page_token,
        )

    @router.get(
        "/{deployment}",
        response_model=Deployment,
        dependencies=[needs("deployments:read")],
        responses={200: {**TAGGED}},
    )
    @burst
    async def get_deployment(
        request: Request, response: Response, deployment: DeploymentRef
    ) -> Deployment:
        """Show one deployment."""
        answer = await gateway(request).deployments.get(
            service_pb.GetDeploymentRequest(deployment=deployment)
        )
        return _shown(answer.deployment, response)

    @router.get(
        "/{deployment}/explain",
        response_model=DeploymentExplanation,
        dependencies=[needs("deployments:read")],
    )
    @burst
    async def explain_deployment(
        request: Request, deployment: DeploymentRef
    ) -> DeploymentExplanation:
        """Say what holds the first of its replicas that wait, and about when it starts."""
        answer = await gateway(request).deployments.explain(
            service_pb.ExplainDeploymentRequest(deployment=deployment)
        )
        return DeploymentExplanation.from_pb(answer.explanation)

    @router.delete(
        "/{deployment}",
        status_code=202,
        response_model=Deployment,
        dependencies=[needs("deployments:write")],
        responses={202: {**TAGGED}},
    )
    @burst
    async def delete_deployment(
        request: Request, response: Response, deployment: DeploymentRef, if_version: IfVersion
    ) -> Deployment:
        """Take a deployment out of routing, then stop its replicas.

        Its `version` grows with its state, too: whoever read it before a replica answered has an
        older one.
        """
        answer = await gateway(request).deployments.delete(
            service_pb.DeleteDeploymentRequest(deployment=deployment, if_version=if_version or 0)
        )
        return _shown(answer.deployment, response)

    return router


def _state(state: pb.DeploymentState.ValueType) -> DeploymentState:
    name = pb.DeploymentState.Name(state).removeprefix("DEPLOYMENT_STATE_")
    return cast("DeploymentState", name)


def _shown(deployment: pb.Deployment, response: Response) -> Deployment:
    tag(response, deployment.version)
    return Deployment.from_pb(deployment)
