"""The collector's ports on files, PostgreSQL and Kafka."""
