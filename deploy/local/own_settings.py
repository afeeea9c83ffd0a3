"""What the operator tells the services beside what the stack tells them.

Owns: where that is written (`settings.env` in the state folder; the environment goes before it),
and which service each name belongs to: every one that has such a setting. Leaves to the services
what they can read (`refuse_wrong` asks for them before any of them is stopped), and what is the
stack's own to it.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from deploy.local.errors import StackError
from deploy.local.state import State
from services.api_gateway.settings import Settings as GatewaySettings
from services.chassis.settings import groups_in, problems_of
from services.log_collector.settings import Settings as CollectorSettings
from services.model_registry.settings import Settings as RegistrySettings
from services.scheduler.settings import Settings as SchedulerSettings

_PREFIX: Final = "MODELYARD_"
_BETWEEN: Final = "__"
_SETTINGS: Final[Mapping[str, type[BaseSettings]]] = {
    "api_gateway": GatewaySettings,
    "log_collector": CollectorSettings,
    "model_registry": RegistrySettings,
    "scheduler": SchedulerSettings,
}


def own_settings(state: State) -> Mapping[str, Mapping[str, str]]:
    """Return the operator's settings by service, without their prefix.

    In the environment only names with a group (`MODELYARD_GROUP__NAME`) are looked at: others are
    the command line's, or the stack's. Raises StackError for a name that no service has, and for a
    line that is none.
    """
    _check_lines(state.settings_file)
    written = {
        name: value or ""
        for name, value in dotenv_values(state.settings_file, interpolate=False).items()
    }
    grouped = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PREFIX) and _BETWEEN in name
    }
    told: dict[str, dict[str, str]] = {}
    for name, value in (written | grouped).items():
        for service in _services_with(name, where=_where(state, name)):
            told.setdefault(service, {})[name.removeprefix(_PREFIX)] = value
    return told


def refuse_wrong(
    state: State,
    wished: Mapping[str, Mapping[str, str]],
    table: Mapping[str, Mapping[str, str]],
) -> None:
    """Raise StackError for what a service could not read of the operator's settings.

    `table` is all that each service would be told, theirs among it: some are wrong only together.
    """
    problems = {
        (variable, said): None
        for service in wished
        for variable, said in problems_of(
            _SETTINGS[service],
            {f"{_PREFIX}{name}": value for name, value in table[service].items()},
        )
    }
    if problems:
        sentences = [
            f"{variable}, in {_where(state, variable)}{said}"
            if variable
            else f"Settings in {state.settings_file} or the environment: {said}"
            for variable, said in problems
        ]
        raise StackError(f"{'; '.join(sentences)}. Nothing was stopped.")


def _check_lines(file: Path) -> None:
    if not file.exists():
        return
    with file.open() as stream:
        for line in parse_stream(stream):
            if line.error or (line.key is not None and line.value is None):
                raise StackError(f"Line {line.original.line} of {file} is no NAME=VALUE.")


def _where(state: State, name: str) -> str:
    return "the environment" if name in os.environ else str(state.settings_file)


def _services_with(name: str, *, where: str) -> list[str]:
    known = {service: _names_of(settings) for service, settings in _SETTINGS.items()}
    if found := [service for service, names in known.items() if name in names]:
        return found
    every = sorted(set().union(*known.values()))
    near = difflib.get_close_matches(name, every, n=1)
    meant = f"; {near[0]} is one" if near else ""
    raise StackError(f"{name}, in {where}, is no setting of any service{meant}.")


def _names_of(group: type[BaseModel], prefix: str = _PREFIX) -> set[str]:
    """Return the variables of a group's settings, those of groups in it too."""
    names = set()
    for name, field in group.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        inner = list(groups_in(field.annotation))
        names |= {variable} if not inner else set()
        names |= {each for one in inner for each in _names_of(one, f"{variable}{_BETWEEN}")}
    return names
