"""Resolving models at the registry, over a real channel."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import grpc.aio
import pytest
from modelyard.common.v1.files_pb2 import FileEntry as FileEntryPb
from modelyard.registry.v1 import model_pb2, model_service_pb2, model_service_pb2_grpc
from typing_extensions import override

from services.chassis.errors import FailedPrecondition, NotFound
from services.chassis.rpc.callers import Grant
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.context import Context, acting_as, principal
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import GrpcClientSettings, GrpcServerSettings
from services.chassis.tenancy import Principal
from services.scheduler.adapters.registry_models import RegistryModels
from services.scheduler.domain.deployments.model import ModelReference
from tests.unit.scheduler.builders import ACME, DIGEST, a_pin

DEPLOYER = Principal(ACME, "key:somebody", frozenset({"deployments:write"}))


@dataclass(slots=True)
class FakeRegistry(model_service_pb2_grpc.ModelServiceServicer):
    """A registry of one version."""

    is_ready: bool = True
    asked: list[tuple[str, model_service_pb2.GetVersionRequest]] = field(default_factory=list)

    @override
    async def GetVersion(
        self, request: model_service_pb2.GetVersionRequest, context: Context
    ) -> model_service_pb2.GetVersionResponse:
        self.asked.append((principal().tenant, request))
        if request.model_name != "digits":
            raise NotFound("model", request.model_name)
        return model_service_pb2.GetVersionResponse(
            version=model_pb2.ModelVersion(
                model_name="digits",
                version=3,
                state=model_pb2.VERSION_STATE_READY
                if self.is_ready
                else model_pb2.VERSION_STATE_PREPARING,
                files=[FileEntryPb(path="model.pkl", size_bytes=10, digest=DIGEST)],
            )
        )


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()  # type: ignore[abstract]  # only what is asked for here


@pytest.fixture
async def models(
    registry: FakeRegistry, identity: tuple[TokenSigner, TokenVerifier]
) -> AsyncIterator[RegistryModels]:
    signer, verifier = identity

    def register(server: grpc.aio.Server) -> None:
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(registry, server)

    described = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
    name = described.full_name
    methods = [f"/{name}/{method.name}" for method in described.methods]
    async with (
        serve(
            GrpcServerSettings(port=0),
            register=register,
            services=[name],
            verifier=verifier,
            required_scopes=dict.fromkeys(methods, "models:read"),
            callers={signer.service: [Grant(frozenset({"scheduler"}), frozenset({"models:read"}))]},
        ) as server,
        open_channel(
            GrpcClientSettings(address=f"127.0.0.1:{server.port}"),
            callee=verifier.service,
            signer=signer,
        ) as channel,
    ):
        yield RegistryModels(channel, Edge.to("model-registry"), timedelta(seconds=5))


async def test_a_version_is_asked_for_by_alias_or_number_in_the_callers_tenant(
    models: RegistryModels, registry: FakeRegistry
) -> None:
    with acting_as(DEPLOYER):
        assert await models.resolve(ModelReference("digits", alias="champion")) == a_pin()
        assert await models.resolve(ModelReference("digits", version=3)) == a_pin()
    assert registry.asked == [
        (ACME, model_service_pb2.GetVersionRequest(model_name="digits", alias="champion")),
        (ACME, model_service_pb2.GetVersionRequest(model_name="digits", version=3)),
    ]


async def test_an_unknown_model_is_not_found(models: RegistryModels) -> None:
    with acting_as(DEPLOYER), pytest.raises(NotFound):
        await models.resolve(ModelReference("other", version=1))


async def test_a_version_that_is_not_ready_is_not_served(
    models: RegistryModels, registry: FakeRegistry
) -> None:
    registry.is_ready = False
    with acting_as(DEPLOYER), pytest.raises(FailedPrecondition):
        await models.resolve(ModelReference("digits", version=3))
