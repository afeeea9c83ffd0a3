"""The events machinery while a real broker is away."""
