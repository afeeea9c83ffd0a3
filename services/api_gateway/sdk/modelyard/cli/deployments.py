"""`deploy` and `predict`: keep model servers running, and ask them."""

import json
from typing import Any

import click
from modelyard.cli.output import show_fields, show_json, show_record, show_table
from modelyard.cli.reasons import reason_fields, start_in_words
from modelyard.cli.session import (
    Session,
    age,
    if_version_option,
    memory_of,
    pass_session,
    repeatable,
)
from modelyard.cli.told_options import told_by_options
from modelyard.client import ApiError, Deployment, DeploymentSpec, Resources


@click.group("deploy")
def deploy_group() -> None:
    """Keep model servers running."""


@deploy_group.command("create")
@click.argument("name")
@click.argument("model")
@click.option("--replicas", type=click.IntRange(1, 32), default=1, show_default=True)
@click.option("--image", default="modelyard/serve-sklearn", show_default=True)
@click.option(
    "--cpu",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Thousandths of a core a replica.",
)
@click.option(
    "--memory", default="1G", show_default=True, callback=memory_of, help="6M at least, a replica."
)
@repeatable("the creation")
@pass_session
def deploy_create(  # noqa: PLR0917
    session: Session,
    name: str,
    model: str,
    replicas: int,
    image: str,
    cpu: int,
    memory: int,
    idempotency_key: str | None,
) -> None:
    """Serve MODEL (models:/name@alias or models:/name/version) as NAME."""
    spec = DeploymentSpec(
        name=name,
        model=model,
        image=image,
        replica_count=replicas,
        resources=Resources(cpu_millicores=cpu, memory_bytes=memory),
    )
    try:
        created = session.client.create_deployment(spec, idempotency_key=idempotency_key)
    except ApiError as error:
        raise told_by_options(error, spec) from error
    _show_deployment(session, created)


@deploy_group.command("show")
@click.argument("name")
@pass_session
def deploy_show(session: Session, name: str) -> None:
    """Show one deployment."""
    _show_deployment(session, session.client.deployment(name))


@deploy_group.command("explain")
@click.argument("name")
@pass_session
def deploy_explain(session: Session, name: str) -> None:
    """Say why replicas wait, what would help, and about when the first of them starts."""
    told = session.client.explain_deployment(name)
    if session.is_json:
        show_json(told)
        return
    fields: list[tuple[str, object]] = [("state", told.state), *reason_fields(told)]
    if told.waiting_count:
        about = start_in_words(told)
        fields += [("waiting", told.waiting_count), ("starts", about)]
    show_fields(fields)


@deploy_group.command("list")
@pass_session
def deploy_list(session: Session) -> None:
    """Show the tenant's deployments."""
    deployments = session.client.deployments()
    if session.is_json:
        show_json(deployments)
        return
    show_table(
        ("DEPLOYMENT", "STATE", "MODEL", "READY", "AGE"),
        [
            (
                found.spec.name,
                found.state,
                f"{found.model_name}/{found.model_version}",
                _ready(found),
                age(found.created_at),
            )
            for found in deployments
        ],
    )


@deploy_group.command("delete")
@click.argument("name")
@if_version_option
@pass_session
def deploy_delete(session: Session, name: str, if_version: int | None) -> None:
    """Stop serving."""
    _show_deployment(session, session.client.delete_deployment(name, if_version=if_version))


@deploy_group.command("logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the output of each is complete.")
@click.option("--after", default="", help="Position to go on after, attempt.sequence.")
@pass_session
def deploy_logs(session: Session, name: str, follow: bool, after: str) -> None:
    """Print the output of a deployment's replicas."""
    client = session.client
    read = client.follow_deployment_logs if follow else client.deployment_logs
    for record in read(name, after=after):
        show_record(record, is_json=session.is_json)


@click.command()
@click.argument("deployment")
@click.argument("request_file", type=click.File("rb"), default="-")
@pass_session
def predict(session: Session, deployment: str, request_file: Any) -> None:
    """Ask DEPLOYMENT; the Open Inference Protocol v2 body comes from a file or standard input."""
    try:
        body = json.loads(request_file.read())
    except ValueError as error:
        raise click.UsageError(f"{request_file.name}: no JSON: {error}") from error
    answer = session.client.infer(deployment, body)
    if session.is_json:
        show_json(answer)
        return
    for output in answer.outputs:
        click.echo(f"{output['name']}: {json.dumps(output.get('data'))}")


def _show_deployment(session: Session, deployment: Deployment) -> None:
    if session.is_json:
        show_json(deployment)
        return
    show_fields(
        [
            ("deployment", deployment.spec.name),
            ("id", deployment.id),
            ("version", deployment.version),
            ("state", deployment.state),
            ("reason", deployment.reason),
            ("model", f"{deployment.model_name}/{deployment.model_version}"),
            ("ready", _ready(deployment)),
            ("trace", deployment.trace_id),
        ]
    )


def _ready(deployment: Deployment) -> str:
    ready = sum(replica.state == "READY" for replica in deployment.replicas)
    return f"{ready}/{deployment.spec.replica_count}"
