"""What other services' events make the registry do."""
