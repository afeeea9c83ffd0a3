"""gRPC between services: server, client, identity, deadlines, errors."""
