"""`trace`, `status` and `key`: the platform itself."""

import re

import click
from modelyard.cli.output import show_fields, show_json, show_table
from modelyard.cli.session import EXIT_REFUSED, EXIT_UNREACHABLE, Session, age, pass_session
from modelyard.cli.trace_view import fetch_trace


@click.group("trace")
def trace_group() -> None:
    """Look at traces."""


@trace_group.command("show")
@click.argument("trace_id")
@pass_session
def trace_show(session: Session, trace_id: str) -> int:
    """Print a trace as a tree with times."""
    if not session.settings.jaeger_url:
        raise click.UsageError("MODELYARD_JAEGER_URL is not set")
    if re.fullmatch(r"[0-9a-fA-F]{32}", trace_id) is None:
        raise click.BadParameter("must be 32 hexadecimal digits", param_hint="TRACE_ID")
    trace = fetch_trace(session.settings.jaeger_url, trace_id)
    if trace is None:
        click.echo(f"trace {trace_id} was not found", err=True)
        return EXIT_REFUSED
    if session.is_json:
        show_json(
            {
                "trace_id": trace.id,
                "span_count": len(trace.spans),
                "services": trace.services,
                "orphan_count": len(trace.orphans),
                "root_count": len(trace.roots),
                "spans": [
                    {"service": span.service, "name": span.name, "duration_us": span.duration_us}
                    for span in trace.spans
                ],
            }
        )
        return 0
    click.echo(f"trace {trace.id}: {len(trace.spans)} spans, {', '.join(trace.services)}")
    click.echo("    offset      duration")
    for line in trace.lines():
        click.echo(line)
    return 0


@click.command()
@pass_session
def status(session: Session) -> int:
    """Tell whether the platform is ready, check by check."""
    report = session.client.readiness()
    if session.is_json:
        show_json(report)
    else:
        rows = sorted(report.get("checks", {}).items())
        show_fields([("gateway", session.settings.url), ("ready", report["ready"]), *rows])
    return 0 if report["ready"] else EXIT_UNREACHABLE


@click.group("key")
def key_group() -> None:
    """Issue and revoke API keys."""


@key_group.command("issue")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True)
@pass_session
def key_issue(session: Session, name: str, scopes: tuple[str, ...]) -> None:
    """Make a key; its text is printed this once."""
    key, text = session.client.issue_key(name, list(scopes))
    if session.is_json:
        show_json({"key": key.model_dump(mode="json"), "text": text})
    else:
        show_fields([("id", key.id), ("scopes", " ".join(key.scopes)), ("key", text)])


@key_group.command("list")
@pass_session
def key_list(session: Session) -> None:
    """Show the tenant's keys."""
    keys = session.client.keys()
    if session.is_json:
        show_json(keys)
        return
    show_table(
        ("KEY", "NAME", "SCOPES", "AGE", "STATE"),
        [
            (
                key.id,
                key.name,
                " ".join(key.scopes),
                age(key.created_at),
                "revoked" if key.revoked_at else "in force",
            )
            for key in keys
        ],
    )


@key_group.command("revoke")
@click.argument("key_id")
@pass_session
def key_revoke(session: Session, key_id: str) -> None:
    """Put a key out of force."""
    session.client.revoke_key(key_id)
