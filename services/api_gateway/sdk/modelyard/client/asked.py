"""What is asked of the platform, and what it answers, told apart by what neither describes.

Always holds: a request is refused before it is sent where it has fields that it does not describe,
or a boolean for a number, in the words of the platform's own refusal; an answer's fields that are
newer than this client are passed over, also where the answer repeats what was asked.
"""

from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

_UNKNOWN: Final = "extra_forbidden"
_DURATION: Final = "must be an ISO 8601 duration, such as PT5M"
_INTEGER: Final = "must be a whole number, such as 3"
_IN_WORDS: Final[Mapping[str, str]] = {
    _UNKNOWN: "is no field of this request",
    "missing": "is missing",
    "string_type": "must be text",
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_from_float": _INTEGER,
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "time_delta_type": _DURATION,
    "time_delta_parsing": _DURATION,
}
"""As the gateway has them; pydantic's own words are for those who wrote the model."""


class Value(BaseModel):
    """What the API takes or gives."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def answered(cls, answer: object) -> Self:
        """Return what an answer says."""
        return cls.model_validate(answer, extra="ignore")


class Asked(Value):
    """A request's body or a part of one; raises ValidationError that names each wrong field."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, given: object, read: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return read(given)
        except ValidationError as error:
            found = [_worded(each, cls) for each in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, found) from None


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("boolean", "must not be a boolean")
    return value


Integer = Annotated[int, BeforeValidator(_no_boolean)]
"""A whole number of a request: Python and pydantic would take True for 1."""
Length = Annotated[timedelta, BeforeValidator(_no_boolean)]
"""A duration of a request: pydantic would take True for a second."""


def _worded(found: Mapping[str, Any], asked: type[Asked]) -> InitErrorDetails:
    """Return an error in our words; as one of our own kinds, for pydantic's have its words."""
    kind, location = found["type"], found["loc"]
    said = _IN_WORDS.get(kind, found["msg"])
    if kind == _UNKNOWN:  # below a part of the request that part has told it
        said = found["msg"] if len(location) > 1 else _unknown(location[0], asked)
    return InitErrorDetails(
        type=PydanticCustomError(kind, said), loc=location, input=found["input"]
    )


def _unknown(name: str, asked: type[Asked]) -> str:
    """Return that there is no such field, and which one may have been meant."""
    near = get_close_matches(name, asked.model_fields, n=1)
    return "; ".join([_IN_WORDS[_UNKNOWN], *(f"{field} is one" for field in near)])
