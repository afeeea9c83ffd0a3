"""A trace as a tree with times, from Jaeger's query API."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class SpanNode:
    """One span; times in microseconds."""

    id: str
    parent_id: str | None
    service: str
    name: str
    started_us: int
    duration_us: int
    is_error: bool


@dataclass(frozen=True, slots=True)
class TraceView:
    """All spans of a trace."""

    id: str
    spans: tuple[SpanNode, ...]

    @property
    def services(self) -> list[str]:
        """Names of the services that took part."""
        return sorted({span.service for span in self.spans})

    @property
    def orphans(self) -> list[SpanNode]:
        """Spans whose parent is not in the trace, less the one root."""
        known = {span.id for span in self.spans}
        tops = [span for span in self.spans if span.parent_id not in known]
        return [span for span in tops if span.parent_id is not None]

    @property
    def roots(self) -> list[SpanNode]:
        """Spans without a parent."""
        return [span for span in self.spans if span.parent_id is None]

    def lines(self) -> Iterator[str]:
        """Yield the tree, one span a line: offset, duration, service, name."""
        known = {span.id for span in self.spans}
        children: dict[str | None, list[SpanNode]] = {}
        for span in sorted(self.spans, key=lambda span: span.started_us):
            parent = span.parent_id if span.parent_id in known else None
            children.setdefault(parent, []).append(span)
        start = min((span.started_us for span in self.spans), default=0)
        # An explicit stack: a trace may be deeper than Python's recursion limit.
        stack = [(span, 0) for span in reversed(children.get(None, []))]
        while stack:
            span, depth = stack.pop()
            mark = " !" if span.is_error else ""
            offset_ms = (span.started_us - start) / 1000
            yield (
                f"{offset_ms:10.1f} ms {span.duration_us / 1000:10.1f} ms  "
                f"{'  ' * depth}{span.service}: {span.name}{mark}"
            )
            stack += [(child, depth + 1) for child in reversed(children.get(span.id, []))]


def fetch_trace(jaeger_url: str, trace_id: str) -> TraceView | None:
    """Return a trace, or None where Jaeger has none of this id."""
    answer = httpx.get(f"{jaeger_url}/api/traces/{trace_id}", timeout=10)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    answer.raise_for_status()
    found = answer.json()["data"]
    return _view(found[0]) if found else None


def _view(trace: Mapping[str, Any]) -> TraceView:
    services = {key: str(p["serviceName"]) for key, p in trace["processes"].items()}
    return TraceView(
        id=trace["traceID"],
        spans=tuple(
            SpanNode(
                id=span["spanID"],
                parent_id=next(
                    (
                        str(ref["spanID"])
                        for ref in span.get("references", ())
                        if ref["refType"] == "CHILD_OF"
                    ),
                    None,
                ),
                service=services[span["processID"]],
                name=span["operationName"],
                started_us=int(span["startTime"]),
                duration_us=int(span["duration"]),
                is_error=any(
                    tag["key"] == "error" and tag["value"] in {True, "true"}
                    for tag in span.get("tags", ())
                ),
            )
            for span in trace["spans"]
        ),
    )
