"""The collector on real files, PostgreSQL, Kafka and gRPC."""
