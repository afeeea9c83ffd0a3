"""What a tenant does with its queues."""
