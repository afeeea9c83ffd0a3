"""What the scheduler knows of tenants."""
