"""The registry on real PostgreSQL and real gRPC."""
