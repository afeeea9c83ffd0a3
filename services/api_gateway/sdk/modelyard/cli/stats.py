"""`stats`: how a tenant's jobs have fared."""

from datetime import timedelta

import click
from modelyard.cli.output import show_json, show_table
from modelyard.cli.session import Session, duration_of, pass_session
from modelyard.cli.timeline import clock_of
from modelyard.client import JobTimes


@click.command()
@click.option(
    "--window",
    default="1d",
    show_default=True,
    callback=duration_of,
    help="How far to look back, such as 12h; 30d at most.",
)
@pass_session
def stats(session: Session, window: timedelta) -> None:
    """Show how long jobs waited for their first admission and ran, and how they ended."""
    told = session.client.stats(window=window)
    if session.is_json:
        show_json(told)
        return
    click.echo(f"from {told.since:%Y-%m-%dT%H:%M:%SZ} to {told.until:%Y-%m-%dT%H:%M:%SZ}")
    if not told.is_whole:
        click.echo("there are more jobs than are looked at: these are the latest")
    click.echo()
    show_table(
        ("QUEUE", "PRIORITY", "ADMITTED", "WAITED P50", "WAITED P99"),
        [
            (group.queue, group.priority, group.waited.job_count, *_percentiles(group.waited))
            for group in told.waits
        ],
    )
    click.echo()
    show_table(
        ("STATE", "ENDED", "RAN", "RAN P50", "RAN P99"),
        [
            (group.state, group.job_count, group.ran.job_count, *_percentiles(group.ran))
            for group in told.ends
        ],
    )


def _percentiles(times: JobTimes) -> tuple[str, str]:
    p50, p99 = (
        "-" if length_s is None else clock_of(length_s) for length_s in (times.p50_s, times.p99_s)
    )
    return p50, p99
