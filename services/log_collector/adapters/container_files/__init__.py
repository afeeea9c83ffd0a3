"""Reads what container runtimes write: Docker's json-file format, over rotations."""
