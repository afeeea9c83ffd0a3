"""What the platform refused, told by the options that were typed instead of the API's fields."""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias, assert_never

from modelyard.client import ApiError, DeploymentSpec, JobChanges, JobSpec, Plan

_OF_SUBMISSIONS: Final[Mapping[str, str]] = {"Idempotency-Key": "--idempotency-key"}
_OF_BOTH: Final[Mapping[str, str]] = {
    **_OF_SUBMISSIONS,
    "image": "--image",
    "resources.cpu_millicores": "--cpu",
    "resources.memory_bytes": "--memory",
}
_OF_JOBS: Final[Mapping[str, str]] = {
    **_OF_BOTH,
    "name": "--name",
    "command": "COMMAND",
    "env": "--env",
    "labels": "--label",
    "outputs": "--output",
    "resources.gpu_count": "--gpus",
    "timeouts.run": "--time-out",
    "retries.count_max": "--retries",
    "retries.reasons": "--retry-on",
    "retries.exit_codes": "--retry-exit-code",
    "priority": "--priority",
    "queue": "--queue",
    "after": "--after",
    "tasks": "--tasks",
    "array_size": "--array",
}
_OF_CHANGES: Final[Mapping[str, str]] = {
    **_OF_SUBMISSIONS,
    **{
        field: option
        for field, option in _OF_JOBS.items()
        if field.rpartition(".")[2] in JobChanges.model_fields
    },
}
_OF_DEPLOYMENTS: Final[Mapping[str, str]] = {
    **_OF_BOTH,
    "name": "NAME",
    "model": "MODEL",
    "replica_count": "--replicas",
}


_OF_PLANS: Final[Mapping[str, str]] = {
    "queued_jobs_max": "--queued-jobs-max",
    "replicas_max": "--replicas-max",
    "priority_max": "--priority-max",
    "requests_max": "--requests-max",
    "running_cpu_millicores_max": "--running-cpu-max",
    "running_memory_bytes_max": "--running-memory-max",
    "running_gpu_count_max": "--running-gpus-max",
}
Asked: TypeAlias = JobSpec | JobChanges | DeploymentSpec | Plan
"""What was made of options."""


def told_by_options(error: ApiError, spec: Asked) -> ApiError:
    """Return the refusal of what came from options; one without fields as it is."""
    errors = error.problem.get("errors")
    if not errors:
        return error
    told = "; ".join(f"{_option(each['field'], spec)}: {each['problem']}" for each in errors)
    return ApiError(error.status, {**error.problem, "detail": told})


def _option(field: str, spec: Asked) -> str:
    """Return the option behind a field such as `outputs[0].path`.

    A field that no option sets is told as it is.
    """
    parts = re.findall(r"[^.\[\]]+", field)
    options = _options_of(spec)
    option = options.get(".".join(parts[:2])) or options.get(parts[0] if parts else "")
    match spec, parts:
        case JobSpec(outputs=those), ["outputs", place, *_] if _is_index(place, len(those)):
            output = those[int(place)]
            return f"{option} {':'.join(filter(None, (output.path, output.register_as)))}"
        case (
            JobSpec(after=needed) | JobChanges(after=needed),
            ["after", place, *_],
        ) if _is_index(place, len(needed)):
            other = needed[int(place)]
            return f"{'--after' if other.condition == 'SUCCESS' else '--after-end'} {other.job_id}"
        case JobSpec() | JobChanges(), ["env" | "labels", _, *_]:
            return f"{option} {field.partition('.')[2]}"
    return option or field


def _options_of(spec: Asked) -> Mapping[str, str]:
    match spec:
        case JobSpec():
            return _OF_JOBS
        case JobChanges():
            return _OF_CHANGES
        case DeploymentSpec():
            return _OF_DEPLOYMENTS
        case Plan():
            return _OF_PLANS
        case _:
            assert_never(spec)


def _is_index(text: str, length: int) -> bool:
    return text.isdigit() and int(text) < length
