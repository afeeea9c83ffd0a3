"""What a replica answers, as this API answers: its failures become problem documents.

Owns: what is told of a failure: the model server's own words, bounded, and nothing that it has not
said. A refusal keeps its status. A failure is 502, which tells it from one of the platform's own:
MLServer has 500, and no words at all, for a tensor that its model does not take.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from fastapi.responses import Response
from starlette.datastructures import Headers

from services.api_gateway.entrypoints.rest.problems import (
    ERRORS_SHOWN_MAX,
    problem_response,
)
from services.api_gateway.entrypoints.rest.words import field_in_words
from services.api_gateway.use_cases.infer import InferenceResponse
from services.chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    ModelyardError,
    NotFound,
    UpstreamFailed,
)

_READ_BYTES_MAX: Final = 256 * 1024
"""Of a refusal: it may repeat the whole request."""
_SAID_CHARACTERS_MAX: Final = 500
_GZIP: Final = 16 + zlib.MAX_WBITS

Reason = Mapping[str, str]


def response_of(answer: InferenceResponse, *, deployment: str, path: str) -> Response:
    """Return an answer as it came, a refusal as a problem; raises UpstreamFailed."""
    if answer.status < 400:
        return Response(answer.body, status_code=answer.status, headers=dict(answer.headers))
    reasons = _reasons(answer)
    if answer.status >= 500:
        raise UpstreamFailed(
            f"the model server of {deployment} failed with {answer.status}: "
            f"{_said(answer, reasons)}; its output may say more: /v1/deployments/{deployment}/logs"
        )
    refusal = _refusal(answer, reasons, deployment=deployment, path=path)
    return problem_response(refusal, path=path, status=answer.status, errors=reasons)


def _refusal(
    answer: InferenceResponse, reasons: Sequence[Reason], *, deployment: str, path: str
) -> ModelyardError:
    if answer.status == 404:
        return NotFound("path", path)
    if answer.status in {400, 422} and reasons:
        return InvalidArgument(reasons[0]["field"], reasons[0]["problem"])
    said = _said(answer, reasons)
    return FailedPrecondition(f"the model server of {deployment} answers {answer.status}: {said}")


def _said(answer: InferenceResponse, reasons: Sequence[Reason]) -> str:
    if reasons:
        return reasons[0]["problem"]
    is_text = Headers(answer.headers).get("content-type", "").startswith("text/plain")
    said = _one_line(_read(answer).decode(errors="replace")) if is_text else ""
    return said or "no reason"


def _reasons(answer: InferenceResponse) -> Sequence[Reason]:
    """Return what is wrong as the protocol says it, or as MLServer's framework does, by field."""
    try:
        body = json.loads(_read(answer))
    except (ValueError, RecursionError):
        return []
    match body:
        case {"error": str(said)} | {"detail": str(said)} if _one_line(said):
            return [{"field": "body", "problem": _one_line(said)}]
        case {"detail": [*found]}:
            shown = (_reason(each) for each in found[:ERRORS_SHOWN_MAX])
            return [reason for reason in shown if reason is not None]
        case _:
            return []


def _reason(found: object) -> Reason | None:
    match found:
        case {"type": str(kind), "loc": [_, *_] as location, "msg": str(said)}:
            field = field_in_words(kind, tuple(location))
            return {"field": _one_line(field), "problem": _one_line(said)}
        case _:
            return None


def _read(answer: InferenceResponse) -> bytes:
    """Return the body's beginning; nothing of one whose coding is not known."""
    match Headers(answer.headers).get("content-encoding", "identity"):
        case "identity":
            return answer.body[:_READ_BYTES_MAX]
        case "gzip":
            try:
                return zlib.decompressobj(_GZIP).decompress(answer.body, _READ_BYTES_MAX)
            except zlib.error:
                return b""
        case _:
            return b""


def _one_line(text: str) -> str:
    """Return a text as a part of a sentence."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(shown.split())[:_SAID_CHARACTERS_MAX]
