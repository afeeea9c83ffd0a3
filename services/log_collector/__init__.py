"""Keeps what containers print: every line once, in order, longer than the container lives."""
