"""What the scheduler does by itself, again and again."""
