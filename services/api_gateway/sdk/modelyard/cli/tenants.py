"""`tenant`: administer all tenants; for keys that administer the platform."""

from datetime import timedelta

import click
from modelyard.cli.output import show_fields, show_json, show_table
from modelyard.cli.session import (
    Session,
    age,
    bytes_of,
    duration_of,
    if_version_option,
    pass_session,
)
from modelyard.cli.told_options import told_by_options
from modelyard.client import ApiError, Plan, Tenant

_UNLIMITED = "-"


@click.group("tenant")
def tenant_group() -> None:
    """Administer tenants."""


@tenant_group.command("create")
@click.argument("name")
@pass_session
def tenant_create(session: Session, name: str) -> None:
    """Make a tenant, and print its first key: it is shown this once."""
    tenant, key = session.client.create_tenant(name)
    if session.is_json:
        show_json({"tenant": tenant.model_dump(mode="json"), "key": key})
        return
    click.echo(key)


@tenant_group.command("list")
@pass_session
def tenant_list(session: Session) -> None:
    """Show all tenants."""
    tenants = session.client.tenants()
    if session.is_json:
        show_json(tenants)
        return
    show_table(
        ("TENANT", "STATE", "AGE", "REASON"),
        [(found.id, found.state, age(found.created_at), found.reason) for found in tenants],
    )


@tenant_group.command("show")
@click.argument("name")
@pass_session
def tenant_show(session: Session, name: str) -> None:
    """Show one tenant with its plan."""
    _show(session, session.client.tenant(name))


@tenant_group.command("key")
@click.argument("name")
@pass_session
def tenant_key(session: Session, name: str) -> None:
    """Print another administrator key of a tenant whose own is lost: it is shown this once."""
    key = session.client.issue_tenant_key(name)
    if session.is_json:
        show_json({"key": key})
        return
    click.echo(key)


@tenant_group.command("suspend")
@click.argument("name")
@click.option("--reason", required=True, help="What its callers are told.")
@if_version_option
@pass_session
def tenant_suspend(session: Session, name: str, reason: str, if_version: int | None) -> None:
    """Let a tenant only read: what runs stops with its grace, what waits stays in line."""
    _show(session, session.client.suspend_tenant(name, reason=reason, if_version=if_version))


@tenant_group.command("resume")
@click.argument("name")
@if_version_option
@pass_session
def tenant_resume(session: Session, name: str, if_version: int | None) -> None:
    """Give back what a tenant may; what was stopped goes on."""
    _show(session, session.client.resume_tenant(name, if_version=if_version))


@tenant_group.command("delete")
@click.argument("name")
@click.option(
    "--grace",
    default="7d",
    show_default=True,
    callback=duration_of,
    help="Until then `tenant resume` brings it back; 90d at the most.",
)
@click.option("--yes", "is_sure", is_flag=True, help="Say that you mean it.")
@if_version_option
@pass_session
def tenant_delete(
    session: Session, name: str, grace: timedelta, if_version: int | None, *, is_sure: bool
) -> None:
    """Stop a tenant as `suspend` does, and delete all it has after the grace, for good."""
    if not is_sure:
        raise click.UsageError(
            f"all that {name} has will be deleted, and the name is not given again: say --yes"
        )
    _show(session, session.client.delete_tenant(name, grace=grace, if_version=if_version))


@tenant_group.command("plan")
@click.argument("name")
@click.option("--queued-jobs-max", type=click.IntRange(min=0), help="Jobs in line.")
@click.option("--replicas-max", type=click.IntRange(min=0), help="Of all deployments together.")
@click.option("--priority-max", type=click.IntRange(0, 100), help="Largest priority of a job.")
@click.option(
    "--requests-max",
    type=click.IntRange(min=1),
    help="Requests in a window of the gateway's (60 s).",
)
@click.option(
    "--running-cpu-max",
    "running_cpu_millicores_max",
    type=click.IntRange(min=0),
    help="Thousandths of a core of all that runs together.",
)
@click.option(
    "--running-memory-max",
    "running_memory_bytes_max",
    callback=bytes_of,
    help="Of all that runs together, such as 64G.",
)
@click.option(
    "--running-gpus-max",
    "running_gpu_count_max",
    type=click.IntRange(min=0),
    help="Of all that runs together.",
)
@click.option("--unlimited", "is_unlimited", is_flag=True, help="Take all limits away.")
@if_version_option
@pass_session
def tenant_plan(
    session: Session,
    /,
    name: str,
    *,
    is_unlimited: bool,
    if_version: int | None,
    **limits: int | None,
) -> None:
    """Set how much a tenant may have; what is left out is the platform's own setting."""
    if is_unlimited == any(limit is not None for limit in limits.values()):
        raise click.UsageError("name either limits or --unlimited; `tenant show` tells the plan")
    plan = Plan(**limits)
    try:
        changed = session.client.plan_tenant(name, plan, if_version=if_version)
    except ApiError as error:
        raise told_by_options(error, plan) from error
    _show(session, changed)


def _show(session: Session, tenant: Tenant) -> None:
    if session.is_json:
        show_json(tenant)
        return
    limits = [
        (name.replace("_", "-"), _UNLIMITED if limit is None else limit)
        for name, limit in tenant.plan.model_dump().items()
    ]
    show_fields(
        [
            ("tenant", tenant.id),
            ("state", tenant.state),
            ("reason", tenant.reason),
            ("version", tenant.version),
            *([("purge-at", tenant.purge_at.isoformat())] if tenant.purge_at else []),
            *limits,
        ]
    )
