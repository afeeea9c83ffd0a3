"""The bound on request bodies, kept while they arrive.

An announced length over the bound is refused before a byte is read; a body without a length is
counted. Uploads of artifacts are bounded by their route, which streams them.
"""

from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api_gateway.entrypoints.rest.dependencies import EdgePolicies
from services.api_gateway.entrypoints.rest.problems import problem_response
from services.chassis.errors import PayloadTooLarge

STREAMED: Final = "/v1/artifacts"


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """Refuses bodies that are larger than their path allows."""

    app: ASGIApp
    policies: EdgePolicies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] == STREAMED:
            await self.app(scope, receive, send)
            return
        bytes_max = self.policies.bytes_max_of(scope["path"])
        if _announced(scope) > bytes_max:
            too_large = PayloadTooLarge("body", bytes_max=bytes_max)
            await problem_response(too_large, path=scope["path"])(scope, receive, send)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > bytes_max:
                # FastAPI lets this one pass while it reads a body; others it would turn into a 400.
                raise HTTPException(413)
            return message

        await self.app(scope, receive_bounded, send)


def _announced(scope: Scope) -> int:
    """Return the length that the headers tell, 0 where they tell none."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
