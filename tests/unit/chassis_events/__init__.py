"""The envelope, partitioning and the consumer's rules, without I/O."""
