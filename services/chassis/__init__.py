"""What each service is built on; it knows no job, model or log."""
