"""What other services' events make the collector do."""
