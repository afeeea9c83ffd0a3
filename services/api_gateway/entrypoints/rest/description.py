"""What `/openapi.json` says about all routes at once: problem documents."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI

from services.chassis.errors import ErrorCode
from services.chassis.web.problem import MEDIA_TYPE

_REFUSED: Final[Mapping[str, Any]] = {
    "description": "A problem document (RFC 9457).",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
PROBLEMS: Final[Mapping[int | str, dict[str, Any]]] = {"4XX": {**_REFUSED}, "5XX": {**_REFUSED}}
"""For every route; FastAPI would declare its own form of 422 instead."""

_PROBLEM: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": [code.value for code in ErrorCode]},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "problem"],
                "properties": {
                    "field": {
                        "type": "string",
                        "description": "A path from the request's body, such as outputs[0].path.",
                    },
                    "problem": {"type": "string"},
                },
            },
        },
        "current_version": {
            "type": "integer",
            "description": "With `VERSION_MISMATCH`: the version that there is, if any.",
        },
        "retry_after": {"type": "integer", "description": "Seconds."},
        "error": {"type": "string", "description": "On /v2: the detail again."},
    },
}


def complete_description(app: FastAPI) -> None:
    """Add to the description what FastAPI can't know: it is made once, on the first request."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = generate()
            components = described.setdefault("components", {})
            components.setdefault("schemas", {})["Problem"] = _PROBLEM
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
