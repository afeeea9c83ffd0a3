"""Refuses what a reader would pass over in silence: whoever sent it would take it for understood.

Owns: that a query has no parameter that its route does not declare, and none twice of which the
last would count; that a route without a body gets none; that a body says that it is JSON, and no
object of it has a key twice. Fields that a body does not have are `fields.Body`'s. Routes that
follow another's protocol, and those for probes, take what they get.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_origin

from fastapi import Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from typing_extensions import override

from services.chassis.errors import InvalidArgument

_SHOWN_MAX: Final = 64
"""Characters of a name that an answer repeats."""
_ANOTHER_JSON: Final = re.compile(r"application/[^/]+\+json")
_TWICE: Final = "is given twice"
_NONE_TAKEN: Final = "this request takes none"
_NOTHING: Final = frozenset({b"", b"{}"})
"""Bodies that ask for nothing; some clients send the second with every POST."""
_NOTHING_BYTES_MAX: Final = 16
"""With white space around it; what is longer asks for something, and is not read to its end."""


class StrictRequest(Request):
    """A request whose JSON names nothing twice."""

    @override
    async def json(self) -> Any:
        """Return the body, read once; raises HTTPException for a key that comes again."""
        body = await self.body()
        return _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))


def parameters_of(dependant: Dependant) -> Mapping[str, bool]:
    """Return the names that a route's query may have, and whether one may come more than once."""
    return dict(_parameters(dependant))


def check_query(request: Request, known: Mapping[str, bool]) -> None:
    """Raise InvalidArgument for the first parameter that is not known, or comes once too often."""
    if not request.scope["query_string"]:
        return
    given = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise InvalidArgument(name[:_SHOWN_MAX], "is no parameter of this request")
        if name in given and not known[name]:
            raise InvalidArgument(name, _TWICE)
        given.add(name)


async def check_no_body(request: Request) -> None:
    """Raise InvalidArgument for a body that asks for anything, having read its first bytes."""
    if not _announces_body(request):
        return
    received, is_coming = b"", True
    while is_coming and len(received) <= _NOTHING_BYTES_MAX:
        message = await request.receive()
        if message["type"] == "http.disconnect":  # what the rest asked for is not known
            break
        received += message.get("body", b"")
        is_coming = message.get("more_body", False)
    if is_coming or received.strip() not in _NOTHING:
        raise InvalidArgument("body", _NONE_TAKEN)


def check_is_json(request: Request) -> None:
    """Raise InvalidArgument for a body that is said to be no JSON, such as curl's of a form."""
    if not _announces_body(request):
        return
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not _ANOTHER_JSON.fullmatch(media_type):
        raise InvalidArgument("content-type", "must be application/json")


def _announces_body(request: Request) -> bool:
    """Tell whether one comes: without either header none does (RFC 9112, section 6.3)."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in request.scope["headers"]
    )


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    for field in dependant.query_params:
        described = field.field_info.annotation
        if isinstance(described, type) and issubclass(described, BaseModel):
            for name, inner_field in described.model_fields.items():
                yield name, get_origin(inner_field.annotation) is list
        else:
            yield field.alias, get_origin(described) is list
    for inner in dependant.dependencies:
        yield from _parameters(inner)


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        # FastAPI lets this one pass while it reads a body; others it would turn into a 400.
        raise HTTPException(422, f"has the key {twice[:_SHOWN_MAX]!r} twice")
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_each_once)
"""As `json.loads` reads bytes, which would make one for each body."""
