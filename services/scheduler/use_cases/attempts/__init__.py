"""Driving attempts: from created, over their container, to a recorded end."""
