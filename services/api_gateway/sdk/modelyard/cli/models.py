"""`model`: show models and move their aliases."""

import click
from modelyard.cli.output import show_fields, show_json, show_table
from modelyard.cli.session import Session, age, pass_session


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
    show_fields([("model", model.name), ("aliases", _aliases(model.aliases))])
    show_table(
        ("VERSION", "STATE", "FILES", "BYTES", "JOB", "METRICS"),
        [
            (
                version.version,
                version.state,
                len(version.files),
                sum(file.size_bytes for file in version.files),
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
@pass_session
def model_alias(session: Session, name: str, alias: str, version: int) -> None:
    """Point ALIAS of model NAME at VERSION."""
    model = session.client.set_alias(name, alias, version)
    if session.is_json:
        show_json(model)
    else:
        show_fields([("model", model.name), ("aliases", _aliases(model.aliases))])


def _aliases(aliases: dict[str, int]) -> str:
    return " ".join(f"{name}={version}" for name, version in sorted(aliases.items())) or "-"
