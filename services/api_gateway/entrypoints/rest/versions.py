"""Versions of what is shown and changed, as entity tags (RFC 9110, sections 8.8.3 and 13.1.1).

Owns: how a version is written in `ETag` and read from `If-Match` (ADR-0028). A tag is the version
in quotes, so that whoever has it from a list needs no header. Leaves to whoever owns the thing what
a stale one means.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Response

_TAG: Final = r'^"[1-9][0-9]{0,14}"$'
"""Fifteen digits: every reader of JSON takes them exactly."""

TAGGED: Final[Mapping[str, Any]] = {
    "headers": {
        "ETag": {
            "required": True,
            "schema": {"type": "string", "pattern": _TAG},
            "description": "The `version` in quotes, an alias' revision, for `If-Match`.",
        }
    }
}
"""What a description says of an answer that `tag` was called for."""


def tag(response: Response, version: int) -> None:
    """Say in an answer's header at which version the thing is that it shows."""
    response.headers["ETag"] = f'"{version}"'


def _if_version(
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match",
            pattern=_TAG,
            description="The change is for this version alone: one `ETag`, or a `version`, of an"
            " alias its revision, in quotes. If there is another by now, nothing is changed: 412"
            " `VERSION_MISMATCH`. What is as it would be changed to already is answered as without"
            " this header.",
        ),
    ] = None,
) -> int | None:
    """Return the version that a change is for; None: for whatever there is."""
    return None if if_match is None else int(if_match.strip('"'))


IfVersion = Annotated[int | None, Depends(_if_version)]
