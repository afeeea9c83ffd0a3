"""What a user asks for with a job, and the bounds on each field.

Owns: the shape of a job's description. Whether a node could hold it is for `use_cases.jobs`.
Always holds: a spec that passed `check` fits in one row, one event and one process environment.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from services.chassis.amounts import duration_in_words, size_in_words
from services.chassis.errors import InvalidArgument
from services.scheduler.domain.files import check_digest, check_relative_path
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.retries import JobRetries
from services.scheduler.domain.queues.queue import DEFAULT_QUEUE, check_queue_name
from services.scheduler.domain.resources import DEFAULT_RESOURCES, Resources

NAME_CHARACTERS_MAX: Final = 128
COMMAND_PARTS_MAX: Final = 256
COMMAND_BYTES_MAX: Final = 32 << 10
ENV_COUNT_MAX: Final = 128
ENV_BYTES_MAX: Final = 32 << 10
INPUTS_MAX: Final = 32
OUTPUTS_MAX: Final = 32
LABELS_MAX: Final = 32
DEPENDENCIES_MAX: Final = 32
TASKS_MAX: Final = 512
ARRAY_SIZE_MAX: Final = 10_000
NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})
LABEL_VALUE_CHARACTERS_MAX: Final = 256
PRIORITY_MAX: Final = 100
TIMEOUT_MIN: Final = timedelta(seconds=1)
QUEUE_TIMEOUT_MAX: Final = timedelta(days=30)
START_TIMEOUT_MAX: Final = timedelta(days=1)
RUN_TIMEOUT_MAX: Final = timedelta(days=7)
STOP_GRACE_MAX: Final = timedelta(minutes=10)

_TEMPLATE_CHARACTERS: Final = 32

_IMAGE: Final = re.compile(r"[a-z0-9][a-zA-Z0-9._/:@-]{0,254}")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PART_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_LABEL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")
_JOB_ID: Final = re.compile(r"[a-z0-9_-]{1,64}")
_OWN_ENV: Final = ("MODELYARD_", "TRACEPARENT")


@dataclass(frozen=True, slots=True)
class JobInput:
    """Bytes that the job reads, placed at `inputs/<name>`."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class JobOutput:
    """A file or folder that the job leaves; with `register_as` it becomes a model's version."""

    name: str
    path: str
    register_as: str = ""


@dataclass(frozen=True, slots=True)
class JobTimeouts:
    """Bounds on a job's phases."""

    queue: timedelta | None = None
    """In line, a retry's pause and the wait for other jobs not counted; None: however long."""
    start: timedelta | None = None
    """From its admission to its first instruction; None: as long as the runner tries."""
    run: timedelta = timedelta(hours=24)
    """From its start to its end."""
    stop_grace: timedelta = timedelta(seconds=10)
    """From the request to stop until it is killed."""


class DependencyCondition(StrEnum):
    """How a job has to end for another one, which waits for it."""

    SUCCESS = "SUCCESS"
    END = "END"
    """In whatever way."""


@dataclass(frozen=True, slots=True)
class JobDependency:
    """Another job of the tenant, which has to end before this one may start."""

    job_id: JobId
    condition: DependencyCondition = DependencyCondition.SUCCESS

    @property
    def in_words(self) -> str:
        """Return what is waited for."""
        how = "succeed" if self.condition is DependencyCondition.SUCCESS else "end"
        return f"job {self.job_id} to {how}"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a user asks for; it never changes after submission."""

    name: str
    image: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    source_digest: str = ""
    inputs: tuple[JobInput, ...] = ()
    outputs: tuple[JobOutput, ...] = ()
    resources: Resources = DEFAULT_RESOURCES
    timeouts: JobTimeouts = field(default_factory=JobTimeouts)
    retries: JobRetries = field(default_factory=JobRetries)
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    queue: str = DEFAULT_QUEUE
    after: tuple[JobDependency, ...] = ()
    task_count: int = 1
    """How many times it runs at once, each with `resources`: all of them are admitted, or none."""
    array_size: int = 0
    """How often it runs, each time as a job of its own with another index; 0: it is no array."""

    @property
    def total_resources(self) -> Resources:
        """Return what all of its tasks take together."""
        return self.resources if self.task_count == 1 else self.resources * self.task_count

    @property
    def template(self) -> str:
        """Return what a tenant's jobs that are alike share, such as what `job again` submits.

        What they are called, run in and ask for; a command may differ by a seed or a day, and an
        array's elements by their index.
        """
        amounts = self.resources
        alike = (
            *(self.name, self.image, self.task_count),
            *(amounts.cpu_millicores, amounts.memory_bytes, amounts.gpu_count),
        )
        return hashlib.sha256(json.dumps(alike).encode()).hexdigest()[:_TEMPLATE_CHARACTERS]

    def check(self) -> None:
        """Raise InvalidArgument naming the first field that is out of bounds."""
        if not 0 < len(self.name) <= NAME_CHARACTERS_MAX or not self.name.isprintable():
            raise InvalidArgument(
                "spec.name", f"must have 1 to {NAME_CHARACTERS_MAX} printable characters"
            )
        check_image(self.image, field="spec.image")
        self._check_command()
        self._check_env()
        if self.source_digest:
            check_digest(self.source_digest, field="spec.source_digest")
        self._check_inputs()
        self._check_outputs()
        self._check_timeouts()
        self.retries.check(field="spec.retries")
        if not 0 <= self.priority <= PRIORITY_MAX:
            raise InvalidArgument("spec.priority", f"must be between 0 and {PRIORITY_MAX}")
        check_labels(self.labels, field="spec.labels")
        check_queue_name(self.queue, field="spec.queue")
        self._check_after()
        if not 1 <= self.task_count <= TASKS_MAX:
            raise InvalidArgument("spec.task_count", f"must be between 1 and {TASKS_MAX}")
        if not 0 <= self.array_size <= ARRAY_SIZE_MAX:
            raise InvalidArgument("spec.array_size", f"must be between 1 and {ARRAY_SIZE_MAX}")

    def field_of_digest(self, digest: str) -> str | None:
        """Return the first field that asks for an artifact, as whoever asked has written it."""
        if digest == self.source_digest:
            return "source_digest"
        for place, given in enumerate(self.inputs):
            if given.digest == digest:
                return f"inputs[{place}].digest"
        return None

    def _check_command(self) -> None:
        _check_count("spec.command", len(self.command), least=1, most=COMMAND_PARTS_MAX)
        if sum(len(part.encode()) for part in self.command) > COMMAND_BYTES_MAX:
            raise InvalidArgument(
                "spec.command", f"must have at most {size_in_words(COMMAND_BYTES_MAX)}"
            )
        if not self.command[0]:
            raise InvalidArgument("spec.command[0]", "must name a program")
        if any("\0" in part for part in self.command):
            raise InvalidArgument("spec.command", "must not contain NUL")

    def _check_env(self) -> None:
        _check_count("spec.env", len(self.env), most=ENV_COUNT_MAX)
        for name, value in self.env.items():
            if not _ENV_NAME.fullmatch(name):
                raise InvalidArgument(
                    f"spec.env.{name}" if name.isprintable() and name else "spec.env",
                    "a variable's name has 1 to 128 letters, digits and '_', no digit first",
                )
            if name.startswith(_OWN_ENV):
                raise InvalidArgument(f"spec.env.{name}", "is set by the platform")
            if "\0" in value:
                raise InvalidArgument(f"spec.env.{name}", "must not contain NUL")
        if sum(len(n) + len(v.encode()) for n, v in self.env.items()) > ENV_BYTES_MAX:
            raise InvalidArgument("spec.env", f"must have at most {size_in_words(ENV_BYTES_MAX)}")

    def _check_inputs(self) -> None:
        _check_names("spec.inputs", [given.name for given in self.inputs], most=INPUTS_MAX)
        for place, given in enumerate(self.inputs):
            check_digest(given.digest, field=f"spec.inputs[{place}].digest")

    def _check_outputs(self) -> None:
        _check_names("spec.outputs", [left.name for left in self.outputs], most=OUTPUTS_MAX)
        for place, left in enumerate(self.outputs):
            check_relative_path(left.path, field=f"spec.outputs[{place}].path")
            if left.register_as and not _MODEL_NAME.fullmatch(left.register_as):
                raise InvalidArgument(
                    f"spec.outputs[{place}].register_as",
                    "must be 1 to 128 of letters, digits, '.', '_' and '-', such as digits",
                )
            for other in self.outputs[:place]:
                _check_apart(left, other, field=f"spec.outputs[{place}].path")

    def _check_after(self) -> None:
        _check_count("spec.after", len(self.after), most=DEPENDENCIES_MAX)
        named = [needed.job_id for needed in self.after]
        for place, job_id in enumerate(named):
            field = f"spec.after[{place}].job_id"
            if not _JOB_ID.fullmatch(job_id):
                raise InvalidArgument(field, "must be a job's id")
            if (first := named.index(job_id)) < place:
                raise InvalidArgument(field, f"job {job_id} is named in after[{first}], too")

    def _check_timeouts(self) -> None:
        asked = self.timeouts
        for name, length, least, most in (
            ("queue", asked.queue, TIMEOUT_MIN, QUEUE_TIMEOUT_MAX),
            ("start", asked.start, TIMEOUT_MIN, START_TIMEOUT_MAX),
            ("run", asked.run, TIMEOUT_MIN, RUN_TIMEOUT_MAX),
            ("stop_grace", asked.stop_grace, timedelta(0), STOP_GRACE_MAX),
        ):
            if length is not None and not least <= length <= most:
                raise InvalidArgument(
                    f"spec.timeouts.{name}",
                    f"must be between {duration_in_words(least)} and {duration_in_words(most)}; "
                    f"{duration_in_words(length)} was asked for",
                )


def check_labels(labels: Mapping[str, str], *, field: str) -> None:
    """Raise InvalidArgument unless a job may have all of these."""
    _check_count(field, len(labels), most=LABELS_MAX)
    for name, value in labels.items():
        if not _LABEL_NAME.fullmatch(name):
            raise InvalidArgument(
                field,
                "a label's name has 1 to 63 of a-z, 0-9, '.', '_', '/' and '-', "
                "a letter or digit first, such as team",
            )
        if len(value) > LABEL_VALUE_CHARACTERS_MAX or not value.isprintable():
            raise InvalidArgument(
                f"{field}.{name}",
                f"must have at most {LABEL_VALUE_CHARACTERS_MAX} printable characters",
            )


def check_image(image: str, *, field: str) -> None:
    """Raise InvalidArgument unless this can be an image's name."""
    if not _IMAGE.fullmatch(image):
        raise InvalidArgument(
            field,
            "must be an image's name: 1 to 255 of letters, digits, '.', '_', '/', ':', '@' and '-',"
            " such as modelyard/train-sklearn",
        )


def check_image_known(image: str, known: Collection[str], *, field: str) -> None:
    """Raise InvalidArgument unless something here runs this image."""
    if image not in known:
        raise InvalidArgument(field, f"must be one of {', '.join(sorted(known))}")


def _check_apart(left: JobOutput, other: JobOutput, *, field: str) -> None:
    """What two outputs hold would be stored, and registered, twice."""
    if left.path == other.path:
        raise InvalidArgument(field, f"{left.path!r} is the path of output {other.name!r}, too")
    for inner, outer in ((left, other), (other, left)):
        if inner.path.startswith(f"{outer.path}/"):
            raise InvalidArgument(
                field,
                f"{inner.path!r} of output {inner.name!r} lies in {outer.path!r} of output "
                f"{outer.name!r}",
            )


def _check_count(field: str, count: int, *, least: int = 0, most: int) -> None:
    if not least <= count <= most:
        raise InvalidArgument(field, f"must have {least} to {most} entries")


def _check_names(field: str, names: list[str], *, most: int) -> None:
    """Names become folders: they are short, plain and unique."""
    _check_count(field, len(names), most=most)
    for place, name in enumerate(names):
        if not _PART_NAME.fullmatch(name):
            raise InvalidArgument(
                f"{field}[{place}].name",
                "must be 1 to 64 of letters, digits, '.', '_' and '-', a letter or digit first",
            )
        if (first := names.index(name)) < place:
            raise InvalidArgument(
                f"{field}[{place}].name",
                f"{name!r} is the name of {field.rpartition('.')[2]}[{first}], too",
            )
