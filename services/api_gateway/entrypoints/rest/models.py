"""`/v1/models`: models, their versions, aliases and tags."""

from datetime import datetime
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Path, Request, Response
from modelyard.registry.v1 import model_pb2 as pb
from modelyard.registry.v1 import model_service_pb2 as service_pb
from pydantic import BaseModel, Field

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import (
    INTEGER_MAX,
    STORABLE,
    Body,
    IdempotencyKey,
    StoredFile,
    instant,
    keys_as,
)
from services.api_gateway.entrypoints.rest.paging import PageSize, PageToken, page_request
from services.api_gateway.entrypoints.rest.versions import TAGGED, IfVersion, tag

ModelName = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
AliasName = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,255}$")]
NewAliasName = Annotated[
    str,
    # Described narrower than it is checked here: the registry says better what is wrong.
    Path(
        pattern=r"^[A-Za-z0-9_-]{1,255}$",
        json_schema_extra={"pattern": r"^[0-9]*[A-Za-z_-][A-Za-z0-9_-]*$", "maxLength": 255},
    ),
]
Tagged = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=250, pattern=STORABLE)],
        Annotated[str, Field(max_length=100_000, pattern=STORABLE)],
    ],
    Field(
        max_length=100,
        description="128 KiB together at most.",
        json_schema_extra=keys_as(STORABLE, length_max=250),
    ),
]
VersionNumber = Annotated[int, Path(ge=1, le=INTEGER_MAX)]
VersionState = Literal["PREPARING", "READY", "FAILED", "DELETED"]


class NewModel(Body):
    """A model without versions."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")
    description: str = Field(default="", max_length=5000, pattern=STORABLE)
    tags: Tagged = Field(default_factory=dict)


class NewVersion(Body):
    """The stored files of a new version."""

    files: list[StoredFile] = Field(min_length=1, max_length=1000)
    tags: Tagged = Field(default_factory=dict)


class AliasTarget(Body):
    """The version that an alias points at."""

    version: int = Field(ge=1, le=INTEGER_MAX)


class Tags(Body):
    """All tags of a model."""

    tags: Tagged


class Model(BaseModel):
    """A named line of versions."""

    id: str
    name: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, int]
    alias_revisions: dict[str, int] = Field(
        description="Of each alias: larger with each move, and never there again."
    )
    newest_version: int
    created_at: datetime

    @staticmethod
    def from_pb(model: pb.Model) -> "Model":
        """Return the JSON form."""
        return Model(
            id=model.id,
            name=model.name,
            description=model.description,
            tags=dict(model.tags),
            aliases={alias.name: alias.version for alias in model.aliases},
            alias_revisions={alias.name: alias.revision for alias in model.aliases},
            newest_version=model.newest_version,
            created_at=instant(model.created_at),
        )


class ModelVersion(BaseModel):
    """An immutable version with its files and lineage."""

    model_name: str
    version: int
    state: VersionState
    files: list[StoredFile]
    tags: dict[str, str]
    metrics: dict[str, float]
    job_id: str
    output_name: str
    source_digest: str
    aliases: list[str]
    created_at: datetime

    @staticmethod
    def from_pb(version: pb.ModelVersion) -> "ModelVersion":
        """Return the JSON form."""
        return ModelVersion.model_construct(
            model_name=version.model_name,
            version=version.version,
            state=cast(
                "VersionState",
                pb.VersionState.Name(version.state).removeprefix("VERSION_STATE_"),
            ),
            files=[StoredFile.from_pb(file) for file in version.files],
            tags=dict(version.tags),
            metrics=dict(version.metrics),
            job_id=version.job_id,
            output_name=version.output_name,
            source_digest=version.source_digest,
            aliases=list(version.aliases),
            created_at=instant(version.created_at),
        )


class ModelPage(BaseModel):
    """One page of models, by name."""

    models: list[Model]
    next_page_token: str


class VersionPage(BaseModel):
    """One page of versions, newest first."""

    versions: list[ModelVersion]
    next_page_token: str


def models_router(edge: Gateway) -> APIRouter:  # noqa: C901 one closure a route
    """Return the routes on models."""
    router = noun_router("/v1/models", tag="models")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.post("", status_code=201, response_model=Model, dependencies=[needs("models:write")])
    @burst
    async def create_model(
        request: Request, body: NewModel, idempotency_key: IdempotencyKey = None
    ) -> Model:
        """Make a model."""
        answer = await gateway(request).models.create(
            service_pb.CreateModelRequest(
                name=body.name, description=body.description, tags=body.tags
            ),
            key=idempotency_key,
        )
        return Model.from_pb(answer.model)

    @router.get("", response_model=ModelPage, dependencies=[needs("models:read")])
    @burst
    async def list_models(
        request: Request, page_size: PageSize = 50, page_token: PageToken = ""
    ) -> ModelPage:
        """Show the tenant's models."""
        answer = await gateway(request).models.list(
            service_pb.ListModelsRequest(page=page_request(page_size, page_token))
        )
        return ModelPage(
            models=[Model.from_pb(model) for model in answer.models],
            next_page_token=answer.page.next_page_token,
        )

    @router.get("/{name}", response_model=Model, dependencies=[needs("models:read")])
    @burst
    async def get_model(request: Request, name: ModelName) -> Model:
        """Show one model."""
        answer = await gateway(request).models.get(service_pb.GetModelRequest(name=name))
        return Model.from_pb(answer.model)

    @router.put("/{name}/tags", response_model=Model, dependencies=[needs("models:write")])
    @burst
    async def set_tags(request: Request, name: ModelName, body: Tags) -> Model:
        """Replace all tags."""
        answer = await gateway(request).models.set_tags(
            service_pb.SetModelTagsRequest(model_name=name, tags=body.tags)
        )
        return Model.from_pb(answer.model)

    @router.post(
        "/{name}/versions",
        status_code=201,
        response_model=ModelVersion,
        dependencies=[needs("models:write")],
    )
    @burst
    async def create_version(
        request: Request, name: ModelName, body: NewVersion, idempotency_key: IdempotencyKey = None
    ) -> ModelVersion:
        """Make a version from files that were stored before."""
        answer = await gateway(request).models.create_version(
            service_pb.CreateVersionRequest(
                model_name=name, files=[file.to_pb() for file in body.files], tags=body.tags
            ),
            key=idempotency_key,
        )
        return ModelVersion.from_pb(answer.version)

    @router.get("/{name}/versions", response_model=VersionPage, dependencies=[needs("models:read")])
    @burst
    async def list_versions(
        request: Request, name: ModelName, page_size: PageSize = 50, page_token: PageToken = ""
    ) -> VersionPage:
        """Show a model's versions."""
        answer = await gateway(request).models.list_versions(
            service_pb.ListVersionsRequest(
                model_name=name, page=page_request(page_size, page_token)
            )
        )
        return VersionPage(
            versions=[ModelVersion.from_pb(version) for version in answer.versions],
            next_page_token=answer.page.next_page_token,
        )

    @router.get(
        "/{name}/versions/{version}",
        response_model=ModelVersion,
        dependencies=[needs("models:read")],
    )
    @burst
    async def get_version(
        request: Request, name: ModelName, version: VersionNumber
    ) -> ModelVersion:
        """Show one version."""
        answer = await gateway(request).models.get_version(
            service_pb.GetVersionRequest(model_name=name, version=version)
        )
        return ModelVersion.from_pb(answer.version)

    @router.get(
        "/{name}/aliases/{alias}",
        response_model=ModelVersion,
        dependencies=[needs("models:read")],
        responses={200: {**TAGGED}},
    )
    @burst
    async def resolve_alias(
        request: Request, response: Response, name: ModelName, alias: AliasName
    ) -> ModelVersion:
        """Show the version that an alias points at."""
        answer = await gateway(request).models.get_version(
            service_pb.GetVersionRequest(model_name=name, alias=alias)
        )
        tag(response, answer.alias_revision)
        return ModelVersion.from_pb(answer.version)

    @router.put(
        "/{name}/aliases/{alias}",
        response_model=Model,
        dependencies=[needs("models:write")],
        responses={200: {**TAGGED}},
    )
    @burst
    async def set_alias(
        request: Request,
        response: Response,
        name: ModelName,
        alias: NewAliasName,
        *,
        body: AliasTarget,
        if_revision: IfVersion,
    ) -> Model:
        """Point an alias at a version."""
        answer = await gateway(request).models.set_alias(
            service_pb.SetAliasRequest(
                model_name=name, alias=alias, version=body.version, if_revision=if_revision or 0
            )
        )
        shown = Model.from_pb(answer.model)
        tag(response, shown.alias_revisions[alias])
        return shown

    @router.delete(
        "/{name}/aliases/{alias}", response_model=Model, dependencies=[needs("models:write")]
    )
    @burst
    async def delete_alias(
        request: Request, name: ModelName, alias: AliasName, if_revision: IfVersion
    ) -> Model:
        """Remove an alias."""
        answer = await gateway(request).models.delete_alias(
            service_pb.DeleteAliasRequest(
                model_name=name, alias=alias, if_revision=if_revision or 0
            )
        )
        return Model.from_pb(answer.model)

    return router
