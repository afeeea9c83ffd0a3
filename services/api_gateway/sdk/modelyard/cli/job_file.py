"""The file that `job submit` reads: one job as JSON, with the fields of `POST /v1/jobs`."""

import json
from collections import Counter
from typing import Final

import click
from modelyard.client import JobSpec
from pydantic import ValidationError

SAMPLE: Final = """\
{
  "name": "hello",
  "image": "modelyard/base",
  "command": [
    "python", "-c",
    "from os import environ as env; open(env['MODELYARD_OUTPUTS'] + '/hi', 'w').write(env['HI'])"
  ],
  "env": {"HI": "hello"},
  "source_digest": "",
  "inputs": [],
  "outputs": [{"name": "greeting", "path": "hi", "register_as": ""}],
  "resources": {"cpu_millicores": 500, "memory_bytes": 268435456, "gpu_count": 0},
  "timeouts": {"queue": "P1D", "start": "PT30M", "run": "PT5M", "stop_grace": "PT10S"},
  "retries": {"count_max": 3, "reasons": ["out_of_memory"], "exit_codes": [75]},
  "priority": 50,
  "labels": {"purpose": "sample"},
  "queue": "default",
  "after": [],
  "tasks": 1,
  "array_size": null
}
"""
"""A whole file; it succeeds on every platform that has the image."""
HELP: Final = (
    "\b\nA whole file, of which only name, image and command must be there:\n"
    f"{SAMPLE}\n"
    "Durations are ISO 8601, priorities 0 to 100. Digests are those of stored artifacts "
    "(POST /v1/artifacts); with register_as an output becomes that model's new version. The job "
    "waits for those in after, each with a job_id and a condition, SUCCESS (if absent) or END. "
    "With an array_size it runs so often, each time as a job of its own."
)


def read_job_file(name: str, content: bytes) -> JobSpec:
    """Return the job; raises UsageError naming the file and each field that is wrong or unknown."""
    try:
        json.loads(content, object_pairs_hook=_once)
    except _Twice as error:
        raise click.UsageError(f"{name}: {error}: is given twice") from error
    except (ValueError, RecursionError):
        pass  # which is told below, in better words
    try:
        return JobSpec.model_validate_json(content)
    except ValidationError as error:
        problems = "; ".join(_problem(found["loc"], found["msg"]) for found in error.errors())
        raise click.UsageError(f"{name}: {problems}") from error


class _Twice(Exception):
    """An object has a field twice, of which one would be passed over."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise _Twice(name)
    return dict(pairs)


def _problem(location: tuple[int | str, ...], said: str) -> str:
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{field.removeprefix('.')}: {said}" if field else said
