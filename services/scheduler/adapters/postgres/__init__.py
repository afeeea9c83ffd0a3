"""The scheduler's tables and its unit of work."""
