"""What the platform refused, told by the options that were typed instead of the API's fields."""

import re
from collections.abc import Mapping
from typing import Final

from modelyard.client import ApiError, JobSpec

_OPTIONS: Final[Mapping[str, str]] = {
    "name": "--name",
    "image": "--image",
    "command": "COMMAND",
    "env": "--env",
    "outputs": "--output",
    "resources.cpu_millicores": "--cpu",
    "resources.memory_bytes": "--memory",
    "timeouts.run": "--time-out",
    "priority": "--priority",
}


def told_by_options(error: ApiError, spec: JobSpec) -> ApiError:
    """Return the refusal of a job that came from options; one without fields as it is."""
    errors = error.problem.get("errors")
    if not errors:
        return error
    told = "; ".join(f"{_option(each['field'], spec)}: {each['problem']}" for each in errors)
    return ApiError(error.status, {**error.problem, "detail": told})


def _option(field: str, spec: JobSpec) -> str:
    """Return the option behind `spec.outputs[0].path`, as the scheduler writes it, or `outputs.0`.

    A field that no option sets is told as it is.
    """
    parts = re.findall(r"[^.\[\]]+", field.removeprefix("spec."))
    option = _OPTIONS.get(".".join(parts[:2])) or _OPTIONS.get(parts[0] if parts else "")
    match parts:
        case ["outputs", place, *_] if place.isdigit() and int(place) < len(spec.outputs):
            output = spec.outputs[int(place)]
            return f"{option} {':'.join(filter(None, (output.path, output.register_as)))}"
        case ["env", name, *_]:
            return f"{option} {name}"
    return option or field
