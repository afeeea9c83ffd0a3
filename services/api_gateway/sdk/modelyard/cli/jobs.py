"""`run` and `job`: send, show, follow and end jobs."""

import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
from modelyard.cli.arrays import (
    array_ended,
    check_is_array,
    element_of,
    tell_where_the_output_is,
)
from modelyard.cli.bundle import Bundle, BundleTooLarge, WrongIgnoreFile, pack
from modelyard.cli.following import ended, first_seen, followed, output_of
from modelyard.cli.job_file import HELP, read_job_file
from modelyard.cli.output import one_line, show_fields, show_json, show_record, show_table
from modelyard.cli.reasons import (
    elements_in_words,
    reason_fields,
    standing_of,
    start_in_words,
)
from modelyard.cli.session import (
    EXIT_FAILED,
    Command,
    Session,
    age,
    duration,
    memory_of,
    pass_session,
    repeatable,
    size,
)
from modelyard.cli.timeline import clock_of, events_of
from modelyard.cli.told_options import told_by_options
from modelyard.client import (
    JOB_STATES,
    ApiError,
    Client,
    ElementAlone,
    Job,
    JobChanges,
    JobDependency,
    JobFailure,
    JobOutput,
    JobRetries,
    JobSpec,
    JobTimeouts,
    Resources,
)

_NAME_CHARACTERS_MAX: Final = 64
_RUN_S_MAX: Final = 7 * 86_400
_TASKS_MAX: Final = 512
_LEFT_OUT_SHOWN_MAX: Final = 5
_ARRAY_SIZE_MAX: Final = 10_000
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODEL: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


def _pair_of(value: str) -> tuple[str, str]:
    name, equals, text = value.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{value!r} is not NAME=VALUE")
    return name, text


def _pairs_of(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, text = _pair_of(value)
        if _VARIABLE.fullmatch(name) is None:
            raise click.BadParameter(
                f"{name!r} is no variable's name: letters, digits and '_', no digit first"
            )
        pairs[name] = text
    return pairs


def _labels_of(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    labels: dict[str, str] = {}
    for value in values:
        name, text = _pair_of(value)
        if name in labels:
            raise click.BadParameter(f"{name!r} is given twice; a job has a label once")
        labels[name] = text
    return labels


def outputs_of(values: tuple[str, ...]) -> list[JobOutput]:
    """Read options such as `model.joblib:digits`; raises BadParameter."""
    outputs = []
    for value in values:
        path, colon, model = value.partition(":")
        if not path or (colon and not model):
            raise click.BadParameter(f"{value!r} is not PATH or PATH:MODEL")
        if any(part in {"", ".", ".."} for part in path.split("/")):
            raise click.BadParameter(f"{path!r} is no path below $MODELYARD_OUTPUTS, such as m.bin")
        if model and _MODEL.fullmatch(model) is None:
            raise click.BadParameter(
                f"{model!r} is no model's name: 1 to 128 of letters, digits, '.', '_' and '-'"
            )
        outputs.append(JobOutput(name=model or _part_name(path), path=path, register_as=model))
    return outputs


def _part_name(path: str) -> str:
    """Return a name for an output that has only a path, which may hold what no name does."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", path).lstrip("._-")[:_NAME_CHARACTERS_MAX] or "output"


def _after_options(command: Command) -> Command:
    options = [
        click.option(
            "--after",
            multiple=True,
            metavar="JOB_ID",
            help="Start once this job has succeeded; if it ends without, the new one is cancelled.",
        ),
        click.option(
            "--after-end",
            multiple=True,
            metavar="JOB_ID",
            help="Start once this job has ended, in whatever way.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _dependencies_of(after: tuple[str, ...], after_end: tuple[str, ...]) -> list[JobDependency]:
    return [
        *(JobDependency(job_id=job_id) for job_id in after),
        *(JobDependency(job_id=job_id, condition="END") for job_id in after_end),
    ]


def _job_options(command: Command) -> Command:
    options = [
        click.option("--name", help="Name for people; the folder's by default."),
        click.option("--image", default="modelyard/train-sklearn", show_default=True),
        click.option(
            "--cpu",
            type=click.IntRange(min=1),
            default=1000,
            show_default=True,
            help="Thousandths of a core.",
        ),
        click.option(
            "--memory", default="1G", show_default=True, callback=memory_of, help="6M at least."
        ),
        click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True),
        click.option(
            "--time-out",
            type=click.IntRange(1, _RUN_S_MAX),
            help="Longest run, in seconds; 7 days at most.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(0, 10),
            default=3,
            show_default=True,
            help="After failures of the platform, and those that --retry-on and "
            "--retry-exit-code name.",
        ),
        click.option(
            "--retry-on",
            multiple=True,
            type=click.Choice(["killed", "out_of_memory", "outputs", "run_timeout"]),
            help="A failure that is worth another try.",
        ),
        click.option(
            "--retry-exit-code",
            "retry_exit_codes",
            multiple=True,
            type=click.IntRange(1, 255),
            help="COMMAND's own that means that another try may succeed.",
        ),
        click.option("--priority", type=click.IntRange(0, 100), default=50, show_default=True),
        click.option("--env", multiple=True, metavar="NAME=VALUE", callback=_pairs_of),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="NAME=VALUE",
            callback=_labels_of,
            help="What `job list --label` finds it by.",
        ),
        click.option(
            "--queue",
            default="default",
            show_default=True,
            help="What `queue pause` keeps from its start; a new name needs no creation.",
        ),
        click.option(
            "--tasks",
            type=click.IntRange(1, _TASKS_MAX),
            default=1,
            show_default=True,
            help="How many times COMMAND runs at once, each with --cpu and --memory of its own: "
            "all of them start, or none. $MODELYARD_TASK tells them apart.",
        ),
        click.option(
            "--array",
            "array_size",
            type=click.IntRange(1, _ARRAY_SIZE_MAX),
            help="How often COMMAND runs, each time as a job of its own. $MODELYARD_ARRAY_INDEX, "
            "from 0 on, tells them apart.",
        ),
        click.option(
            "--output",
            "outputs",
            multiple=True,
            metavar="PATH[:MODEL]",
            callback=lambda _context, _parameter, values: outputs_of(values),
            help="Collect this file or folder of $MODELYARD_OUTPUTS, as MODEL's new version.",
        ),
        repeatable("the submission"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("command", nargs=-1, required=True)
@click.option("--detach", is_flag=True, help="Do not follow the job.")
@click.option("--dry-run", is_flag=True, help="Tell whether it would be taken, and send nothing.")
@_job_options
@_after_options
@pass_session
def run(  # noqa: PLR0917
    session: Session,
    folder: Path,
    command: tuple[str, ...],
    detach: bool,
    dry_run: bool,
    name: str | None,
    image: str,
    cpu: int,
    memory: int,
    gpus: int,
    time_out: int | None,
    retries: int,
    retry_on: tuple[str, ...],
    retry_exit_codes: tuple[int, ...],
    priority: int,
    env: dict[str, str],
    labels: dict[str, str],
    queue: str,
    tasks: int,
    array_size: int | None,
    outputs: list[JobOutput],
    idempotency_key: str | None,
    after: tuple[str, ...],
    after_end: tuple[str, ...],
) -> int:
    """Send FOLDER, run COMMAND in it, follow its output, and end with its exit code.

    Files that FOLDER/.modelyardignore names, in the way of a .gitignore, are left out, and links,
    caches and environments.

    Of an array, which has no output of its own, how its elements stand is told; the exit code is 0
    if all of them have succeeded.
    """
    spec = JobSpec(
        name=folder.resolve().name if name is None else name,
        image=image,
        command=list(command),
        env=env,
        outputs=outputs,
        resources=Resources(cpu_millicores=cpu, memory_bytes=memory, gpu_count=gpus),
        timeouts=JobTimeouts(run=None if time_out is None else timedelta(seconds=time_out)),
        retries=JobRetries(
            count_max=retries, reasons=list(retry_on), exit_codes=list(retry_exit_codes)
        ),
        priority=priority,
        labels=labels,
        queue=queue,
        after=_dependencies_of(after, after_end),
        tasks=tasks,
        array_size=array_size,
    )
    try:
        if dry_run:
            _show_what_would_be_sent(folder)
            session.client.check_job(spec)
            click.echo("it would be taken", err=True)
            return 0
        _check(session, spec)
        digest = _send(session, folder)
        job = session.client.submit_job(
            spec.model_copy(update={"source_digest": digest}), idempotency_key=idempotency_key
        )
    except ApiError as error:
        raise told_by_options(error, spec) from error
    return _go_on(session, job, detach=detach)


def _go_on(session: Session, job: Job, *, detach: bool) -> int:
    """Follow a job that was submitted to its end, or show it; return what to end with."""
    click.echo(f"job {job.id}", err=True)
    if detach:
        _show_job(session, job)
        return 0
    try:
        if job.is_array:
            return _array_followed(session, job)
        for record in followed(session.client, job):
            show_record(record, is_json=session.is_json)
        job = ended(session.client, job.id)
    except KeyboardInterrupt:
        click.echo(f"\nthe job goes on; to end it: modelyard job cancel {job.id}", err=True)
        raise
    return _how_it_ended(job)


def _array_followed(session: Session, array: Job) -> int:
    """Wait for an array's end; return what to end with."""
    tell_where_the_output_is(array.id)
    return _how_it_ended(array_ended(session.client, array))


def _how_it_ended(job: Job) -> int:
    """Tell how a job has ended; return what to end with."""
    click.echo(f"job {job.id} {job.state}: {standing_of(job)}", err=True)
    return _exit_code(job)


def _check(session: Session, spec: JobSpec) -> None:
    """Hear a refusal before anything is sent."""
    try:
        session.client.check_job(spec)
    except ApiError as error:
        if error.code != "UNIMPLEMENTED":  # a platform of before: it refuses what it gets
            raise


def _send(session: Session, folder: Path) -> str:
    """Store a folder's files; return the digest of them all."""
    with _packed(folder) as bundle:
        click.echo(f"sending {_in_words(bundle)}", err=True)
        return session.client.put_artifact(bundle.path, digest=bundle.digest)


def _show_what_would_be_sent(folder: Path) -> None:
    with _packed(folder) as bundle:
        click.echo(f"it would send {_in_words(bundle)}", err=True)


@contextmanager
def _packed(folder: Path) -> Iterator[Bundle]:
    """Give a folder's bundle, which is gone afterwards; raises UsageError."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            bundle = pack(folder, Path(scratch) / "source.tar.gz")
        except (BundleTooLarge, WrongIgnoreFile, OSError) as error:
            raise click.UsageError(str(error)) from error
        yield bundle


def _in_words(bundle: Bundle) -> str:
    """Return how much a bundle is, and what was left out of it."""
    files = "1 file" if bundle.file_count == 1 else f"{bundle.file_count} files"
    told = f"{files}, {size(bundle.size_bytes)}"
    if not bundle.left_out:
        return told
    shown = [one_line(each) for each in bundle.left_out[:_LEFT_OUT_SHOWN_MAX]]
    more = len(bundle.left_out) - len(shown)
    return f"{told}, without {', '.join(shown)}{f' and {more} more' if more else ''}"


@click.group("job")
def job_group() -> None:
    """Submit, show and end jobs."""


@job_group.command("submit", epilog=HELP)
@click.argument("spec", type=click.File("rb"))
@repeatable("the submission")
@pass_session
def job_submit(session: Session, spec: Any, idempotency_key: str | None) -> None:
    """Queue the job that the JSON file SPEC describes; - reads standard input."""
    parsed = read_job_file(spec.name, spec.read())
    _show_job(session, session.client.submit_job(parsed, idempotency_key=idempotency_key))


@job_group.command("again")
@click.argument("job_id")
@click.argument("command", nargs=-1)
@click.option("--detach", is_flag=True, help="Do not follow the job.")
@click.option("--name", help="Another name for people.")
@click.option("--image", help="Another image.")
@click.option("--cpu", type=click.IntRange(min=1), help="Another amount, in thousandths of a core.")
@click.option("--memory", callback=memory_of, help="Another amount, 6M at least.")
@click.option("--gpus", type=click.IntRange(min=0), help="Another number of GPUs.")
@click.option(
    "--time-out", type=click.IntRange(1, _RUN_S_MAX), help="Another longest run, in seconds."
)
@click.option("--priority", type=click.IntRange(0, 100), help="Another priority.")
@click.option(
    "--env",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_pairs_of,
    help="Another variable, or another value.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_labels_of,
    help="Another label, or another value.",
)
@click.option("--queue", help="Another queue.")
@click.option(
    "--tasks",
    type=click.IntRange(1, _TASKS_MAX),
    help="Another number of times that COMMAND runs at once.",
)
@click.option(
    "--array",
    "array_size",
    type=click.IntRange(1, _ARRAY_SIZE_MAX),
    help="As an array of this size, whether JOB_ID was one or not.",
)
@_after_options
@repeatable("the submission")
@pass_session
def job_again(  # noqa: PLR0917
    session: Session,
    job_id: str,
    command: tuple[str, ...],
    detach: bool,
    name: str | None,
    image: str | None,
    cpu: int | None,
    memory: int | None,
    gpus: int | None,
    time_out: int | None,
    priority: int | None,
    env: dict[str, str],
    labels: dict[str, str],
    queue: str | None,
    tasks: int | None,
    array_size: int | None,
    after: tuple[str, ...],
    after_end: tuple[str, ...],
    idempotency_key: str | None,
) -> int:
    """Run a job like JOB_ID, with these changes, such as COMMAND after --, and follow it as `run`.

    What can be changed: its command, name, image, cores, memory, GPUs, longest run, priority,
    variables, labels, queue, tasks, the size of its array, and what it waits for. All else is as it
    was there, the files that were sent, too; but what JOB_ID waited for is not waited for again. An
    array is run again whole.
    """
    changes = JobChanges(
        name=name,
        image=image,
        cpu_millicores=cpu,
        memory_bytes=memory,
        gpu_count=gpus,
        run=None if time_out is None else timedelta(seconds=time_out),
        command=list(command) or None,
        env=env,
        priority=priority,
        labels=labels,
        queue=queue,
        tasks=tasks,
        array_size=array_size,
        after=_dependencies_of(after, after_end),
    )
    try:
        job = session.client.submit_again(job_id, changes, idempotency_key=idempotency_key)
    except ElementAlone as error:
        whole = f"modelyard job again {error.array_id}"
        raise click.UsageError(f"{error}; all of the array: {whole}") from error
    except ApiError as error:
        raise told_by_options(error, changes) from error
    return _go_on(session, job, detach=detach)


@job_group.command("show")
@click.argument("job_id")
@pass_session
def job_show(session: Session, job_id: str) -> None:
    """Show one job."""
    _show_job(session, session.client.job(job_id))


@job_group.command("explain")
@click.argument("job_id")
@pass_session
def job_explain(session: Session, job_id: str) -> None:
    """Say why a job waits, what would help, and about when it starts."""
    told = session.client.explain_job(job_id)
    if session.is_json:
        show_json(told)
        return
    fields: list[tuple[str, object]] = [("state", told.state), *reason_fields(told)]
    if told.state == "QUEUED":
        about = start_in_words(told)
        fields += [("before it", told.jobs_before), ("starts", about)]
    show_fields(fields)


@job_group.command("timeline")
@click.argument("job_id")
@pass_session
def job_timeline(session: Session, job_id: str) -> None:
    """Show what became of a job, attempt by attempt, with the time since it was queued."""
    client = session.client
    events = events_of(client.job(job_id), client.attempts(job_id), now=datetime.now(UTC))
    if session.is_json:
        show_json(events)
        return
    show_table(
        ("TIME", "ELAPSED", "EVENT"),
        [
            (f"{each.at:%Y-%m-%dT%H:%M:%SZ}", clock_of(each.elapsed_s), one_line(each.text))
            for each in events
        ],
    )


@job_group.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(JOB_STATES, case_sensitive=False),
    metavar=f"[{'|'.join(JOB_STATES)}]",  # as REST takes them; click's own would be small
    help="In either case, and several times; all states by default.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_labels_of,
    help="Only jobs that have it, and all others that are given.",
)
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--array", metavar="JOB_ID", help="Only this array's elements, not shown otherwise.")
@click.option(
    "--index",
    type=click.IntRange(0, _ARRAY_SIZE_MAX - 1),
    help="Only this element of --array, from 0 on.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@pass_session
def job_list(  # noqa: PLR0917
    session: Session,
    states: tuple[str, ...],
    labels: dict[str, str],
    queue: str | None,
    array: str | None,
    index: int | None,
    limit: int,
) -> None:
    """Show the newest jobs; of an array how many of its elements are in which state."""
    if index is not None and array is None:
        raise click.UsageError("--index needs --array, whose element it is")
    jobs = session.client.jobs(
        states=states, labels=labels, queue=queue, array=array, index=index, limit=limit
    )
    if array is not None and not jobs:  # nobody is to take a wrong id for one without failures
        check_is_array(session.client, array)
    if session.is_json:
        show_json(jobs)
        return
    show_table(
        ("JOB", "NAME" if array is None else "INDEX", "STATE", "AGE", "REASON"),
        [
            (
                *(job.id, job.spec.name if job.element is None else job.element.index),
                *(job.state, age(job.created_at), standing_of(job)),
            )
            for job in jobs
        ],
    )


@job_group.command("cancel")
@click.argument("job_id")
@click.option("--reason", default="cancelled by its user", show_default=True)
@pass_session
def job_cancel(session: Session, job_id: str, reason: str) -> None:
    """Ask for a job's end."""
    _show_job(session, session.client.cancel_job(job_id, reason=reason))


@job_group.command("logs")
@click.argument("job_id")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on until the job's output is complete, or 40 s after its end nothing of it comes.",
)
@click.option("--after", default="", help="Position to go on after, attempt.sequence.")
@click.option(
    "--task",
    type=click.IntRange(0, _TASKS_MAX - 1),
    help="Only this task's, in the last attempt; by default all, one after another.",
)
@click.option(
    "--element",
    type=click.IntRange(0, _ARRAY_SIZE_MAX - 1),
    help="Of the array JOB_ID, which has no output of its own: that of this element.",
)
@pass_session
def job_logs(  # noqa: PLR0917
    session: Session, job_id: str, follow: bool, after: str, task: int | None, element: int | None
) -> int:
    """Print a job's output."""
    client = session.client
    if follow:
        job = first_seen(client, job_id, lambda: _job_of(client, job_id, element))
        if job.is_array:
            return _array_followed(session, job)
        records = output_of(client, job.id, after=after, task=task)
    else:
        printing_id = job_id if element is None else element_of(client, job_id, element).id
        records = client.logs(printing_id, after=after, task=task)
    is_silent = True
    for record in records:
        is_silent = False
        show_record(record, is_json=session.is_json)
    if is_silent and not follow and element is None and client.job(job_id).is_array:
        tell_where_the_output_is(job_id)
    return 0


def _job_of(client: Client, job_id: str, element: int | None) -> Job:
    """Return a job, or an array's element."""
    return client.job(job_id) if element is None else element_of(client, job_id, element)


def _show_job(session: Session, job: Job) -> None:
    if session.is_json:
        show_json(job)
        return
    fields: list[tuple[str, object]] = [
        ("job", job.id),
        ("name", job.spec.name),
        ("state", job.state),
        ("reason", job.reason),
        *_gone_through(job),
        ("age", age(job.created_at)),
        ("trace", job.trace_id),
        *_asked(job.spec),
        *([("aged by", job.aged_by)] if job.aged_by else []),
    ]
    if job.needs:
        fields.append(("waits for", ", ".join(_told(needed) for needed in job.needs)))
    if job.progress:
        fields.append(("progress", f"{job.progress.fraction:.0%} {job.progress.message}"))
    if job.failure:
        fields.append(("failure", _why_it_failed(job.failure)))
        fields.append(("last lines", job.failure.last_lines))
    show_fields(fields)


def _gone_through(job: Job) -> list[tuple[str, object]]:
    """Return which go a job is at; an array has none itself, so how its elements stand."""
    if job.is_array:
        return [("elements", elements_in_words(job.array.elements) if job.array else "")]
    tries: list[tuple[str, object]] = [
        ("attempt", job.attempt_number),
        ("retries", f"{job.retry_count} of {job.spec.retries.count_max}"),
    ]
    if job.element is None:
        return tries
    return [("element", f"{job.element.index} of {job.element.array_id}"), *tries]


def _why_it_failed(failure: JobFailure) -> str:
    """Return the reason and the message, which may begin with the reason itself."""
    if failure.message.startswith(f"{failure.reason}:"):
        return failure.message
    return f"{failure.reason}: {failure.message}"


def _asked(spec: JobSpec) -> list[tuple[str, object]]:
    """Return what the job was to be."""
    asked = spec.resources
    bounds = spec.timeouts
    queue, start, run, grace = (
        duration(each) for each in (bounds.queue, bounds.start, bounds.run, bounds.stop_grace)
    )
    return [
        ("image", spec.image),
        ("command", one_line(shlex.join(spec.command))),
        (
            "resources",
            f"cpu {asked.cpu_millicores}, memory {size(asked.memory_bytes)}, "
            f"gpus {asked.gpu_count}" + (f", for each of {spec.tasks} tasks" * (spec.tasks > 1)),
        ),
        ("queue", spec.queue),
        ("priority", spec.priority),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(spec.labels.items()))),
        ("time-outs", f"queue {queue}, start {start}, run {run}, stop grace {grace}"),
        ("retried after", ", ".join(_retried_after(spec))),
        ("after", ", ".join(_told(needed) for needed in spec.after)),
    ]


def _told(needed: JobDependency) -> str:
    return f"{needed.job_id} ({'success' if needed.condition == 'SUCCESS' else 'end'})"


def _retried_after(spec: JobSpec) -> list[str]:
    """Return which failures are worth another try."""
    if spec.retries.count_max == 0:
        return ["nothing"]
    codes = [f"exit code {code}" for code in spec.retries.exit_codes]
    return ["failures of the platform", *spec.retries.reasons, *codes]


def _exit_code(job: Job) -> int:
    if job.state == "SUCCEEDED":
        return 0
    if job.failure is not None and job.failure.exit_code:
        return job.failure.exit_code
    return EXIT_FAILED
