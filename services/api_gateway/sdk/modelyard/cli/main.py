"""The `modelyard` command: one group a noun, one module a group.

Exit codes: 0 done; 1 the job failed (`run`: the program's own code); 2 wrong usage; 3 the platform
refused; 4 it could not be reached, or what answers is none; 130 interrupted; 141 nobody reads on.
"""

import re
import sys
from typing import NoReturn

import click
import httpx
from modelyard.cli.deployments import deploy_group, predict
from modelyard.cli.jobs import job_group, run
from modelyard.cli.keys import key_group
from modelyard.cli.members import member_group
from modelyard.cli.models import model_group
from modelyard.cli.nodes import node_group
from modelyard.cli.platform import status, trace_group
from modelyard.cli.queues import queue_group
from modelyard.cli.session import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    Session,
)
from modelyard.cli.settings import CliSettings, local_file
from modelyard.cli.stats import stats
from modelyard.cli.tenants import tenant_group
from modelyard.cli.tracing import root_span
from modelyard.client import ApiError, Client, ConnectionFailed, InvalidId
from pydantic import ValidationError


def main() -> NoReturn:
    """Run the command line; the entry point of the `modelyard` script."""
    settings = CliSettings.of_environment()
    words = [word for word in sys.argv[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
    name = " ".join(words[:2]) or "help"
    code = 0
    with root_span(f"modelyard {name}", otlp_endpoint=settings.otlp_endpoint):
        try:
            result = cli.main(standalone_mode=False, obj=settings)
            code = result if isinstance(result, int) else 0
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort:
            code = EXIT_INTERRUPTED
        except SystemExit:
            code = EXIT_BROKEN_PIPE  # click's way to say so, the only one that it has here
        except InvalidId as error:
            usage = click.UsageError(str(error))
            usage.show()
            code = usage.exit_code
        except ApiError as error:
            later = "; it may go well a moment later" if error.is_passing else ""
            click.echo(f"refused ({error.code}): {error}{later}", err=True)
            code = EXIT_REFUSED
        except (ConnectionFailed, httpx.HTTPError, httpx.InvalidURL) as error:
            click.echo(f"can't reach the platform: {error}", err=True)
            if "url" not in settings.model_fields_set:
                click.echo(f"no MODELYARD_URL, and none in {local_file()}", err=True)
            code = EXIT_UNREACHABLE
        except ValidationError as error:
            click.echo(f"{settings.url} answers with no {error.title} of Modelyard's", err=True)
            code = EXIT_UNREACHABLE
    sys.exit(code)


@click.group()
@click.option("--json", "is_json", is_flag=True, help="Print JSON for programs.")
@click.version_option(package_name="modelyard")
@click.pass_context
def cli(context: click.Context, is_json: bool) -> None:
    """Run, register and serve machine-learning work."""
    settings = context.find_object(CliSettings) or CliSettings.of_environment()
    key = settings.api_key.get_secret_value()
    try:
        client = Client(settings.url, key, for_tenant=settings.tenant or None)
    except ValueError as error:
        raise click.UsageError(f"MODELYARD_API_KEY: {error}") from error
    client = context.with_resource(client)
    context.obj = Session(settings=settings, client=client, is_json=is_json)


for _command in (
    run,
    job_group,
    stats,
    model_group,
    deploy_group,
    predict,
    trace_group,
    status,
    key_group,
    tenant_group,
    member_group,
    node_group,
    queue_group,
):
    cli.add_command(_command)
