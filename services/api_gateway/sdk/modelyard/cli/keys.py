"""`key`: make, show, rotate and revoke API keys, and tell who the own one is."""

from datetime import UTC, datetime, timedelta

import click
from modelyard.cli.output import show_fields, show_json, show_table
from modelyard.cli.session import Session, age, duration_of, pass_session
from modelyard.client import ApiKey


@click.group("key")
def key_group() -> None:
    """Make, rotate and revoke API keys."""


@key_group.command("create")
@click.argument("name")
@click.option("--role", help="viewer, developer, operator, admin or platform-admin.")
@click.option("--scope", "scopes", multiple=True, help="Instead of a role; may be repeated.")
@click.option("--lifetime", callback=duration_of, help="Such as 90d; without it, for ever.")
@pass_session
def key_create(
    session: Session,
    name: str,
    role: str | None,
    scopes: tuple[str, ...],
    lifetime: timedelta | None,
) -> None:
    """Make a key that may do no more than yours; its text is printed this once."""
    if (role is None) == (not scopes):
        raise click.UsageError("name either --role or --scope, not both")
    key, text = session.client.issue_key(name, scopes, role=role, lifetime=lifetime)
    _show_new(session, key, text)


@key_group.command("list")
@pass_session
def key_list(session: Session) -> None:
    """Show the tenant's keys: those in force, and those that have ended lately."""
    keys = session.client.keys()
    if session.is_json:
        show_json(keys)
        return
    show_table(
        ("KEY", "NAME", "MAY", "BY", "AGE", "USED", "STATE"),
        [
            (
                key.id,
                key.name,
                _rights(key),
                _maker(key),
                age(key.created_at),
                "-" if key.last_used_at is None else f"{age(key.last_used_at)} ago",
                _state(key),
            )
            for key in keys
        ],
    )


@key_group.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap",
    default="24h",
    show_default=True,
    callback=duration_of,
    help="How long the old key still acts; 30d at the most.",
)
@pass_session
def key_rotate(session: Session, key_id: str, overlap: timedelta) -> None:
    """Put a new key of the same rights in KEY_ID's place; its text is printed this once."""
    key, text, old = session.client.rotate_key(key_id, overlap=overlap)
    _show_new(session, key, text, replaced=old)


@key_group.command("revoke")
@click.argument("key_id")
@pass_session
def key_revoke(session: Session, key_id: str) -> None:
    """Put a key out of force."""
    session.client.revoke_key(key_id)


@key_group.command("whoami")
@pass_session
def key_whoami(session: Session) -> None:
    """Tell whom the platform takes you for, and all that you may do."""
    told = session.client.whoami()
    if session.is_json:
        show_json(told)
        return
    show_fields(
        [
            ("tenant", told.tenant),
            ("subject", told.subject),
            ("roles", " ".join(told.roles) or "-"),
            ("scopes", " ".join(told.scopes)),
        ]
    )


def _show_new(session: Session, key: ApiKey, text: str, *, replaced: ApiKey | None = None) -> None:
    if session.is_json:
        shown = {"key": key.model_dump(mode="json"), "text": text}
        if replaced is not None:
            shown["replaced"] = replaced.model_dump(mode="json")
        show_json(shown)
        return
    fields = [("id", key.id), ("may", _rights(key)), ("state", _state(key)), ("key", text)]
    if replaced is not None:
        fields.append(("replaces", f"{replaced.id}, {_state(replaced)}"))
    show_fields(fields)


def _rights(key: ApiKey) -> str:
    return " ".join([*([key.role] if key.role else []), *key.scopes])


def _maker(key: ApiKey) -> str:
    """Return who made a key and, where that was another key, the person behind it."""
    maker = key.created_by or "-"
    if key.person is None or maker == f"user:{key.person.subject}":
        return maker
    return f"{maker} of user:{key.person.subject}"


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "in force"
    is_over = key.expires_at <= datetime.now(UTC)
    return "expired" if is_over else f"in force until {key.expires_at:%Y-%m-%d %H:%M} UTC"
