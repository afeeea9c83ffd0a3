"""What drives the scheduler: RPCs and timed loops."""
