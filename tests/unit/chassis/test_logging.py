"""What a line of the log holds."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.chassis.telemetry.logging import set_up_logging


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    set_up_logging("scheduler", level="info", stream=stream)
    yield stream
    logger.remove()
    root.handlers[:], root.level = handlers, level


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in output.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_the_fields(output: io.StringIO) -> None:
    logger.info("job admitted", job_id="job_1", waited_s=1.5, is_first=True, node=None)

    (line,) = lines(output)
    assert line["message"] == "job admitted"
    assert line["level"] == "INFO"
    assert line["service"] == "scheduler"
    assert line["source"].startswith(f"{__name__}:")
    assert (line["job_id"], line["waited_s"], line["is_first"], line["node"]) == (
        "job_1",
        1.5,
        True,
        None,
    )
    assert "trace_id" not in line


def test_a_line_inside_a_span_carries_its_ids(output: io.StringIO) -> None:
    with TracerProvider().get_tracer("tests").start_as_current_span("request") as span:
        logger.info("job admitted")

    (line,) = lines(output)
    context = span.get_span_context()
    assert line["trace_id"] == trace.format_trace_id(context.trace_id)
    assert line["span_id"] == trace.format_span_id(context.span_id)


def test_a_value_cannot_break_out_of_its_line(output: io.StringIO) -> None:
    logger.info("job admitted", name='"}\n{"level":"ERROR"} \x1b[31m \u2028')

    (line,) = lines(output)
    assert line["name"] == '"}\n{"level":"ERROR"} \x1b[31m \u2028'
    assert output.getvalue().count("\n") == 1


def test_a_field_does_not_pass_for_one_of_the_lines_own(output: io.StringIO) -> None:
    logger.info("job admitted", service="other", level="DEBUG")

    (line,) = lines(output)
    assert (line["service"], line["level"]) == ("scheduler", "INFO")
    assert (line["service_"], line["level_"]) == ("other", "DEBUG")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\udcff", b"bytes", {"a": 1}])
def test_no_value_loses_the_line(output: io.StringIO, value: object) -> None:
    logger.info("job admitted", value=value)

    (line,) = lines(output)
    assert line["value"] == str(value)
    output.getvalue().encode("ascii")


def test_a_long_value_is_cut(output: io.StringIO) -> None:
    logger.info("job admitted", name="x" * 10_000)

    assert len(lines(output)[0]["name"]) == 2_000


def test_a_failure_brings_its_traceback_without_values(output: io.StringIO) -> None:
    password = "hunter2"
    try:
        int(password[:0])
    except ValueError:
        logger.exception("call failed")

    (line,) = lines(output)
    assert "ValueError" in line["error"]
    assert "hunter2" not in line["error"]


def test_less_important_lines_are_not_written(output: io.StringIO) -> None:
    logger.debug("job considered")

    assert lines(output) == []


def test_lines_of_the_standard_library_come_from_where_they_were_written(
    output: io.StringIO,
) -> None:
    logging.getLogger("some.library").warning("pool {%s} is full", "a")

    (line,) = lines(output)
    assert line["message"] == "pool {a} is full"
    assert line["level"] == "WARNING"
    assert line["source"].startswith(f"{__name__}:")
