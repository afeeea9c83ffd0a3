"""A database of the scheduler's, and a yard with a runner, for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from services.chassis.db.engine import open_engine
from services.chassis.settings import PostgresSettings
from tests.integration.scheduler_runner.yard import RunnerYard
from tests.support.databases import Databases


@pytest.fixture
async def yard(database_url: Databases, tmp_path: Path) -> AsyncIterator[RunnerYard]:
    url = database_url("scheduler")
    settings = PostgresSettings(url=SecretStr(url))
    async with open_engine(settings, application_name="tests") as engine:
        yard = RunnerYard(engine, url, tmp_path)
        async with yard.opened():
            yield yard
        await yard.check()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record spans for one test; the global provider can be set only once a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter
