"""What every command gets, and how options are read."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import click
from modelyard.cli.settings import CliSettings
from modelyard.client import IDEMPOTENCY_KEY, KEY_IN_WORDS, Client

EXIT_FAILED: Final = 1
EXIT_REFUSED: Final = 3
EXIT_UNREACHABLE: Final = 4
EXIT_INTERRUPTED: Final = 128 + 2
EXIT_BROKEN_PIPE: Final = 128 + 13
_BYTES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MEMORY_BYTES_MIN: Final = 6 << 20
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Session:
    """The settings, a client, and the form of output."""

    settings: CliSettings
    client: Client
    is_json: bool


pass_session = click.make_pass_decorator(Session)

if_version_option: Final = click.option(
    "--if-version",
    type=click.IntRange(min=1),
    help="Change nothing if it is at another version than this by now.",
)


def _key_of(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and IDEMPOTENCY_KEY.fullmatch(text) is None:
        raise click.BadParameter(KEY_IN_WORDS)
    return text


def repeatable(what: str) -> Callable[[Command], Command]:
    """Return the option by which who repeats a request makes sure that it has one effect."""
    return click.option("--idempotency-key", callback=_key_of, help=f"Makes {what} repeatable.")


def age(at: datetime) -> str:
    """Return how long ago, in its largest unit."""
    seconds = int((datetime.now(UTC) - at).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def duration_of(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> timedelta | None:
    """Read an option such as `90d`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise click.BadParameter("must be a time such as 90d, 24h, 30m or 10s")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def duration(length: timedelta | None) -> str:
    """Return a duration in the largest unit that it is a whole number of; `-` for none."""
    if length is None:
        return "-"
    seconds = length.total_seconds()
    for unit, length_s in sorted(_SECONDS.items(), key=lambda each: -each[1]):
        if seconds and seconds % length_s == 0:
            return f"{seconds // length_s:.0f}{unit}"
    return f"{seconds:g}s"


def size(size_bytes: int) -> str:
    """Return an amount of bytes in its largest unit, rounded: `12.1 KiB`."""
    for unit, unit_bytes in sorted(_BYTES.items(), key=lambda each: -each[1]):
        if unit and size_bytes >= unit_bytes:
            return f"{round(size_bytes / unit_bytes, 1):g} {unit}iB"
    return "1 byte" if size_bytes == 1 else f"{size_bytes} bytes"


def bytes_of(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Read an option such as `512M`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", text)
    if found is None:
        raise click.BadParameter("must be a number of bytes, such as 512M")
    return int(found[1]) * _BYTES[found[2]]


def memory_of(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Read how much memory something gets; no container starts with less than 6 MiB."""
    memory_bytes = bytes_of(context, parameter, text)
    if memory_bytes is not None and memory_bytes < _MEMORY_BYTES_MIN:
        raise click.BadParameter("must be at least 6M: no container starts with less")
    return memory_bytes
