"""`model`: show models and move their aliases."""

import click
from modelyard.cli.output import show_fields, show_json, show_table
from modelyard.cli.session import Session, age, pass_session, size
from modelyard.client import Model

_if_revision_option = click.option(
    "--if-revision",
    type=click.IntRange(min=1),
    help="Change nothing if the alias is at another revision than this by now.",
)


@click.group("model")
def model_group() -> None:
    """Show models and move their aliases."""


@model_group.command("list")
@pass_session
def model_list(session: Session) -> None:
    """Show the tenant's models."""
    models = session.client.models()
    if session.is_json:
        show_json(models)
        return
    show_table(
        ("MODEL", "NEWEST", "ALIASES", "AGE"),
        [
            (model.name, model.newest_version, _aliases(model.aliases), age(model.created_at))
            for model in models
        ],
    )


@model_group.command("show")
@click.argument("name")
@pass_session
def model_show(session: Session, name: str) -> None:
    """Show a model and its versions."""
    model = session.client.model(name)
    versions = session.client.model_versions(name)
    if session.is_json:
        show_json(
            {
                "model": model.model_dump(mode="json"),
                "versions": [version.model_dump(mode="json") for version in versions],
            }
        )
        return
    _show_model(model)
    show_table(
        ("VERSION", "STATE", "FILES", "SIZE", "JOB", "METRICS"),
        [
            (
                version.version,
                version.state,
                len(version.files),
                size(sum(file.size_bytes for file in version.files)),
                version.job_id or "-",
                " ".join(f"{key}={value:g}" for key, value in version.metrics.items()),
            )
            for version in versions
        ],
    )


@model_group.command("alias")
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=int)
@_if_revision_option
@pass_session
def model_alias(
    session: Session, name: str, alias: str, *, version: int, if_revision: int | None
) -> None:
    """Point ALIAS of model NAME at VERSION."""
    model = session.client.set_alias(name, alias, version, if_revision=if_revision)
    _show_changed(session, model)


@model_group.command("unalias")
@click.argument("name")
@click.argument("alias")
@_if_revision_option
@pass_session
def model_unalias(session: Session, name: str, alias: str, if_revision: int | None) -> None:
    """Let ALIAS of model NAME point nowhere."""
    _show_changed(session, session.client.remove_alias(name, alias, if_revision=if_revision))


def _show_changed(session: Session, model: Model) -> None:
    if session.is_json:
        show_json(model)
    else:
        _show_model(model)


def _show_model(model: Model) -> None:
    show_fields(
        [
            ("model", model.name),
            ("aliases", _aliases(model.aliases)),
            ("revisions", _aliases(model.alias_revisions)),
        ]
    )


def _aliases(numbers: dict[str, int]) -> str:
    return " ".join(f"{name}={number}" for name, number in sorted(numbers.items())) or "-"
