"""`run` and `job`: send, show, follow and end jobs."""

import re
import shlex
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click
from modelyard.cli.bundle import BundleTooLarge, pack
from modelyard.cli.job_file import HELP, read_job_file
from modelyard.cli.output import show_fields, show_json, show_table
from modelyard.cli.session import (
    EXIT_FAILED,
    Command,
    Session,
    age,
    bytes_of,
    duration,
    pass_session,
)
from modelyard.cli.told_options import told_by_options
from modelyard.client import (
    ApiError,
    Client,
    Job,
    JobOutput,
    JobSpec,
    JobTimeouts,
    LogRecord,
    Resources,
)

_NAME_CHARACTERS_MAX: Final = 64
_END_POLLS_MAX: Final = 300
_END_POLL_S: Final = 0.1
_QUEUE_POLLS: Final = 20
_QUEUE_POLL_S: Final = 0.25


def _pairs_of(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        pairs[name] = text
    return pairs


def outputs_of(values: tuple[str, ...]) -> list[JobOutput]:
    """Read options such as `model.joblib:digits`; raises BadParameter."""
    outputs = []
    for value in values:
        path, _, model = value.partition(":")
        if not path:
            raise click.BadParameter(f"{value!r} is not PATH or PATH:MODEL")
        outputs.append(JobOutput(name=model or _part_name(path), path=path, register_as=model))
    return outputs


def _part_name(path: str) -> str:
    """Return a name for an output that has only a path, which may hold what no name does."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", path).lstrip("._-")[:_NAME_CHARACTERS_MAX] or "output"


def _job_options(command: Command) -> Command:
    options = [
        click.option("--name", help="Name for people; the folder's by default."),
        click.option("--image", default="modelyard/train-sklearn", show_default=True),
        click.option("--cpu", default=1000, show_default=True, help="Thousandths of a core."),
        click.option(
            "--memory", default="1G", show_default=True, callback=bytes_of, help="6M at least."
        ),
        click.option("--time-out", type=int, help="Longest run, in seconds."),
        click.option("--priority", type=click.IntRange(0, 100), default=50, show_default=True),
        click.option("--env", multiple=True, metavar="NAME=VALUE", callback=_pairs_of),
        click.option(
            "--output",
            "outputs",
            multiple=True,
            metavar="PATH[:MODEL]",
            callback=lambda _context, _parameter, values: outputs_of(values),
            help="Collect this file or folder of $MODELYARD_OUTPUTS, as MODEL's new version.",
        ),
        click.option("--idempotency-key", help="Makes the submission repeatable."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("command", nargs=-1, required=True)
@click.option("--detach", is_flag=True, help="Do not follow the job.")
@_job_options
@pass_session
def run(  # noqa: PLR0917
    session: Session,
    folder: Path,
    command: tuple[str, ...],
    detach: bool,
    name: str | None,
    image: str,
    cpu: int,
    memory: int,
    time_out: int | None,
    priority: int,
    env: dict[str, str],
    outputs: list[JobOutput],
    idempotency_key: str | None,
) -> int:
    """Send FOLDER, run COMMAND in it, follow its output, and end with its exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            bundle = pack(folder, Path(scratch) / "source.tar.gz")
        except (BundleTooLarge, OSError) as error:
            raise click.UsageError(str(error)) from error
        files = "1 file" if bundle.file_count == 1 else f"{bundle.file_count} files"
        click.echo(f"sending {files}, {bundle.size_bytes} bytes", err=True)
        digest = session.client.put_artifact(bundle.path, digest=bundle.digest)
    spec = JobSpec(
        name=name or folder.resolve().name,
        image=image,
        command=list(command),
        env=env,
        source_digest=digest,
        outputs=outputs,
        resources=Resources(cpu_millicores=cpu, memory_bytes=memory),
        timeouts=JobTimeouts(run=None if time_out is None else timedelta(seconds=time_out)),
        priority=priority,
    )
    try:
        job = session.client.submit_job(spec, idempotency_key=idempotency_key)
    except ApiError as error:
        raise told_by_options(error, spec) from error
    click.echo(f"job {job.id}", err=True)
    if detach:
        _show_job(session, job)
        return 0
    try:
        _tell_if_it_waits(session.client, job)
        for record in session.client.follow_logs(job.id):
            _show_record(session, record)
        job = _ended(session.client, job.id)
    except KeyboardInterrupt:
        click.echo(f"\nthe job goes on; to end it: modelyard job cancel {job.id}", err=True)
        raise
    click.echo(f"job {job.id} {job.state}: {job.reason}", err=True)
    return _exit_code(job)


@click.group("job")
def job_group() -> None:
    """Submit, show and end jobs."""


@job_group.command("submit", epilog=HELP)
@click.argument("spec", type=click.File("rb"))
@click.option("--idempotency-key", help="Makes the submission repeatable.")
@pass_session
def job_submit(session: Session, spec: Any, idempotency_key: str | None) -> None:
    """Queue the job that the JSON file SPEC describes; - reads standard input."""
    parsed = read_job_file(spec.name, spec.read())
    _show_job(session, session.client.submit_job(parsed, idempotency_key=idempotency_key))


@job_group.command("show")
@click.argument("job_id")
@pass_session
def job_show(session: Session, job_id: str) -> None:
    """Show one job."""
    _show_job(session, session.client.job(job_id))


@job_group.command("list")
@click.option("--state", "states", multiple=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@pass_session
def job_list(session: Session, states: tuple[str, ...], limit: int) -> None:
    """Show the newest jobs."""
    jobs = session.client.jobs(states=tuple(state.upper() for state in states), limit=limit)
    if session.is_json:
        show_json(jobs)
        return
    show_table(
        ("JOB", "NAME", "STATE", "AGE", "REASON"),
        [(job.id, job.spec.name, job.state, age(job.created_at), job.reason) for job in jobs],
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
@click.option("-f", "--follow", is_flag=True, help="Go on until the job's output is complete.")
@click.option("--after", default="", help="Position to go on after, attempt.sequence.")
@pass_session
def job_logs(session: Session, job_id: str, follow: bool, after: str) -> None:
    """Print a job's output."""
    read = session.client.follow_logs if follow else session.client.logs
    for record in read(job_id, after=after):
        _show_record(session, record)


def _show_job(session: Session, job: Job) -> None:
    if session.is_json:
        show_json(job)
        return
    fields: list[tuple[str, object]] = [
        ("job", job.id),
        ("name", job.spec.name),
        ("state", job.state),
        ("reason", job.reason),
        ("attempt", job.attempt_number),
        ("age", age(job.created_at)),
        ("trace", job.trace_id),
        *_asked(job.spec),
    ]
    if job.progress:
        fields.append(("progress", f"{job.progress.fraction:.0%} {job.progress.message}"))
    if job.failure:
        fields.append(("failure", f"{job.failure.reason}: {job.failure.message}"))
        fields.append(("last lines", job.failure.last_lines))
    show_fields(fields)


def _asked(spec: JobSpec) -> list[tuple[str, object]]:
    """Return what the job was to be."""
    asked = spec.resources
    run, grace = duration(spec.timeouts.run), duration(spec.timeouts.stop_grace)
    return [
        ("image", spec.image),
        ("command", _one_line(shlex.join(spec.command))),
        (
            "resources",
            f"cpu {asked.cpu_millicores}, memory {asked.memory_bytes / (1 << 20):g} MiB, "
            f"gpus {asked.gpu_count}",
        ),
        ("priority", spec.priority),
        ("time-outs", f"run {run}, stop grace {grace}"),
    ]


def _one_line(text: str) -> str:
    """Return a text with what would leave its line, or move the cursor, spelt out."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _show_record(session: Session, record: LogRecord) -> None:
    if session.is_json:
        click.echo(record.model_dump_json())
    else:
        click.echo(record.text, err=record.stream == "stderr")


def _tell_if_it_waits(client: Client, job: Job) -> None:
    """Tell why there is no output yet; what a job prints meanwhile is kept, and followed next."""
    for _ in range(_QUEUE_POLLS):
        if job.state != "QUEUED":
            return
        client.sleep(_QUEUE_POLL_S)
        job = client.job(job.id)
    if job.state == "QUEUED":
        click.echo(f"job {job.id} QUEUED: it starts when a node has room for it", err=True)


def _ended(client: Client, job_id: str) -> Job:
    """Return the job once it is terminal: its output may be complete a moment before that."""
    job = client.job(job_id)
    for _ in range(_END_POLLS_MAX):
        if job.is_terminal:
            break
        client.sleep(_END_POLL_S)
        job = client.job(job_id)
    return job


def _exit_code(job: Job) -> int:
    if job.state == "SUCCEEDED":
        return 0
    if job.failure is not None and job.failure.exit_code:
        return job.failure.exit_code
    return EXIT_FAILED
