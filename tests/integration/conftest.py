"""Every integration test looks at the statements of its tenants' units of work."""

from collections.abc import Iterator

import pytest

from tests.support import tenant_statements


@pytest.fixture(autouse=True)
def tenant_is_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a statement that could reach another tenant's rows, when it is sent."""
    with tenant_statements.looked_at(monkeypatch):
        yield
