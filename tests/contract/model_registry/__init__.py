"""Registering what jobs leave: the same promises on a broker in memory and on Apache Kafka."""
