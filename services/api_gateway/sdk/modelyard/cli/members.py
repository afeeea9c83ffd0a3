"""`member`: who of your issuer's people belongs to a tenant, and what they do there."""

import click
from modelyard.cli.output import show_fields, show_json, show_table
from modelyard.cli.session import EXIT_REFUSED, Session, age, if_version_option, pass_session

_issuer_option = click.option(
    "--issuer", help="Whose name SUBJECT is; without it the issuer that the platform believes."
)


@click.group("member")
def member_group() -> None:
    """Let people be members of a tenant: your own, or any for the platform's administrators."""


@member_group.command("list")
@click.argument("tenant")
@pass_session
def member_list(session: Session, tenant: str) -> None:
    """Show a tenant's members."""
    members = session.client.members(tenant)
    if session.is_json:
        show_json(members)
        return
    show_table(
        ("SUBJECT", "ROLES", "VERSION", "AGE", "ROLES BY", "ISSUER"),
        [
            (
                member.subject,
                " ".join(member.roles),
                member.version,
                age(member.added_at),
                member.changed_by,
                member.issuer,
            )
            for member in members
        ],
    )


@member_group.command("add")
@click.argument("tenant")
@click.argument("subject")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    help="viewer, developer, operator, admin or platform-admin; may be repeated.",
)
@_issuer_option
@if_version_option
@pass_session
def member_add(
    session: Session,
    tenant: str,
    subject: str,
    *,
    roles: tuple[str, ...],
    issuer: str | None,
    if_version: int | None,
) -> None:
    """Let SUBJECT, the `sub` of their tokens, be a member with these roles and no others."""
    member = session.client.put_member(tenant, subject, roles, issuer=issuer, if_version=if_version)
    if session.is_json:
        show_json(member)
        return
    show_fields(
        [
            ("tenant", tenant),
            ("subject", member.subject),
            ("issuer", member.issuer),
            ("roles", " ".join(member.roles)),
            ("version", member.version),
        ]
    )


@member_group.command("remove")
@click.argument("tenant")
@click.argument("subject")
@_issuer_option
@if_version_option
@pass_session
def member_remove(
    session: Session, tenant: str, subject: str, issuer: str | None, if_version: int | None
) -> int:
    """Let SUBJECT be a member no longer: in 2 seconds their token and keys open nothing here.

    The API calls it no error if they were none, and ends their keys all the same.
    """
    was_member = any(
        member.subject == subject and issuer in {None, member.issuer}
        for member in session.client.members(tenant)
    )
    session.client.remove_member(tenant, subject, issuer=issuer, if_version=if_version)
    if was_member:
        return 0
    told = f"{subject} is no member of {tenant}; keys that they made open nothing any more"
    click.echo(f"refused (NOT_FOUND): {told}", err=True)
    return EXIT_REFUSED
