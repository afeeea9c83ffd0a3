"""Tables for people, JSON for programs."""

import json
from collections.abc import Sequence
from typing import Any

import click
from modelyard.client import LogRecord
from pydantic import BaseModel


def show_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
    """Print a value as JSON."""
    if isinstance(value, BaseModel):
        click.echo(value.model_dump_json(indent=2))
    elif isinstance(value, dict):
        click.echo(json.dumps(value, indent=2))
    else:
        click.echo(json.dumps([item.model_dump(mode="json") for item in value], indent=2))


def show_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header, in columns as wide as their widest cell."""
    for line in table(header, rows):
        click.echo(line)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [
        max(len(column) for column in columns) for columns in zip(header, *cells, strict=True)
    ]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [list(header), *cells]
    ]


def one_line(text: str) -> str:
    """Return a text with what would leave its line, or move the cursor, spelt out."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def show_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print named values, one a line."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        click.echo(f"{name.ljust(width)}  {value}")


def show_record(record: LogRecord, *, is_json: bool) -> None:
    """Print one line of output where the program printed it."""
    if is_json:
        click.echo(record.model_dump_json())
    else:
        click.echo(record.text, err=record.stream == "stderr")
