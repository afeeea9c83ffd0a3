"""The registry's gRPC services."""
