"""`ModelService`: models, versions, aliases and tags."""

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from modelyard.registry.v1 import model_service_pb2 as pb
from modelyard.registry.v1.model_service_pb2_grpc import ModelServiceServicer
from typing_extensions import override

from services.chassis.db.idempotency import request_hash
from services.chassis.errors import InvalidArgument
from services.chassis.rpc.context import Context, idempotency_key, principal
from services.model_registry.domain.version import NewVersion
from services.model_registry.entrypoints.grpc.paging import (
    key_of,
    number_of,
    page_to_pb,
    size_of,
)
from services.model_registry.entrypoints.protobuf import (
    manifest_from_pb,
    model_to_pb,
    version_to_pb,
)
from services.model_registry.use_cases.create_model import CreateModel
from services.model_registry.use_cases.create_version import CreateVersion
from services.model_registry.use_cases.delete_alias import DeleteAlias
from services.model_registry.use_cases.get_model import GetModel
from services.model_registry.use_cases.get_version import GetVersion
from services.model_registry.use_cases.list_models import ListModels
from services.model_registry.use_cases.list_versions import ListVersions
from services.model_registry.use_cases.ports import Once
from services.model_registry.use_cases.set_alias import SetAlias
from services.model_registry.use_cases.set_model_tags import SetModelTags

SERVICE: Final = pb.DESCRIPTOR.services_by_name["ModelService"].full_name

SCOPES: Final = {
    f"/{SERVICE}/CreateModel": "models:write",
    f"/{SERVICE}/GetModel": "models:read",
    f"/{SERVICE}/ListModels": "models:read",
    f"/{SERVICE}/CreateVersion": "models:write",
    f"/{SERVICE}/GetVersion": "models:read",
    f"/{SERVICE}/ListVersions": "models:read",
    f"/{SERVICE}/SetAlias": "models:write",
    f"/{SERVICE}/DeleteAlias": "models:write",
    f"/{SERVICE}/SetModelTags": "models:write",
}


@dataclass(frozen=True)
class ModelServicer(ModelServiceServicer):
    """Translates, calls one use case, translates."""

    create_model: CreateModel
    get_model: GetModel
    list_models: ListModels
    create_version: CreateVersion
    get_version: GetVersion
    list_versions: ListVersions
    set_alias: SetAlias
    delete_alias: DeleteAlias
    set_model_tags: SetModelTags

    @override
    async def CreateModel(
        self, request: pb.CreateModelRequest, context: Context
    ) -> pb.CreateModelResponse:
        """Make a model without versions."""
        model = await self.create_model(
            principal().tenant,
            name=request.name,
            description=request.description,
            tags=request.tags,
            once=_once("CreateModel", request, context),
        )
        return pb.CreateModelResponse(model=model_to_pb(model))

    @override
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Show one model by name."""
        model = await self.get_model(principal().tenant, request.name)
        return pb.GetModelResponse(model=model_to_pb(model))

    @override
    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """Show the tenant's models by name."""
        page = await self.list_models(
            principal().tenant, after=key_of(request.page), size=size_of(request.page)
        )
        return pb.ListModelsResponse(
            models=[model_to_pb(model) for model in page.items],
            page=page_to_pb(page.items[-1].name if page.has_more else None),
        )

    @override
    async def CreateVersion(
        self, request: pb.CreateVersionRequest, context: Context
    ) -> pb.CreateVersionResponse:
        """Make a version from stored files."""
        content = NewVersion.checked(manifest_from_pb(request.files), tags=request.tags)
        model, version = await self.create_version(
            principal().tenant,
            model_name=request.model_name,
            content=content,
            once=_once("CreateVersion", request, context),
        )
        return pb.CreateVersionResponse(version=version_to_pb(model, version))

    @override
    async def GetVersion(
        self, request: pb.GetVersionRequest, context: Context
    ) -> pb.GetVersionResponse:
        """Resolve a version by number or alias."""
        model, version = await self.get_version(
            principal().tenant, model_name=request.model_name, selector=_selector(request)
        )
        return pb.GetVersionResponse(
            version=version_to_pb(model, version),
            alias_revision=model.alias_revisions.get(request.alias, 0),
        )

    @override
    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        """Show a model's versions, newest first."""
        model, page = await self.list_versions(
            principal().tenant,
            model_name=request.model_name,
            before=number_of(request.page),
            size=size_of(request.page),
        )
        return pb.ListVersionsResponse(
            versions=[version_to_pb(model, version) for version in page.items],
            page=page_to_pb(page.items[-1].number if page.has_more else None),
        )

    @override
    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Point an alias at a version."""
        model = await self.set_alias(
            principal().tenant,
            model_name=request.model_name,
            alias=request.alias,
            version=request.version,
            if_revision=request.if_revision or None,
        )
        return pb.SetAliasResponse(model=model_to_pb(model))

    @override
    async def DeleteAlias(
        self, request: pb.DeleteAliasRequest, context: Context
    ) -> pb.DeleteAliasResponse:
        """Remove an alias."""
        model = await self.delete_alias(
            principal().tenant,
            model_name=request.model_name,
            alias=request.alias,
            if_revision=request.if_revision or None,
        )
        return pb.DeleteAliasResponse(model=model_to_pb(model))

    @override
    async def SetModelTags(
        self, request: pb.SetModelTagsRequest, context: Context
    ) -> pb.SetModelTagsResponse:
        """Replace a model's tags."""
        model = await self.set_model_tags(
            principal().tenant, model_name=request.model_name, tags=request.tags
        )
        return pb.SetModelTagsResponse(model=model_to_pb(model))


def _selector(request: pb.GetVersionRequest) -> int | str:
    match request.WhichOneof("selector"):
        case "version":
            return request.version
        case "alias":
            return request.alias
        case _:
            raise InvalidArgument("selector", "version or alias is required")


def _once(method: str, request: Message, context: Context) -> Once | None:
    if (key := idempotency_key(context)) is None:
        return None
    return Once(method, key, request_hash(request.SerializeToString(deterministic=True)))
