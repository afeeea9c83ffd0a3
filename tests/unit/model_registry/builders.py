"""Values for the registry's tests; each argument has a default that suits."""

import hashlib
from datetime import UTC, datetime

from services.model_registry.domain.artifact import Artifact, Digest, FileEntry, Manifest
from services.model_registry.domain.model import Model
from services.model_registry.domain.version import ModelVersion, NewVersion

NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)


def digest_of(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def an_artifact(data: bytes = b"weights") -> Artifact:
    return Artifact(digest_of(data), len(data))


def a_manifest(*paths: str, data: bytes = b"weights") -> Manifest:
    return Manifest.checked(FileEntry(path, an_artifact(data)) for path in paths or ("model.bin",))


def a_model(name: str = "digits") -> Model:
    model, _ = Model.create("mdl_1", name=name, at=NOW)
    return model


def with_version(model: Model, *, problem: str | None = None) -> tuple[Model, ModelVersion]:
    model, version, _ = model.add_version(NewVersion(a_manifest()), problem=problem, at=NOW)
    return model, version
