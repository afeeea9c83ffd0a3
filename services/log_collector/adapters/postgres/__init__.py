"""Log streams in PostgreSQL; their records are not in it."""
