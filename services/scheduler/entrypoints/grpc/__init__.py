"""The RPCs that the scheduler answers."""
