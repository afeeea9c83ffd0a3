"""Nodes and their capacity."""
