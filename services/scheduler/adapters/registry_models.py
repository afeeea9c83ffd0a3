"""The model registry over gRPC, as far as deployments need it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from grpc.aio import Channel
from modelyard.registry.v1 import model_pb2, model_service_pb2
from modelyard.registry.v1.model_service_pb2_grpc import ModelServiceStub

from services.chassis.errors import FailedPrecondition
from services.chassis.rpc.client import Edge
from services.chassis.rpc.context import acting_as, principal
from services.chassis.tenancy import Principal
from services.scheduler.domain.deployments.model import ModelPin, ModelReference
from services.scheduler.domain.files import FileEntry

_SCOPES: Final = frozenset({"models:read"})


@dataclass(frozen=True, slots=True)
class RegistryModels:
    """Resolves model versions; implements `ports.ModelCatalog`.

    It asks as the scheduler, within the caller's tenant: who may deploy needs no scope to read
    models besides.
    """

    channel: Channel
    edge: Edge
    timeout: timedelta

    async def resolve(self, reference: ModelReference) -> ModelPin:
        """Return the version; raises NotFound, FailedPrecondition while it isn't READY."""
        request = model_service_pb2.GetVersionRequest(model_name=reference.name)
        if reference.version is not None:
            request.version = reference.version
        if reference.alias is not None:
            request.alias = reference.alias
        asking = Principal(principal().tenant, "scheduler", _SCOPES)
        with acting_as(asking):
            response = await self.edge.call(
                ModelServiceStub(self.channel).GetVersion,
                request,
                timeout=self.timeout,
                idempotent=True,
            )
        return pin_from_pb(response.version)


def pin_from_pb(version: model_pb2.ModelVersion) -> ModelPin:
    """Return the version as a deployment keeps it; raises FailedPrecondition unless READY."""
    if version.state != model_pb2.VERSION_STATE_READY:
        raise FailedPrecondition(
            f"version {version.version} of model {version.model_name} is not ready",
            detail={"kind": "model_version", "id": f"{version.model_name}/{version.version}"},
        )
    files = tuple(FileEntry(each.path, each.size_bytes, each.digest) for each in version.files)
    return ModelPin(version.model_name, version.version, files)
