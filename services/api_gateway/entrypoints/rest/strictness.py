"""Refuses what a reader would pass over in silence: whoever sent it would take it for understood.

Owns: that a query has no parameter that its route does not declare, and none twice of which the
last would count; that a route without a body gets none; that a body says that it is JSON, and no
object of it has a key twice. Fields that a body does not have are `fields.Body`'s. Routes that
follow another's protocol, and those for probes, take what they get.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_origin

from fastapi import Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from typing_extensions import override

from services.api_gateway.entrypoints.rest.words import field_in_words
from services.chassis.errors import InvalidArgument

_SHOWN_MAX: Final = 64
"""Characters of a name that an answer repeats."""
_PATH_SHOWN_MAX: Final = 256
"""Characters of a path in a body that an answer repeats."""
_DIGITS_MAX: Final = sys.int_info.default_max_str_digits
_NO_TEXT: Final = "must be text"
_ANOTHER_JSON: Final = re.compile(r"application/[^/]+\+json")
_TWICE: Final = "is given twice"
_NONE_TAKEN: Final = "this request takes none"
_NOTHING: Final = frozenset({b"", b"{}"})
"""Bodies that ask for nothing; some clients send the second with every POST."""
_NOTHING_BYTES_MAX: Final = 16
"""With white space around it; what is longer asks for something, and is not read to its end."""


class UnreadableBody(HTTPException):
    """What is wrong with a body that no route gets to see.

    FastAPI lets this one pass while it reads a body; others it would turn into a 400.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(422, problem)
        self.refusal = InvalidArgument(field, problem)


class StrictRequest(Request):
    """A request whose JSON names nothing twice, and whose text can be passed on."""

    @override
    async def json(self) -> Any:
        """Return the body, read once; raises UnreadableBody, JSONDecodeError for what is none."""
        body = await self.body()
        try:
            return _read(body.decode(json.detect_encoding(body)))
        except json.JSONDecodeError:
            raise
        except UnicodeDecodeError:
            raise UnreadableBody("body", "must be JSON in UTF-8") from None
        except RecursionError:
            raise UnreadableBody("body", "must be JSON; this is nested too deeply") from None
        except ValueError:  # the only other one: Python reads no more than so many digits
            raise UnreadableBody(
                "body", f"must be JSON with numbers of at most {_DIGITS_MAX} digits"
            ) from None


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


class _KeyTwice(Exception):
    """An object has a key twice; where it is takes another look."""


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written."""


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _KeyTwice
    return found


def _read(text: str) -> Any:
    """Return what a text says, or raise UnreadableBody for the field that can't be taken."""
    try:
        found = _DECODER.decode(text)
        if _SURROGATE.search(text):  # most are one half of two
            json.dumps(found, ensure_ascii=False).encode()
    except (_KeyTwice, UnicodeEncodeError):
        wrong = _found_wrong(_PAIRS_DECODER.decode(text))
        assert wrong is not None, "refused for nothing"
        location, problem = wrong
        path = field_in_words("value_error", ("body", *location))
        raise UnreadableBody(path[:_PATH_SHOWN_MAX], problem) from None
    return found


def _found_wrong(found: object) -> tuple[tuple[str | int, ...], str] | None:
    """Return where the first key comes twice or text is none, and which of them it is."""
    if isinstance(found, str):
        return None if _is_text(found) else ((), _NO_TEXT)
    if not isinstance(found, list):
        return None
    seen = set()
    for place, entry in enumerate(found):
        name, value = entry if isinstance(found, _Pairs) else (place, entry)
        if isinstance(name, str) and not _is_text(name):
            return (name.encode("ascii", "backslashreplace").decode(),), _NO_TEXT
        if name in seen:
            return (name,), _TWICE
        seen.add(name)
        if inner := _found_wrong(value):
            return (name, *inner[0]), inner[1]
    return None


def _is_text(told: str) -> bool:
    try:
        told.encode()
    except UnicodeEncodeError:
        return False
    return True


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_each_once)
"""As `json.loads` reads bytes, which would make one for each body."""
_PAIRS_DECODER: Final = json.JSONDecoder(object_pairs_hook=_Pairs)
"""For a second look at what the first one refuses."""
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a character, as JSON escapes it: alone it is no text."""
