"""The registry's ports on PostgreSQL and a file system."""
