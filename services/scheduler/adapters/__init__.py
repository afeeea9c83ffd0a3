"""The scheduler's ports on real technology."""
