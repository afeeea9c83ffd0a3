"""Field types that several nouns share, each with its bound.

A bound on what another service owns is that service's: `tests/contract/edge` compares the two.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, get_args

from fastapi import Header, Path
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.common.v1 import files_pb2, resources_pb2
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import to_jsonable_python

from services.chassis.amounts import size_in_words

Id = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
STORABLE: Final = r"^[^\x00]*$"
"""Text that a database takes: without NUL."""
QUEUE: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""A queue's name."""
ImageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-zA-Z0-9._/:@-]{0,254}$")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes the request repeatable for 24 hours.",
    ),
]


def _iso_8601(value: object) -> object:
    """Refuse what pydantic would guess: `5` as seconds, `1:00` as hours."""
    if isinstance(value, str) and not value.startswith("P"):
        raise ValueError("must be an ISO 8601 duration, such as PT5M")
    return value


def _rfc_3339(length: timedelta) -> str:
    """Return an ISO 8601 duration as JSON Schema's format has it: `PT1H0M13S`, not `PT1H13S`."""
    return _HOURS_WITHOUT_MINUTES.sub("H0M", to_jsonable_python(length))


_HOURS_WITHOUT_MINUTES: Final = re.compile(r"H(?=[0-9.]+S)")
Length = Annotated[
    timedelta,
    PlainSerializer(_rfc_3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "duration"}),
]
"""A duration in a body that is answered, too."""
IsoDuration = Annotated[timedelta, BeforeValidator(_iso_8601)]
"""A duration in a query."""
INTEGER_MAX = 2**53 - 1
"""The largest that every reader of JSON takes exactly (RFC 8259, section 6)."""
MEMORY_BYTES_MIN = 6 << 20
"""Docker's engine needs it for a container; the scheduler has the same for every runtime."""


def keys_as(pattern: str, *, length_max: int) -> dict[str, Any]:
    """Return the description of an object's keys.

    Pydantic writes a key's pattern as one that keys may have, not as one that they must have.
    """
    return {"propertyNames": {"minLength": 1, "maxLength": length_max, "pattern": pattern}}


class Body(BaseModel):
    """A request body or a part of one: what is not described is refused."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _as_described(cls, value: object, field: ValidationInfo) -> object:
        """Refuse what pydantic would guess: a number from a boolean, a duration's unit."""
        assert field.field_name is not None
        described = cls.model_fields[field.field_name].annotation
        if isinstance(value, bool) and described is not bool:
            raise ValueError("must not be a boolean")
        if isinstance(value, int | float) and _is_duration(described):
            raise ValueError("must be an ISO 8601 duration, such as PT5M")
        return value


def _is_duration(described: object) -> bool:
    """Tell whether a field is a timedelta, or one that may be absent."""
    if described is timedelta:
        return True
    return any(_is_duration(each) for each in get_args(described))


class Resources(Body):
    """What one attempt takes from its node."""

    cpu_millicores: int = Field(default=1000, ge=1, le=1_000_000)
    memory_bytes: int = Field(
        default=1 << 30,
        le=1 << 50,
        description="At least 6 MiB: no container starts with less.",
        json_schema_extra={"minimum": MEMORY_BYTES_MIN},
    )
    gpu_count: int = Field(default=0, ge=0, le=1024)

    @field_validator("memory_bytes")
    @classmethod
    def _starts_a_container(cls, value: int) -> int:
        """Refuse too little in words: a bound of the field would not say why."""
        if value < MEMORY_BYTES_MIN:
            raise ValueError(
                f"must be at least {size_in_words(MEMORY_BYTES_MIN)}: no container starts with less"
            )
        return value

    def to_pb(self) -> resources_pb2.Resources:
        """Return the protobuf form."""
        return resources_pb2.Resources(
            cpu_millicores=self.cpu_millicores,
            memory_bytes=self.memory_bytes,
            gpu_count=self.gpu_count,
        )

    @staticmethod
    def from_pb(resources: resources_pb2.Resources) -> "Resources":
        """Return the JSON form."""
        return Resources.model_construct(
            cpu_millicores=resources.cpu_millicores,
            memory_bytes=resources.memory_bytes,
            gpu_count=resources.gpu_count,
        )


class StoredFile(Body):
    """One file of an artifact: a relative path and its content by digest."""

    path: str = Field(min_length=1, max_length=512)
    size_bytes: int = Field(ge=0, le=INTEGER_MAX)
    digest: Digest

    def to_pb(self) -> files_pb2.FileEntry:
        """Return the protobuf form."""
        return files_pb2.FileEntry(path=self.path, size_bytes=self.size_bytes, digest=self.digest)

    @staticmethod
    def from_pb(file: files_pb2.FileEntry) -> "StoredFile":
        """Return the JSON form."""
        return StoredFile.model_construct(
            path=file.path, size_bytes=file.size_bytes, digest=file.digest
        )


def instant(value: Timestamp) -> datetime:
    """Return an aware time."""
    return value.ToDatetime(tzinfo=UTC)


def instant_if_set(value: Timestamp) -> datetime | None:
    """Return an aware time, or None for one that was not set."""
    return value.ToDatetime(tzinfo=UTC) if value.seconds or value.nanos else None


def duration_pb(value: timedelta) -> Duration:
    """Return the protobuf form of a duration."""
    duration = Duration()
    duration.FromTimedelta(value)
    return duration
