"""One suite for the broker's ports: in memory, and Apache Kafka."""
