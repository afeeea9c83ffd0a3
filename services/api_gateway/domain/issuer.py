"""Where an issuer may be asked, and what it may sign with.

Keys that came unprotected over a network could be anybody's: so https, or this machine. A shared
secret could be anybody's too: so asymmetric signatures.
"""

from typing import Final
from urllib.parse import urlsplit

from services.chassis.errors import InvalidArgument

TOKEN_ALGORITHMS: Final = frozenset(
    {
        *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
        *("ES256", "ES384", "ES512", "EdDSA"),
    }
)
ISSUER_CHARACTERS_MAX: Final = 500
_THIS_MACHINE: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def check_issuer_url(url: str, *, field: str = "url") -> str:
    """Return the URL; raises InvalidArgument unless it can be trusted to lead to its host."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidArgument(field, "must be a URL") from error
    is_safe = parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in _THIS_MACHINE
    )
    if not is_safe or not parts.hostname or parts.username or parts.fragment:
        raise InvalidArgument(field, "must be https, or http on this machine, without a password")
    return url
