"""How a trace reads in the terminal."""

from modelyard.cli.trace_view import SpanNode, TraceView


def a_span(span_id: str, parent_id: str | None, started_us: int, name: str) -> SpanNode:
    return SpanNode(span_id, parent_id, "scheduler", name, started_us, 1500, is_error=False)


def test_children_are_indented_under_their_parent_in_order_of_time() -> None:
    trace = TraceView(
        "t",
        (
            a_span("c2", "r", 3000, "second"),
            a_span("r", None, 1000, "root"),
            a_span("c1", "r", 2000, "first"),
            a_span("g", "c1", 2500, "grandchild"),
        ),
    )
    names = [line.rsplit("ms  ", 1)[1] for line in trace.lines()]
    assert names == [
        "scheduler: root",
        "  scheduler: first",
        "    scheduler: grandchild",
        "  scheduler: second",
    ]
    assert (len(trace.orphans), len(trace.roots)) == (0, 1)


def test_a_span_without_its_parent_is_an_orphan_and_still_shown() -> None:
    trace = TraceView("t", (a_span("a", None, 1, "root"), a_span("b", "lost", 2, "orphan")))
    assert [span.name for span in trace.orphans] == ["orphan"]
    assert len(list(trace.lines())) == 2
