"""What the scheduler does: one class a file."""
