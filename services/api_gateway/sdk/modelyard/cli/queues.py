"""`queue`: the line; what jobs stand in it as, and keeping that from its start."""

import click
from modelyard.cli.line_view import show_line
from modelyard.cli.output import show_json, show_table
from modelyard.cli.session import Session, age, pass_session
from modelyard.client import ApiError, Client, Queue


@click.group("queue", invoke_without_command=True)
@click.option("--once", is_flag=True, help="Look once; so it is where output is no terminal, too.")
@pass_session
@click.pass_context
def queue_group(context: click.Context, session: Session, once: bool) -> None:
    """Watch the line: who waits, at which place and for what, and what runs; Ctrl-C ends it.

    With a command: list queues, pause and resume them. A queue needs no creation: jobs name it.
    """
    if context.invoked_subcommand is None:
        show_line(session, once=once)


@queue_group.command("list")
@pass_session
def queue_list(session: Session) -> None:
    """Show the queues that are paused, or of which a job has not ended."""
    _show(session, session.client.queues())


@queue_group.command("pause")
@click.argument("name")
@click.option("--reason", required=True, help="What its jobs' owners are told.")
@pass_session
def queue_pause(session: Session, name: str, reason: str) -> None:
    """Start nothing of a queue any more: what runs goes on, what waits keeps its place."""
    _show(session, [session.client.pause_queue(name, reason=reason)])


@queue_group.command("resume")
@click.argument("name")
@pass_session
def queue_resume(session: Session, name: str) -> None:
    """End a queue's pause; say so where it was not paused."""
    client = session.client
    was_paused = _is_paused(client, name)
    queue = client.resume_queue(name)
    _show(session, [queue])
    if not was_paused:
        has_jobs = queue.queued_count + queue.running_count > 0
        known = "" if has_jobs else ", and no job that has not ended names it"
        click.echo(f"queue {name} was not paused{known}", err=True)


def _is_paused(client: Client, name: str) -> bool:
    """Tell whether a queue is paused; True also where nobody can tell, which keeps from nothing."""
    try:
        return any(each.name == name and each.paused_at for each in client.queues())
    except ApiError:
        return True


def _show(session: Session, queues: list[Queue]) -> None:
    if session.is_json:
        show_json(queues)
        return
    show_table(
        ("QUEUE", "STATE", "QUEUED", "RUNNING", "REASON"),
        [
            (each.name, _state(each), each.queued_count, each.running_count, each.paused_reason)
            for each in queues
        ],
    )


def _state(queue: Queue) -> str:
    return "open" if queue.paused_at is None else f"paused for {age(queue.paused_at)}"
