"""What is wrong with a field of a request, in words for people.

Pydantic's own words are for those who wrote the model: patterns, `constrained-str`, Python's types.
Owns: how a field is named to callers, whoever refused it: as a path from the request's body, such
as `outputs[0].path`; the words for each kind of error, and for each pattern that a field may have;
a test finds patterns without words. Where a validator of ours has said it, its words are the
answer.
"""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from services.chassis.amounts import duration_in_words, size_in_words
from services.chassis.errors import ModelyardError

_DURATION: Final = "must be an ISO 8601 duration, such as PT5M"
_TOO_LONG: Final = "is too long a time"
_BEYOND_DURATIONS: Final = frozenset(
    {"durations may not exceed 999,999,999 days", "a numeric value in the duration is too large"}
)
"""Pydantic's words for a duration that is one, and longer than it holds."""
_INTEGER: Final = "must be a whole number, such as 3"
_SHOWN_MAX: Final = 40
"""Characters of what was sent that an answer repeats."""

PATTERNS: Final[Mapping[str, str]] = {
    '^"[1-9][0-9]{0,14}"$': 'must be one version in quotes, such as "3"',
    r"^([0-9]{1,9}\.[0-9]{1,18})?$": "must be attempt.sequence, such as 1.42",
    r"^((in-force|ended)\.key_[0-9a-z]{26})?$": "must be the previous page's next_page_token",
    r"^([a-z][a-z0-9-]{0,39})?$": "must be the previous page's next_page_token",
    r"^(sha256:[0-9a-f]{64})?$": "must be sha256: and 64 of 0-9 and a-f, as of a stored artifact",
    r"^([A-Za-z0-9._-]{1,128})?$": "must be a model's name: 1 to 128 of letters, digits, '.', '_' "
    "and '-', such as digits",
    r"^[0-9]{1,18}$": "must be a version's number, such as 3",
    r"^[A-Za-z0-9._-]{1,128}$": "must be 1 to 128 of letters, digits, '.', '_' and '-', "
    "such as digits",
    r"^[A-Za-z0-9_-]{1,255}$": "must be 1 to 255 of letters, digits, '_' and '-', such as champion",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": "must be 1 to 64 of letters, digits, '.', '_' and '-', "
    "a letter or digit first, such as model",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "must be a variable's name: letters, digits and '_', no digit "
    "first, such as LEARNING_RATE",
    r"^[\x21-\x7e]+$": "must be printable ASCII characters without spaces, such as a UUID",
    r"^[^\x00]*$": "must not contain NUL",
    r"^[a-z0-9][a-z0-9-]{0,62}$": "must be a name of 1 to 63 of a-z, 0-9 and '-', a letter or "
    "digit first, such as nightly",
    r"^[a-z0-9][a-z0-9._/-]{0,62}$": "must be a label's name: 1 to 63 of a-z, 0-9, '.', '_', '/' "
    "and '-', a letter or digit first, such as team",
    r"^[a-z0-9][a-z0-9._/-]{0,62}=.{0,256}$": "must be name=value, a label's name and at most 256 "
    "characters, such as team=vision",
    r"^[a-z0-9][a-zA-Z0-9._/:@-]{0,254}$": "must be an image's name: 1 to 255 of letters, digits, "
    "'.', '_', '/', ':', '@' and '-', such as modelyard/train-sklearn",
    r"^[a-z0-9_-]{1,64}$": "must be an id or a name: 1 to 64 of a-z, 0-9, '_' and '-', "
    "such as digits",
    r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$": "must be 1 to 63 of a-z, 0-9 and '-', a letter first "
    "and no '-' last, such as digits",
    r"^[a-z][a-z0-9-]{0,39}$": "must be 1 to 40 of a-z, 0-9 and '-', a letter first, such as acme",
    r"^models:/[A-Za-z0-9._-]{1,128}(@[A-Za-z0-9_-]{1,255}|/[1-9][0-9]{0,17})$": "must be "
    "models:/name@alias or models:/name/version, such as models:/digits@champion",
    r"^sha256:[0-9a-f]{64}$": "must be sha256: and 64 of 0-9 and a-f, as of a stored artifact",
}
_ANY_PATTERN: Final = "has characters that can't be there"

_PLAIN: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "is no field of this request",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_from_float": _INTEGER,
    "int_parsing_size": "must be a smaller number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "time_delta_type": _DURATION,
    "json_invalid": "must be JSON",
}
_WITH_FIGURES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "greater_than": lambda c: f"must be more than {c['gt']}",
    "greater_than_equal": lambda c: f"must be at least {c['ge']}",
    "less_than": lambda c: f"must be less than {c['lt']}",
    "less_than_equal": lambda c: f"must be at most {c['le']}",
    "string_too_short": lambda c: f"must have at least {_count(c['min_length'], 'character')}",
    "string_too_long": lambda c: f"must have at most {_count(c['max_length'], 'character')}",
    "too_short": lambda c: f"must have at least {_count(c['min_length'], 'entry')}",
    "too_long": lambda c: f"must have at most {_count(c['max_length'], 'entry')}",
    "literal_error": lambda c: f"must be {c['expected'].replace(chr(39), '')}",
    "enum": lambda c: f"must be {c['expected'].replace(chr(39), '')}",
    "time_delta_parsing": lambda c: _TOO_LONG if c["error"] in _BEYOND_DURATIONS else _DURATION,
    "string_pattern_mismatch": lambda c: PATTERNS.get(c["pattern"], _ANY_PATTERN),
}
_OWNERS_MESSAGE: Final = re.compile(r"^(spec|page|filter|header)\.")
_OTHERWISE_NAMED: Final = {"task_count": "tasks"}
"""Fields of owners' messages that requests name in another way."""
_SHORT_UNITS: Final = {"second": "s", "minute": "min", "hour": "h"}
_LONG_UNITS: Final = re.compile(r" (second|minute|hour)s?\b")
_PYTHONS_DURATION: Final = re.compile(
    r"datetime\.timedelta\((?:0|(?:days=(\d+))?(?:, )?(?:seconds=(\d+))?)\)"
)
"""What pydantic tells as a bound where a parameter of the query is a duration."""
_BOUNDS: Final = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})


def problem_in_words(found: Mapping[str, Any]) -> str:
    """Return what is wrong with a field: what is allowed, and where a bound is passed, the figure.

    `found` is one of pydantic's errors.
    """
    kind, context = found["type"], found.get("ctx", {})
    if kind == "value_error":  # its `msg` puts "Value error, " before them
        return str(context["error"])
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind not in _WITH_FIGURES:
        return str(found["msg"])
    if kind not in _BOUNDS:
        return _WITH_FIGURES[kind](context)
    is_size = "_bytes" in str(found["loc"][-1])
    bounds = {name: _amount(bound, is_size=is_size) for name, bound in context.items()}
    asked = _amount(found.get("input"), is_size=is_size)[:_SHOWN_MAX]
    return f"{_WITH_FIGURES[kind](bounds)}; {asked} was asked for"


def field_in_words(kind: str, location: tuple[int | str, ...]) -> str:
    """Return `outputs[0].path` for ("body", "outputs", 0, "path").

    Of what is no JSON the location is a position in the text, which is no field: it is `body`.
    Of a wrong key of an object it is the object's entry.
    """
    if kind == "json_invalid":
        return "body"
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:]]
    return "".join(parts).replace(".[key]", "").removeprefix(".") or str(location[0])


def in_request_words(error: ModelyardError) -> ModelyardError:
    """Return what an owner says of `spec.outputs[0].path` as it is said of `outputs[0].path`.

    Owners hold in messages of their own what is a body or a query here.
    """
    told = error.detail.get("field", "")
    field = _OWNERS_MESSAGE.sub("", told)
    if field == told:
        return error
    field = _OTHERWISE_NAMED.get(field, field)
    said = error.message.removeprefix(f"{told}: ")
    message = error.message if said == error.message else f"{field}: {said}"
    detail = {**error.detail, "field": field}
    return type(error).worded(message, detail=detail, retry_after=error.retry_after)


def _amount(told: object, *, is_size: bool) -> str:
    """Return a bound or what was sent, with its unit where it has one."""
    match told:
        case timedelta():
            return duration_in_words(told)
        case int() if is_size:
            return size_in_words(told)
        case str() if (bound := _PYTHONS_DURATION.fullmatch(told)) is not None:
            days, seconds = (int(each or 0) for each in bound.groups())
            return duration_in_words(timedelta(days=days, seconds=seconds))
        case str():  # pydantic's words for a bound on a duration
            return _LONG_UNITS.sub(lambda found: f" {_SHORT_UNITS[found[1]]}", told)
        case _:
            return str(told)


def _count(count: int, what: str) -> str:
    many = "entries" if what == "entry" else f"{what}s"
    return f"{count} {what if count == 1 else many}"
