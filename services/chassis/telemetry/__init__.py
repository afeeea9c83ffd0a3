"""Spans, metrics and log lines."""
