"""What jobs of a tenant stand in line as, and what can be paused."""
