"""Names, aliases and tags: what they may look like.

Owns: the patterns and bounds. Aliases and tags follow MLflow's rules, so that its clients can say
here all they can say there; but a number alone is no alias, which MLflow takes: everywhere it reads
as a version. Model names are narrower, so that one fits a URL's path segment and an object key as
it is.
Always holds: what passed these checks can be stored as JSON in PostgreSQL (no NUL anywhere).

Source: reference/interfaces.md A, "Rules to copy".
"""

import re
from collections.abc import Mapping
from typing import Final

from services.chassis.errors import InvalidArgument, PayloadTooLarge

DESCRIPTION_CHARACTERS_MAX: Final = 5_000
ALIAS_CHARACTERS_MAX: Final = 255
TAG_KEY_CHARACTERS_MAX: Final = 250
TAG_VALUE_CHARACTERS_MAX: Final = 100_000
TAGS_MAX: Final = 100
TAGS_BYTES_MAX: Final = 128 * 1024
"""Of all keys and values in UTF-8: a page of things with tags has to fit into one message."""

_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ALIAS: Final = re.compile(rf"[\w-]{{1,{ALIAS_CHARACTERS_MAX}}}")
_RESERVED_ALIAS: Final = re.compile(r"latest|v?\d+", re.IGNORECASE)


def checked_model_name(text: str, *, field: str = "name") -> str:
    """Return the name of a model. Raises InvalidArgument naming `field`."""
    if not _MODEL_NAME.fullmatch(text):
        raise InvalidArgument(field, "must be 1 to 128 letters, digits, '-', '_' or '.'")
    if not text.strip("."):
        # A URL's "." and ".." segments are resolved away before a server sees them.
        raise InvalidArgument(field, "must not consist of dots")
    return text


def checked_alias(text: str, *, field: str = "alias") -> str:
    """Return an alias. Raises InvalidArgument naming `field`."""
    if not _ALIAS.fullmatch(text):
        raise InvalidArgument(
            field, f"must be 1 to {ALIAS_CHARACTERS_MAX} letters, digits, '-' or '_'"
        )
    if _RESERVED_ALIAS.fullmatch(text):
        raise InvalidArgument(field, "must not be 'latest' nor look like a version's number")
    return text


def checked_description(text: str, *, field: str = "description") -> str:
    """Return a description. Raises InvalidArgument naming `field`."""
    if len(text) > DESCRIPTION_CHARACTERS_MAX:
        raise InvalidArgument(field, f"must have at most {DESCRIPTION_CHARACTERS_MAX} characters")
    return _without_nul(text, field=field)


def checked_tags(tags: Mapping[str, str], *, field: str = "tags") -> Mapping[str, str]:
    """Return a copy of the tags. Raises InvalidArgument or PayloadTooLarge naming `field`."""
    if len(tags) > TAGS_MAX:
        raise InvalidArgument(field, f"must be at most {TAGS_MAX}")
    for key, value in tags.items():
        if not 1 <= len(key) <= TAG_KEY_CHARACTERS_MAX:
            raise InvalidArgument(
                field, f"a key must have 1 to {TAG_KEY_CHARACTERS_MAX} characters"
            )
        if len(value) > TAG_VALUE_CHARACTERS_MAX:
            raise InvalidArgument(
                field, f"a value must have at most {TAG_VALUE_CHARACTERS_MAX} characters"
            )
        _without_nul(key + value, field=field)
    if sum(len(text.encode()) for pair in tags.items() for text in pair) > TAGS_BYTES_MAX:
        raise PayloadTooLarge(field, bytes_max=TAGS_BYTES_MAX)
    return dict(tags)


def _without_nul(text: str, *, field: str) -> str:
    if "\0" in text:
        raise InvalidArgument(field, "must not have NUL characters")
    return text
