"""Domain values <-> `modelyard.registry.v1`, for RPCs and for events alike.

Owns: the only place where both are known; what is unspecified or malformed is refused here.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.common.v1.files_pb2 import FileEntry as FileEntryPb
from modelyard.registry.v1 import model_events_pb2, model_pb2

from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.model_registry.domain.artifact import (
    Artifact,
    FileEntry,
    Manifest,
    checked_digest,
)
from services.model_registry.domain.model import Model, ModelChanged
from services.model_registry.domain.version import ModelVersion, VersionState

TOPIC: Final = "modelyard.model.lifecycle.v1"

_STATES: Final = {
    VersionState.PREPARING: model_pb2.VERSION_STATE_PREPARING,
    VersionState.READY: model_pb2.VERSION_STATE_READY,
    VersionState.FAILED: model_pb2.VERSION_STATE_FAILED,
    VersionState.DELETED: model_pb2.VERSION_STATE_DELETED,
}


def manifest_from_pb(files: Iterable[FileEntryPb]) -> Manifest:
    """Return a checked manifest. Raises InvalidArgument."""
    return Manifest.checked(
        FileEntry(
            file.path,
            Artifact(checked_digest(file.digest, field=f"files[{place}].digest"), file.size_bytes),
        )
        for place, file in enumerate(files)
    )


def model_to_pb(model: Model) -> model_pb2.Model:
    """Return a model's message."""
    return model_pb2.Model(
        id=model.id,
        name=model.name,
        description=model.description,
        tags=model.tags,
        aliases=[
            model_pb2.Alias(name=name, version=number, revision=model.alias_revisions[name])
            for name, number in sorted(model.aliases.items())
        ],
        newest_version=model.newest_version,
        created_at=_timestamp(model.created_at),
    )


def version_to_pb(model: Model, version: ModelVersion) -> model_pb2.ModelVersion:
    """Return the message of a version of this model."""
    content = version.content
    message = model_pb2.ModelVersion(
        model_name=model.name,
        version=version.number,
        state=_STATES[version.state],
        state_reason=version.reason,
        files=[
            FileEntryPb(
                path=file.path,
                size_bytes=file.artifact.size_bytes,
                digest=file.artifact.digest,
            )
            for file in content.manifest.files
        ],
        tags=content.tags,
        metrics=content.metrics,
        aliases=model.aliases_of(version.number),
        created_at=_timestamp(version.created_at),
    )
    if (lineage := content.lineage) is not None:
        message.job_id = lineage.job_id
        message.output_name = lineage.output_name
        message.source_digest = lineage.source_digest or ""
    return message


def event_of(tenant: TenantId, fact: ModelChanged) -> NewEvent:
    """Return the event that tells others of a fact; its trace is that of the span it is made in."""
    model = fact.model
    message = model_events_pb2.ModelChanged(
        model_id=model.id,
        tenant=tenant,
        name=model.name,
        revision=model.revision,
        at=_timestamp(fact.at),
        version=None if fact.version is None else version_to_pb(model, fact.version),
        alias=(
            None
            if fact.alias is None
            else model_pb2.Alias(
                name=fact.alias.name, version=fact.alias.version, revision=model.revision
            )
        ),
    )
    return NewEvent(
        topic=TOPIC,
        key=model.id,
        type=f"modelyard.model.{fact.change}.v1",
        subject=model.id,
        tenant=tenant,
        data=message.SerializeToString(),
        dataschema=message.DESCRIPTOR.full_name,
    )


def _timestamp(at: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp
