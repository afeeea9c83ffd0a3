"""What drives the collector: questions over gRPC, and other services' events."""
