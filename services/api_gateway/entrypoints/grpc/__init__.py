"""The RPCs that the gateway answers."""
