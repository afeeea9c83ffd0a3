"""The gateway's ports on PostgreSQL, Redis, gRPC and HTTP."""
