"""The collector's RPCs."""
