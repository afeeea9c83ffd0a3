"""Event consumers of the scheduler."""
