"""What callers and the reconciler do with deployments."""
