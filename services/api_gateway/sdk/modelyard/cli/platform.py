"""`trace` and `status`: the platform itself."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import click
from modelyard.cli.neighbours import Unknown, addresses_of, ask
from modelyard.cli.nodes import show_nodes
from modelyard.cli.output import show_fields, show_json, show_table
from modelyard.cli.session import EXIT_REFUSED, EXIT_UNREACHABLE, Session, pass_session
from modelyard.cli.trace_view import fetch_trace
from modelyard.client import ApiError, ConnectionFailed, Node

_CALLS: Final = {"open": "open: calls are refused", "half-open": "half-open: one call is tried"}

_AWAY: Final = frozenset({"UNREACHABLE", "UNREADABLE", "UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""Codes of what can't be told since whoever could tell does not answer."""

_KEY_REFUSED: Final = "UNAUTHENTICATED"
"""Nobody: a good key that may not see nodes is told so, and all else of the status holds for it."""


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
    """Tell whether the platform is ready, check by check, and what each node is up to.

    Of services behind the gateway, it tells where MODELYARD_OPERATIONS names them. Ends with an
    error where the gateway is not ready, one of the services is away or the key is refused.
    """
    addresses = addresses_of(session.settings.operations)
    report = session.client.readiness()
    nodes = _nodes(session)
    neighbours = {
        name: ask(address, transport=session.client.transport)
        for name, address in addresses.items()
    }
    if session.is_json:
        _show_json(report, nodes, neighbours)
    else:
        rows = sorted(_checks(report).items())
        ready = "yes" if report["ready"] else "no"
        show_fields([("gateway", session.settings.url), ("gateway ready", ready), *rows])
        _show_what_ails(neighbours)
        _show_breakers({"api_gateway": report, **neighbours})
        if isinstance(nodes, Unknown):
            click.echo(f"nodes unknown ({nodes.code}): {nodes.detail}")
        else:
            click.echo()
            show_nodes(nodes)
    is_away = any(
        isinstance(part, Unknown) and part.code in _AWAY for part in (nodes, *neighbours.values())
    )
    if is_away or not report["ready"]:
        return EXIT_UNREACHABLE
    is_refused = isinstance(nodes, Unknown) and nodes.code == _KEY_REFUSED
    return EXIT_REFUSED if is_refused else 0


def _show_json(
    report: Mapping[str, Any],
    nodes: list[Node] | Unknown,
    neighbours: Mapping[str, Mapping[str, Any] | Unknown],
) -> None:
    parts = {"nodes": nodes, **neighbours}
    errors = {name: asdict(part) for name, part in parts.items() if isinstance(part, Unknown)}
    known_nodes = None if isinstance(nodes, Unknown) else [n.model_dump(mode="json") for n in nodes]
    services = {
        name: None if isinstance(told, Unknown) else dict(told) for name, told in neighbours.items()
    }
    show_json({**report, "nodes": known_nodes, "services": services, "errors": errors})


def _checks(report: Mapping[str, Any]) -> dict[str, str]:
    return {**report.get("checks", {}), **report.get("advisories", {})}


def _show_what_ails(neighbours: Mapping[str, Mapping[str, Any] | Unknown]) -> None:
    """Show of each service behind the gateway which of its checks fail; nothing where none does."""
    rows = [
        (service, check, answer)
        for service, report in neighbours.items()
        if not isinstance(report, Unknown)
        for check, answer in sorted(_checks(report).items())
        if answer != "ok"
    ]
    if rows:
        click.echo()
        show_table(("SERVICE", "CHECK", "ANSWER"), rows)


def _show_breakers(told: Mapping[str, Mapping[str, Any] | Unknown]) -> None:
    """Show each service's edges to others, or why it can't tell of them."""
    rows = [
        (service, edge, _CALLS.get(state, state))
        for service, report in told.items()
        if not isinstance(report, Unknown)
        for edge, state in sorted(report.get("breakers", {}).items())
    ]
    if rows:
        click.echo()
        show_table(("SERVICE", "EDGE", "BREAKER"), rows)
    for service, report in told.items():
        if isinstance(report, Unknown):
            click.echo(f"{service} unknown ({report.code}): {report.detail}")


def _nodes(session: Session) -> list[Node] | Unknown:
    """Return the nodes, or why they can't be told: the rest of the status is worth showing."""
    try:
        return session.client.nodes()
    except ApiError as error:
        return Unknown(error.code, str(error))
    except ConnectionFailed as error:
        return Unknown("UNREACHABLE", str(error))
