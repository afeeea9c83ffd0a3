"""Which model a deployment serves.

Owns: reading `models:/name@alias` and `models:/name/version`. The registry resolves the name.
"""

import re
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.files import FileEntry

_REFERENCE: Final = re.compile(
    r"models:/(?P<name>[A-Za-z0-9_.-]{1,128})"
    r"(?:@(?P<alias>[A-Za-z0-9_-]{1,255})|/(?P<version>[1-9][0-9]{0,17}))"
)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model's version by number, or by an alias that may point elsewhere tomorrow."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str, *, field: str) -> "ModelReference":
        """Return what the text names; raises InvalidArgument."""
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise InvalidArgument(
                field, "must be models:/<name>@<alias> or models:/<name>/<version>"
            )
        version = found["version"]
        return cls(found["name"], int(version) if version else None, found["alias"])


@dataclass(frozen=True, slots=True)
class ModelPin:
    """The version that was resolved, with its bytes; it never changes afterwards."""

    model_name: str
    version: int
    files: tuple[FileEntry, ...]
