"""What the leader does with the queue."""
