"""What drives the registry: gRPC and events."""
