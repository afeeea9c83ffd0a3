"""HTTP that every service has: problem documents, health, metrics."""
