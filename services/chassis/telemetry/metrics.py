"""Prometheus metrics, declared once a process.

Owns: the one way to declare a metric, with its unit and its help. Each service's names live in its
`telemetry.py`; labels are bounded (never a tenant, a job or another id).
"""

from collections.abc import Sequence

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


def counter(name: str, *, help: str, unit: str = "", labels: Sequence[str] = ()) -> Counter:  # noqa: A002
    """Declare a counter; Prometheus shows `<name>_<unit>_total`."""
    return Counter(name, help, labels, unit=_plain(unit))


def gauge(name: str, *, help: str, unit: str = "", labels: Sequence[str] = ()) -> Gauge:  # noqa: A002
    """Declare a gauge."""
    return Gauge(name, help, labels, unit=_plain(unit))


def histogram(
    name: str,
    *,
    help: str,  # noqa: A002
    unit: str = "",
    labels: Sequence[str] = (),
    buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS,
) -> Histogram:
    """Declare a histogram, of seconds by default buckets."""
    return Histogram(name, help, labels, unit=_plain(unit), buckets=buckets)


def render_metrics() -> tuple[bytes, str]:
    """Return this process's metrics and their media type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST


def _plain(unit: str) -> str:
    # "{job}" annotates a count in OpenTelemetry's notation; it is no unit to Prometheus.
    return "" if unit.startswith("{") else unit
