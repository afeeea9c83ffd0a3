"""Log lines: one JSON object a line on standard output, with the current trace and span.

Owns: loguru's one sink, and taking over what libraries log through the standard library. A line is
a constant sentence with fields: `logger.info("job admitted", job_id=job.id)`.
"""

import inspect
import json
import logging
import math
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO

from loguru import logger
from opentelemetry import trace
from typing_extensions import override

if TYPE_CHECKING:
    from loguru import Message, Record

_FIELD_CHARACTERS_MAX: Final = 2_000


def set_up_logging(service_name: str, *, level: str, stream: TextIO = sys.stdout) -> None:
    """Write this process's lines to `stream`, from `level` on."""

    def write(message: "Message") -> None:
        stream.write(render(service_name, message.record) + "\n")
        stream.flush()

    logger.remove()
    # diagnose=False: values of variables in tracebacks may be secrets.
    logger.add(write, level=level.upper(), format="{message}", diagnose=False, backtrace=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)


def render(service_name: str, record: "Record") -> str:
    """Return a record as one line of JSON."""
    line: dict[str, Any] = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "service": service_name,
        "message": record["message"],
        "source": f"{record['name']}:{record['line']}",
    }
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        line["trace_id"] = trace.format_trace_id(span.trace_id)
        line["span_id"] = trace.format_span_id(span.span_id)
    for name, value in record["extra"].items():
        # A field called like one of ours must not pass for it.
        line[f"{name}_" if name in line else name] = _plain(value)
    if record["exception"] is not None:
        found = record["exception"]
        line["error"] = "".join(_traceback(found.type, found.value, found.traceback))
    # ASCII: a lone surrogate, as in a file's name that is no UTF-8, would lose the whole line.
    return json.dumps(line)


def _plain(value: object) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):  # JSON knows no NaN
        return value
    return str(value)[:_FIELD_CHARACTERS_MAX]


def _traceback(kind: Any, value: Any, trace_back: Any) -> list[str]:
    import traceback  # noqa: PLC0415 only when something failed

    return traceback.format_exception(kind, value, trace_back)


class _ToLoguru(logging.Handler):
    """Hands lines of the standard library's loggers on, at their own level and place."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        frame: FrameType | None = inspect.currentframe()
        depth = 0
        while frame is not None and (depth == 0 or frame.f_code.co_filename == logging.__file__):
            frame = frame.f_back
            depth += 1
        logger.opt(depth=depth, exception=record.exc_info).log(level, record.getMessage())
