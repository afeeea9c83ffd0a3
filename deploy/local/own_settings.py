"""What the operator tells the services beside what the stack tells them.

Owns: where that is written (`settings.env` in the state folder; the environment goes before it),
and which service each name belongs to: every one that has such a setting. Leaves values to the
services, which refuse at their start what they can't read, and what is the stack's own to it.
"""

import difflib
import os
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Union, get_args, get_origin

from dotenv import dotenv_values
from pydantic import BaseModel

from deploy.local.errors import StackError
from deploy.local.state import State
from services.api_gateway.settings import Settings as GatewaySettings
from services.log_collector.settings import Settings as CollectorSettings
from services.model_registry.settings import Settings as RegistrySettings
from services.scheduler.settings import Settings as SchedulerSettings

_PREFIX: Final = "MODELYARD_"
_BETWEEN: Final = "__"
_SETTINGS: Final[Mapping[str, type[BaseModel]]] = {
    "api_gateway": GatewaySettings,
    "log_collector": CollectorSettings,
    "model_registry": RegistrySettings,
    "scheduler": SchedulerSettings,
}


def own_settings(state: State) -> Mapping[str, Mapping[str, str]]:
    """Return the operator's settings by service, without their prefix.

    In the environment only names with a group (`MODELYARD_GROUP__NAME`) are looked at: others are
    the command line's, or the stack's. Raises StackError for a name that no service has.
    """
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
        where = "the environment" if name in grouped else str(state.settings_file)
        for service in _services_with(name, where=where):
            told.setdefault(service, {})[name.removeprefix(_PREFIX)] = value
    return told


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
        inner = list(_groups_in(field.annotation))
        names |= {variable} if not inner else set()
        names |= {each for one in inner for each in _names_of(one, f"{variable}{_BETWEEN}")}
    return names


def _groups_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the groups that a field may hold: none, one, an optional one or one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in {Union, types.UnionType, Annotated}:
        for inner in get_args(annotation):
            yield from _groups_in(inner)
