"""What the collector does, one class a file."""
