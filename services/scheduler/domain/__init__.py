"""What the scheduler believes: frozen values, state tables, pure decisions."""
